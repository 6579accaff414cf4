"""Admin page of attempts: where each went and what came back, captured ones included."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge
from mailflow.admin.columns import message_cell, one_line, short_moment
from mailflow.admin.filters import SinceByRowId
from mailflow.ids import is_ahead
from queue.models import Attempt


class TransportFilter(admin.SimpleListFilter):
    """A fixed list: asking the table for its distinct values would read all of it."""

    title = "transport"
    parameter_name = "transport"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("smtp", "SMTP"),
            ("odmr", "ODMR: fetched by its host"),
            ("local", "Local mailbox"),
            ("sandbox", "Captured by the sandbox"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(transport=self.value()) if self.value() else queryset


class TlsPolicyFilter(admin.SimpleListFilter):
    """The rule that TLS was to obey; a fixed list, as above."""

    title = "TLS policy"
    parameter_name = "tls_policy"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rules = [
            "opportunistic",
            "dane",
            "dane-unusable",
            "mta-sts",
            "mta-sts-testing",
            "requiretls",
            "required",
            "implicit",
            "never",
        ]
        return [(rule, rule) for rule in rules]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(tls_policy=self.value()) if self.value() else queryset


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = [
        "recipient", "number", "outcome_label", "code", "short_reply", "at", "short_message", "next_hop", "tls_label",
        "transport",
    ]  # fmt: skip
    list_filter = ["outcome", TransportFilter, TlsPolicyFilter, SinceByRowId]
    list_select_related = ["entry"]
    search_fields = ["entry__message__id", "entry__recipient", "next_hop", "reply", "worker"]
    search_help_text = "Message id, recipient, next hop, reply or worker"

    @admin.display(description="recipient", ordering="entry__recipient")
    def recipient(self, attempt: Attempt) -> SafeString | str:
        return one_line(attempt.entry.recipient, 11)

    @badge("outcome", {"delivered": "success", "deferred": "warning", "failed": "danger"}, ordering="outcome")
    def outcome_label(self, attempt: Attempt) -> tuple[str, str]:
        return attempt.outcome, attempt.get_outcome_display()

    @admin.display(description="ended at", ordering="ended_at")
    def at(self, attempt: Attempt) -> SafeString:
        return short_moment(attempt.ended_at, is_simulated=is_ahead(attempt.ended_at, attempt.pk))

    @badge("TLS", {"verified": "success", "encrypted": "info", "clear": "warning", "none": "info"})
    def tls_label(self, attempt: Attempt) -> tuple[str, str]:
        if not attempt.tls_policy:
            return "none", "–"
        state = "verified" if attempt.is_verified else "encrypted" if attempt.tls else "clear"
        return state, attempt.tls_policy if attempt.tls else f"{attempt.tls_policy}, in clear"

    @admin.display(description="reply")
    def short_reply(self, attempt: Attempt) -> SafeString | str:
        return one_line(attempt.reply, 17)

    @admin.display(description="message")
    def short_message(self, attempt: Attempt) -> SafeString | str:
        return message_cell(attempt.entry.message_id)
