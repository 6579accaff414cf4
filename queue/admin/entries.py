"""Admin page of the queue, with its two actions; both go through `queue.control` and leave an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge, link, shorten
from mailflow.admin.filters import SinceByRowId
from queue import control
from queue.models import Attempt, Entry
from queue.waiting import waiting_for

if TYPE_CHECKING:
    _Inline = admin.TabularInline[Any, Any]
else:
    from unfold.admin import TabularInline as _Inline

ENTRY_COLOURS = {
    "pending": "info",
    "retry": "warning",
    "delivered": "success",
    "bounced": "danger",
    "failed": "danger",
}


class AttemptInline(_Inline):
    model = Attempt
    fields = ["number", "outcome", "transport", "next_hop", "tls", "code", "reply", "started_at", "ended_at", "worker"]
    ordering = ["number"]
    extra = 0
    can_delete = False
    verbose_name_plural = "attempts"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    list_display = ["recipient", "status_label", "message_link", "tries", "next_attempt", "short_reply"]
    list_filter = ["status", SinceByRowId]
    list_select_related = ["message"]
    search_fields = ["message__id", "recipient", "domain", "last_reply", "message__subject", "message__trace_id"]
    search_help_text = "Message id, recipient, domain, last reply, subject or trace id"
    actions = ["retry_now", "remove"]
    inlines = [AttemptInline]

    def has_control_permission(self, request: HttpRequest) -> bool:
        """Acting on the queue needs the model's change permission, though nobody edits a row by hand."""
        return request.user.has_perm("queue.change_entry")

    @admin.action(description="Retry now", permissions=["control"])
    def retry_now(self, request: HttpRequest, queryset: QuerySet[Entry]) -> HttpResponse | None:
        return self._confirmed(request, queryset, "retry_now", control.retry_now, "will be attempted now")

    @admin.action(description="Remove from the queue", permissions=["control"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Entry]) -> HttpResponse | None:
        return self._confirmed(request, queryset, "remove", control.remove, "removed from the queue")

    def _confirmed(
        self,
        request: HttpRequest,
        queryset: QuerySet[Entry],
        action: str,
        act: Callable[..., int],
        done: str,
    ) -> HttpResponse | None:
        """Ask first, telling the count; on the answer act, and tell the count of what was done and what was left."""
        open_count = queryset.filter(status__in=Entry.OPEN).count()
        if request.POST.get("confirmed") == "yes":
            count = act(queryset, actor=request.user.get_username())
            words = f"{count} queue {_entries(count)} {done}."
            if count < open_count:
                words += f" {open_count - count} left alone: a worker is delivering them right now."
            self.message_user(request, words, messages.SUCCESS if count else messages.WARNING)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Retry now" if action == "retry_now" else "Remove from the queue",
            "opts": self.opts,
            "action": action,
            "open_count": open_count,
            "ended_count": queryset.count() - open_count,
            "sample": queryset.filter(status__in=Entry.OPEN).select_related("message")[:10],
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
        }
        return TemplateResponse(request, "admin/queue/entry/confirm.html", context)

    @badge("status", ENTRY_COLOURS, ordering="status")
    def status_label(self, entry: Entry) -> tuple[str, str]:
        return entry.status, entry.get_status_display()

    @admin.display(description="message", ordering="message_id")
    def message_link(self, entry: Entry) -> SafeString:
        text = shorten(entry.message.subject, 32) or entry.message_id
        return link("mailflow_message_change", entry.message_id, text=text)

    @admin.display(description="attempts", ordering="attempts")
    def tries(self, entry: Entry) -> str:
        return f"{entry.attempts} of {entry.max_attempts}"

    @admin.display(description="next attempt", ordering="next_attempt_at")
    def next_attempt(self, entry: Entry) -> SafeString | str:
        words = waiting_for(entry, timezone.now())
        if not words or entry.next_attempt_at is None:
            return ""
        return format_html(
            "{}<br><small>waits for {}</small>", date_format(entry.next_attempt_at, "DATETIME_FORMAT"), words
        )

    @admin.display(description="last reply")
    def short_reply(self, entry: Entry) -> str:
        return shorten(entry.last_reply, 60)


def _entries(count: int) -> str:
    return "entry" if count == 1 else "entries"
