"""Admin pages of events, refusals included, and of the system's counters."""

from __future__ import annotations

import json

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge, link, shorten
from mailflow.admin.filters import SinceByRowId
from mailflow.models import Counter, Event

EVENT_COLOURS = {
    "accepted": "info",
    "delivered": "success",
    "forwarded": "success",
    "captured": "success",
    "deferred": "warning",
    "retry_requested": "warning",
    "refused": "danger",
    "bounced": "danger",
    "failed": "danger",
    "deleted": "danger",
    "auth_failed": "danger",
}


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """Refusals that no message came of are found here alone: by kind, address, recipient or words."""

    list_display = ["created_at", "kind_label", "recipient", "short_summary", "client_address", "actor", "message_link"]
    list_filter = ["kind", SinceByRowId]
    search_fields = ["message_id", "recipient", "summary", "reply", "client_address", "actor", "trace_id"]
    search_help_text = "Message id, recipient, words, reply, client address, actor or trace id"
    fields = [
        "created_at", "kind_label", "summary", "reply", "message_link", "entry_id", "recipient", "client_address",
        "actor", "trace_id", "decision_list",
    ]  # fmt: skip

    @badge("kind", EVENT_COLOURS, ordering="kind")
    def kind_label(self, event: Event) -> tuple[str, str]:
        return event.kind, event.get_kind_display()

    @admin.display(description="what happened")
    def short_summary(self, event: Event) -> str:
        return shorten(event.summary)

    @admin.display(description="message", ordering="message_id")
    def message_link(self, event: Event) -> SafeString | str:
        return link("mailflow_message_change", event.message_id, text=event.message_id) if event.message_id else ""

    @admin.display(description="decisions")
    def decision_list(self, event: Event) -> SafeString | str:
        if not event.decisions:
            return ""
        text = json.dumps(event.decisions, indent=2, ensure_ascii=False)
        return format_html('<pre class="overflow-x-auto text-xs">{}</pre>', text)


@admin.register(Counter)
class CounterAdmin(ReadOnlyAdmin):
    list_display = ["name", "value"]
    search_fields = ["name"]
    ordering = ["name"]
