"""Lock queue entries for a change, and write down what was done to them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db import connection
from django.db.models import Q

from mailflow import events
from mailflow.models import Event
from queue.control.left import Left
from queue.models import Entry
from queue.simulation import clock
from queue.simulation.clock import REAL_TIME

MARK_BEGINS = "(action "  # as nobody's name does


@dataclass(frozen=True, slots=True)
class Locked:
    """One batch: `free` are open and in nobody's hands, `leased` are a worker's; both locked, in the order of ids.

    `out_of_reach` counts rows that somebody else has locked at this moment, `ended` those that are open no more, or are
    not what was meant any more. `ahead`: how far the sandbox's clock is ahead of real time, by which its entries wait.
    """

    free: Sequence[Entry]
    leased: Sequence[Entry]
    out_of_reach: int
    ended: int
    ahead: dt.timedelta = REAL_TIME

    def shift(self, entry: Entry) -> dt.timedelta:
        """Return what is to be added to a real time for it to mean the same for the entry."""
        return self.ahead if entry.is_sandbox else REAL_TIME


def lock(ids: Sequence[int], now: dt.datetime, condition: Q, *, waits: bool = False) -> Locked:
    """Lock the entries that are open and meet the condition until the transaction ends.

    It waits for nobody who has some of them locked, unless it `waits`.
    """
    meant = Entry.objects.filter(condition, pk__in=ids, status__in=Entry.OPEN)
    # Before any entry is locked, as whoever moves the clock does.
    ahead = clock.held_ahead() if meant.filter(is_sandbox=True).exists() else REAL_TIME
    rows = list(
        meant.order_by("pk")
        .select_related("message")
        .only(*_COLUMNS)
        .select_for_update(of=("self",), skip_locked=not waits, no_key=True)
    )
    missing = len(ids) - len(rows)
    out_of_reach = 0
    if missing and not waits and connection.features.has_select_for_update_skip_locked:
        out_of_reach = max(0, meant.count() - len(rows))
    return Locked(
        free=[entry for entry in rows if not is_in_hands(entry, now)],
        leased=[entry for entry in rows if is_in_hands(entry, now)],
        out_of_reach=out_of_reach,
        ended=missing - out_of_reach,
        ahead=ahead,
    )


_COLUMNS = (
    "message", "recipient", "status", "attempts", "max_attempts", "expires_at", "next_attempt_at", "retry_at", "lease",
    "held_at", "hold_reason", "scheduled_at", "route", "last_reply", "domain", "is_sandbox", "message__trace_id",
)  # fmt: skip


def is_in_hands(entry: Entry, now: dt.datetime) -> bool:
    """Whether a worker has it; a lease that ran out counts as none."""
    return bool(entry.lease) and entry.next_attempt_at is not None and entry.next_attempt_at > now


def is_scheduled(entry: Entry, now: dt.datetime, shift: dt.timedelta = REAL_TIME) -> bool:
    """Whether it waits for the time that its sender chose, by its own clock where that is ahead."""
    if entry.scheduled_at is None or entry.attempts:
        return False
    at = (entry.retry_at or entry.next_attempt_at or entry.scheduled_at) if shift else entry.scheduled_at
    return at > now + shift


def is_marked(entry: Entry) -> bool:
    """Whether it is held for no person, but until an action gets it back from its worker (`queue.control.marks`)."""
    return entry.held_at is not None and entry.hold_reason.startswith(MARK_BEGINS)


def left_at(leased: Iterable[Entry]) -> Counter[str]:
    """Count what a worker has and cannot be had back; what a person holds is given back without being asked for."""
    return Counter((Left.IN_HANDS if entry.held_at is None else Left.UNDER_WAY).value for entry in leased)


def ids_of(entries: Iterable[Entry]) -> list[int]:
    return [entry.pk for entry in entries]


def record(entries: Iterable[Entry], kind: Event.Kind, summary: str, actor: str, rule: str = "") -> None:
    """Leave each entry its event, in the transaction of the change."""
    events.record(
        events.NewEvent(
            kind=kind.value,
            summary=summary,
            message_id=entry.message_id,
            entry_id=entry.pk,
            recipient=entry.recipient,
            actor=actor,
            rule=rule,
            trace_id=entry.message.trace_id,
        )
        for entry in entries
    )


def set_times(rows: Sequence[tuple[int, dt.datetime | None, dt.datetime | None]]) -> None:
    """Set `next_attempt_at` and `retry_at` of entries that are locked; the lease of a dead worker goes."""
    adapt = connection.ops.adapt_datetimefield_value
    table = connection.ops.quote_name(Entry._meta.db_table)
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(
                f"UPDATE {table} SET next_attempt_at = %s, retry_at = %s, lease = '' WHERE id = %s",  # noqa: S608
                [(adapt(due) if due else None, adapt(retry) if retry else None, pk) for pk, due, retry in rows],
            )
