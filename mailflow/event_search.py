"""Find events by who, what, rule and time, and read them in pages; for the API and the admin.

Searches among refusals (`Wanted.refusals`) that name who or what are answered by an index; every other search reads
the table in the order of time, `SCANNED_ROWS` rows for a page at most. So a page may hold fewer events than were
asked for although more follow, and no search takes longer the more events there are.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.db import connection
from django.db.models import BigIntegerField, ExpressionWrapper, F, Q, QuerySet, Value
from django.db.models.functions import Lower
from django.utils import timezone

from mailflow.events import client_key
from mailflow.ids import first_row_id
from mailflow.models import Event

SCANNED_ROWS = 100_000
HOLD_BACK = dt.timedelta(seconds=2)  # what clocks of machines may differ by, and two processes within a millisecond
_WRITTEN_LATE = dt.timedelta(hours=1)  # an event of an attempt is written after it, hours later in the worst case

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is searched for; what is empty does not matter. Addresses and actors match whole, whatever their case.

    `refusals`: what was refused and became no message.
    """

    kinds: Collection[str] = ()
    refusals: bool = False
    stage: str = ""
    rule: str = ""
    sender: str = ""
    recipient: str = ""
    network: Network | None = None
    actor: str = ""
    trace_id: str = ""
    message_id: str = ""
    words: Sequence[str] = ()
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    @property
    def among_refusals(self) -> bool:
        """Whether only events of no message are searched; a refused one may belong to one, so its kind says nothing."""
        return self.refusals or set(self.kinds) == {Event.Kind.AUTH_FAILED}

    @property
    def is_indexed(self) -> bool:
        """Whether an index leads to the events, so that nothing else is read on the way to them."""
        who_or_what = (self.rule, self.sender, self.recipient, self.network, self.actor, self.trace_id)
        return bool(self.message_id) or (self.among_refusals and any(who_or_what))


@dataclass(frozen=True, slots=True)
class Visible:
    """Which events a caller may see. `is_all`: every one; `is_indexed`: an index leads to them."""

    condition: Q
    is_all: bool = False
    is_indexed: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """`next_id` is where the next page begins; `has_more` is false where nothing follows just now."""

    events: Sequence[Event]
    next_id: int
    has_more: bool


def newest(visible: Visible, wanted: Wanted, *, limit: int, before: int | None = None) -> Page:
    """Return the latest events of an id below `before`, the newest first; at most two queries."""
    events = _in_time(_of_kinds(Event.objects.all(), wanted), wanted).order_by("-id")
    if before is not None:
        events = events.filter(id__lt=before)
    last = None if _is_quick(visible, wanted) else _id_at(events, SCANNED_ROWS - 1)
    found = _narrowed(events.filter(visible.condition), wanted)
    if last is not None:
        found = found.filter(id__gte=last)
    return _page(found, limit, last, end=0)


def after(visible: Visible, wanted: Wanted, *, limit: int, after: int) -> Page:
    """Return the events that follow the id `after`, the oldest first; at most three queries.

    Who comes again with `next_id` misses none and gets none twice: the page ends before what may still be in the
    making (`_settled`).
    """
    end = max(_settled(), after + 1)
    events = _in_time(_of_kinds(Event.objects.all(), wanted), wanted).order_by("id").filter(id__gt=after)
    # As an expression: SQLite takes ids between two bounds for few, and would read them rather than the right index.
    events = events.alias(any_id=ExpressionWrapper(F("id") + 0, BigIntegerField())).filter(any_id__lt=end)
    last = None if _is_quick(visible, wanted) else _id_at(events, SCANNED_ROWS - 1)
    found = _narrowed(events.filter(visible.condition), wanted)
    if last is not None:
        found = found.filter(id__lte=last)
    return _page(found, limit, last, end=end - 1)


def _page(found: QuerySet[Event], limit: int, last: int | None, *, end: int) -> Page:
    """Return the page of what was found up to the id `last`, beyond which nobody has looked yet, or up to the `end`."""
    rows = list(found[: limit + 1])
    if len(rows) > limit:
        return Page(rows[:limit], rows[limit - 1].pk, has_more=True)
    return Page(rows, end if last is None else last, has_more=last is not None)


def _is_quick(visible: Visible, wanted: Wanted) -> bool:
    """Whether a page is full, or all there is, without reading many rows that are not on it."""
    if visible.is_indexed or wanted.is_indexed:
        return True
    who_or_what = (wanted.stage, wanted.rule, wanted.sender, wanted.recipient, wanted.network, wanted.actor)
    return visible.is_all and not any((*who_or_what, wanted.trace_id, wanted.words, len(wanted.kinds) > 1))


def _of_kinds(events: QuerySet[Event], wanted: Wanted) -> QuerySet[Event]:
    """Take the kinds, or all refusals: what the indexes have in the order of time."""
    if wanted.message_id:
        return events.filter(message_id=wanted.message_id).exclude(message_id="")  # as its partial index has it
    if wanted.among_refusals:
        events = events.filter(message_id="")
    elif len(wanted.kinds) == 1:
        events = events.filter(kind__in=wanted.kinds)
    return events


def _in_time(events: QuerySet[Event], wanted: Wanted) -> QuerySet[Event]:
    """Take the span of time, by the ids too, which have the time of writing in them."""
    if wanted.since is not None:
        events = events.filter(created_at__gte=wanted.since, id__gte=first_row_id(wanted.since))
    if wanted.until is not None:
        events = events.filter(created_at__lte=wanted.until)
        if wanted.until < timezone.now():
            events = events.filter(id__lt=first_row_id(wanted.until + _WRITTEN_LATE))
    return events


def _narrowed(events: QuerySet[Event], wanted: Wanted) -> QuerySet[Event]:
    if wanted.refusals:
        events = of_any_kind(events, Event.REFUSALS)
    if wanted.kinds:
        events = of_any_kind(events, wanted.kinds)
    for name in ("stage", "rule", "trace_id"):
        if value := getattr(wanted, name):
            events = events.filter(**{name: value})
    for name in ("sender", "recipient", "actor"):
        if value := getattr(wanted, name):
            events = lower_is(events, name, value)
    if wanted.network is not None:
        events = events.filter(in_network(wanted.network))
    for word in wanted.words:
        events = events.filter(Q(summary__icontains=word) | Q(reply__icontains=word))
    return events


def lower_is(events: QuerySet[Event], name: str, value: str) -> QuerySet[Event]:
    """Match a column whatever its case, as the indexes have it."""
    return events.alias(**{f"{name}_lower": Lower(name)}).filter(**{f"{name}_lower": Lower(Value(value))})


def in_network(network: Network) -> Q:
    first, last = client_key(str(network.network_address)), client_key(str(network.broadcast_address))
    return Q(client_key=first) if first == last else Q(client_key__gte=first, client_key__lte=last)


def of_any_kind(events: QuerySet[Event], kinds: Collection[str]) -> QuerySet[Event]:
    """Match by an expression that no index has: the one on `kind` would be read whole and sorted for several kinds."""
    return events.alias(any_kind=Lower(F("kind"))).filter(any_kind__in=kinds)


def _id_at(events: QuerySet[Event], position: int) -> int | None:
    return events.values_list("id", flat=True)[position : position + 1].first()


def _settled() -> int:
    """Return the id below which no event will appear any more.

    Ids are made inside the transaction that writes the event (`mailflow.events.record`). SQLite has one such at a time,
    which gets its ids after the lock; on PostgreSQL the oldest transaction that has written may still bring one.
    """
    at = timezone.now()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT min(xact_start) FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
            )
            oldest = cursor.fetchone()[0]
        at = min(at, oldest) if oldest else at
    return first_row_id(at - HOLD_BACK)
