"""Admin pages of events, refusals included, and of the system's counters."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge, link, moment, shorten
from accounts.models import Organization
from mailflow import event_search
from mailflow.admin.columns import message_cell, one_line, short_moment
from mailflow.admin.filters import SinceByRowId
from mailflow.ids import is_ahead
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
    "held": "warning",
    "released": "info",
    "changed": "info",
    "cancelled": "danger",
    "suppressed": "danger",
    "bounce_received": "danger",
    "complaint": "danger",
    "dsn_sent": "info",
    "dsn_withheld": "info",
    "listed": "warning",
}

STAGES = ["connection", "greeting", "auth", "sender", "recipient", "header_from", "content", "turn", "send"]
LATEST = 2_000  # so many refusals are looked through for the names of rules
SHOWN = 500  # characters of a decision's text
_DECISION_COLUMNS = ("stage", "rule", "outcome", "reason")
_BELOW = ("saw", "reply")


class StageFilter(admin.SimpleListFilter):
    """Of refusals alone, which an index has; a fixed list, since distinct values would be looked for in all rows."""

    title = "refused at"
    parameter_name = "stage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(stage, stage.replace("_", " ").capitalize()) for stage in STAGES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(message_id="", stage=self.value()) if self.value() else queryset


class RuleFilter(admin.SimpleListFilter):
    """The rules that lately refused something, and the one that is asked for."""

    title = "refused by the rule"
    parameter_name = "rule"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        latest = Event.objects.filter(message_id="").order_by("-pk").values_list("rule", flat=True)[:LATEST]
        rules = {*latest, request.GET.get(self.parameter_name, "")} - {""}
        return [(rule, rule) for rule in sorted(rules)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(message_id="", rule=self.value()) if self.value() else queryset


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """Refusals that no message came of are found here and by `GET events`: by who, what, rule or words."""

    list_display = [
        "list_at", "kind_label", "short_summary", "short_actor", "short_message", "short_recipient",
        "short_sender", "client_address", "stage", "rule",
    ]  # fmt: skip
    list_filter = ["kind", StageFilter, RuleFilter, SinceByRowId]
    search_fields = [
        "message_id", "sender", "recipient", "rule", "summary", "reply", "client_address", "actor", "trace_id",
    ]  # fmt: skip
    search_help_text = "Sender, recipient, client address or network, rule, words, reply, actor, message or trace id"
    fields = [  # the kind as it is: a label is for lists
        "at", "kind", "stage", "rule", "summary", "reply", "sender", "recipient", "client_address",
        "actor", "organization", "message_link", "entry_id", "trace_link", "decision_table",
    ]  # fmt: skip

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        """Take a network such as 192.0.2.0/24 for the addresses in it."""
        if "/" in search_term:
            with suppress(ValueError):
                network = ipaddress.ip_network(search_term.strip(), strict=False)
                return queryset.filter(event_search.in_network(network)), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="created at", ordering="created_at")
    def at(self, event: Event) -> SafeString | str:
        return moment(event.created_at, is_simulated=is_ahead(event.created_at, event.pk))

    @admin.display(description="created at", ordering="created_at")
    def list_at(self, event: Event) -> SafeString:
        return short_moment(event.created_at, is_simulated=is_ahead(event.created_at, event.pk))

    @badge("kind", EVENT_COLOURS, ordering="kind")
    def kind_label(self, event: Event) -> tuple[str, str]:
        return event.kind, event.get_kind_display()

    @admin.display(description="what happened")
    def short_summary(self, event: Event) -> SafeString | str:
        return one_line(event.summary, 20)

    @admin.display(description="actor", ordering="actor")
    def short_actor(self, event: Event) -> SafeString | str:
        return one_line(event.actor, 7)

    @admin.display(description="recipient", ordering="recipient")
    def short_recipient(self, event: Event) -> SafeString | str:
        return one_line(event.recipient, 12)

    @admin.display(description="sender", ordering="sender")
    def short_sender(self, event: Event) -> SafeString | str:
        return one_line(event.sender, 12)

    @admin.display(description="message", ordering="message_id")
    def short_message(self, event: Event) -> SafeString | str:
        return message_cell(event.message_id)

    @admin.display(description="message", ordering="message_id")
    def message_link(self, event: Event) -> SafeString | str:
        return link("mailflow_message_change", event.message_id, text=event.message_id) if event.message_id else ""

    @admin.display(description="organization")
    def organization(self, event: Event) -> SafeString | str:
        found = Organization.objects.filter(pk=event.organization_id).first() if event.organization_id else None
        return link("accounts_organization_change", found.pk, text=found.name) if found else ""

    @admin.display(description="trace id")
    def trace_link(self, event: Event) -> SafeString | str:
        """Lead to all that came of the same connection or request."""
        if not event.trace_id:
            return ""
        query = QueryDict(mutable=True)
        query["trace_id__exact"] = event.trace_id
        address = f"{reverse('admin:mailflow_event_changelist')}?{query.urlencode()}"
        return format_html('{} <a href="{}" class="text-link">All events of it</a>', event.trace_id, address)

    @admin.display(description="decisions")
    def decision_table(self, event: Event) -> SafeString | str:
        if not event.decisions:
            return ""
        heads = format_html_join("", '<th class="px-2 py-1 text-left">{}</th>', ((name,) for name in _DECISION_COLUMNS))
        rows = format_html_join("", "<tr>{}</tr>", ((_cells(decision),) for decision in event.decisions))
        table = '<table class="text-sm w-full"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
        return format_html('<div class="overflow-x-auto">' + table + "</div>", heads, rows)


def _cells(decision: Mapping[str, str]) -> SafeString:
    """Render a row; what the stage saw and what it replied stand below the reason, for the theme's column is narrow."""
    texts = {name: shorten(str(decision.get(name, "")), SHOWN) for name in (*_DECISION_COLUMNS, *_BELOW)}
    below = format_html_join("", "<br><small>{}: {}</small>", ((name, texts[name]) for name in _BELOW if texts[name]))
    cells = [(texts[name], below if name == "reason" else "") for name in _DECISION_COLUMNS]
    return format_html_join("", '<td class="px-2 py-1 align-top break-words">{}{}</td>', cells)


@admin.register(Counter)
class CounterAdmin(ReadOnlyAdmin):
    list_display = ["name", "value"]
    search_fields = ["name"]
    ordering = ["name"]
