"""The filters of the queue's list; each is a condition of `queue.selection`, so that what is shown can be acted on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ERROR_FLAG, IGNORED_PARAMS, ORDER_VAR, PAGE_VAR, SEARCH_VAR
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from mailflow.admin.filters import SinceByRowId
from queue import selection
from queue.models import Entry
from queue.selection import InvalidSelection, Selection

LATEST = 500  # entries of each kind that are looked through for the names of domains
NAMED = 12
EVERYTHING = "all"
_SPANS = {"1h": "1h", "24h": "1d", "7d": "7d", "30d": "30d"}
_OF_MESSAGE = "message__id__exact"  # Django has it without a filter of ours
_NO_FILTERS = {*IGNORED_PARAMS, ERROR_FLAG, ORDER_VAR, PAGE_VAR} - {SEARCH_VAR}


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

    @staticmethod
    def conditions(value: str) -> Mapping[str, str]:
        return {} if value == EVERYTHING else {"status": value}


class _SelectionFilter(admin.SimpleListFilter):
    """A flag, by the condition of the same name."""

    @classmethod
    def conditions(cls, value: str) -> Mapping[str, str]:
        return {str(cls.parameter_name): value}

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


class WaitsInSandbox(admin.SimpleListFilter):
    """What the sandbox's clock moves, by an index of its own: an open entry that is not held has a next attempt."""

    title = "sandbox"
    parameter_name = "sandbox"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waits by the sandbox's clock")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        waiting = queryset.filter(is_sandbox=True, next_attempt_at__isnull=False, held_at__isnull=True)
        return waiting if self.value() else queryset

    @staticmethod
    def conditions(value: str) -> Mapping[str, str]:
        return {"sandbox": "true", "held": "false"}


class AcceptedSince(SinceByRowId):
    @staticmethod
    def conditions(value: str) -> Mapping[str, str]:
        return {"newer_than": _SPANS[value]} if value in _SPANS else {}  # the list, too, passes over what it has not


FILTERS: list[Any] = [StatusFilter, HeldFilter, ScheduledFilter, WaitsInSandbox, DomainFilter, AcceptedSince]


def selection_of(request: HttpRequest) -> Selection | None:
    """Return the selection that the list shows; None where it shows what no condition says, such as delivered mail.

    So it does for a filter that is none of ours: to act on more than is shown is the one thing that must not be.
    """
    known = {one.parameter_name: one for one in FILTERS}
    given: dict[str, str] = {}
    for name in request.GET:
        value = str(request.GET[name])
        if not value or name in _NO_FILTERS:
            continue
        if name in known:
            found = known[name].conditions(value)
        elif name == SEARCH_VAR:
            found = {"search": value.strip()} if value.strip() else {}
        elif name == _OF_MESSAGE:
            found = {"message": value}
        else:
            return None
        if any(given.get(one, its) != its for one, its in found.items()):
            return None
        given |= found
    try:
        return selection.parse(given, timezone.now())
    except InvalidSelection:
        return None


def _names_a_message(request: HttpRequest) -> bool:
    """A search for a message id finds what has ended, too."""
    return request.GET.get("q", "").strip().startswith("msg_")
