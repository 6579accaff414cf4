"""Admin page of attempts: where each went and what came back, captured ones included."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge, link, shorten
from mailflow.admin.filters import SinceByRowId
from queue.models import Attempt


class TransportFilter(admin.SimpleListFilter):
    """A fixed list: asking the table for its distinct values would read all of it."""

    title = "transport"
    parameter_name = "transport"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("smtp", "SMTP"), ("local", "Local mailbox"), ("sandbox", "Captured by the sandbox")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(transport=self.value()) if self.value() else queryset


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = [
        "recipient", "number", "outcome_label", "transport", "next_hop", "code", "short_reply", "ended_at",
        "message_link",
    ]  # fmt: skip
    list_filter = ["outcome", TransportFilter, SinceByRowId]
    list_select_related = ["entry"]
    search_fields = ["entry__message__id", "entry__recipient", "next_hop", "reply", "worker"]
    search_help_text = "Message id, recipient, next hop, reply or worker"

    @admin.display(description="recipient", ordering="entry__recipient")
    def recipient(self, attempt: Attempt) -> str:
        return attempt.entry.recipient

    @badge("outcome", {"delivered": "success", "deferred": "warning", "failed": "danger"}, ordering="outcome")
    def outcome_label(self, attempt: Attempt) -> tuple[str, str]:
        return attempt.outcome, attempt.get_outcome_display()

    @admin.display(description="reply")
    def short_reply(self, attempt: Attempt) -> str:
        return shorten(attempt.reply, 60)

    @admin.display(description="message")
    def message_link(self, attempt: Attempt) -> SafeString:
        message_id = attempt.entry.message_id
        return link("mailflow_message_change", message_id, text=message_id)
