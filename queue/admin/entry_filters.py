"""The filters of the queue's list; each is a condition of `queue.selection`, so that what is shown can be acted on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from queue import selection
from queue.models import Entry
from queue.selection import InvalidSelection, Selection

LATEST = 500  # entries of each kind that are looked through for the names of domains
NAMED = 12
EVERYTHING = "all"
_SPANS = {"1h": "1h", "24h": "1d", "7d": "7d", "30d": "30d"}


class StatusFilter(admin.SimpleListFilter):
    """What waits, unless something else is asked for: that is the queue."""

    title = "status"
    parameter_name = "status__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*Entry.Status.choices, (EVERYTHING, "All")]

    def choices(self, changelist: Any) -> Any:
        first, *others = super().choices(changelist)
        yield {**first, "display": "In the queue"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset if _names_a_message(request) else queryset.filter(Entry.IS_OPEN)
        if value == EVERYTHING:
            return queryset
        found = queryset.filter(status=value)
        return found if value == Entry.Status.DELIVERED else found.filter(Entry.IS_LISTED)


class _SelectionFilter(admin.SimpleListFilter):
    """A flag, by the condition of the same name."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        try:
            chosen = selection.parse({str(self.parameter_name): value}, timezone.now())
        except InvalidSelection:
            return queryset.none()
        return queryset.filter(Entry.IS_OPEN, chosen.condition)


class HeldFilter(_SelectionFilter):
    title = "hold"
    parameter_name = "held"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("true", "On hold"), ("false", "Not on hold")]


class ScheduledFilter(_SelectionFilter):
    title = "schedule"
    parameter_name = "scheduled"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("true", "Scheduled by its sender"), ("false", "Not scheduled")]


class DomainFilter(_SelectionFilter):
    """The domains that are most frequent among the latest entries, and the one that is asked for."""

    title = "domain"
    parameter_name = "domain"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        seen: Counter[str] = Counter()
        for status in Entry.OPEN:  # an index has each in this order
            latest = Entry.objects.filter(Entry.IS_LISTED, status=status).order_by("-message_id", "-id")
            seen.update(latest.values_list("domain", flat=True)[:LATEST])
        names = {name for name, _ in seen.most_common(NAMED)} | {request.GET.get("domain", "")}
        return [(name, name) for name in sorted(names - {""})]


def selection_of(request: HttpRequest) -> Selection | None:
    """Return the selection that the list shows; None where it shows what no condition says, such as delivered mail."""
    given: dict[str, Any] = {
        name: request.GET[name] for name in ("held", "scheduled", "domain") if request.GET.get(name)
    }
    if status := request.GET.get("status__exact"):
        given["status"] = status
    if words := request.GET.get("q", "").strip():
        given["search"] = words
    if since := request.GET.get("since"):
        given["newer_than"] = _SPANS.get(since, since)
    if given.get("status") == EVERYTHING:
        del given["status"]
    try:
        return selection.parse(given, timezone.now())
    except InvalidSelection:
        return None


def _names_a_message(request: HttpRequest) -> bool:
    """A search for a message id finds what has ended, too."""
    return request.GET.get("q", "").strip().startswith("msg_")


class WaitsInSandbox(admin.SimpleListFilter):
    """What the sandbox's clock moves, by an index of its own."""

    title = "sandbox"
    parameter_name = "sandbox"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waits by the sandbox's clock")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(is_sandbox=True, next_attempt_at__isnull=False) if self.value() else queryset
