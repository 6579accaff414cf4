"""Scheduled mail, until it leaves: cancelled, or put at another time, by its sender or by staff."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import partial

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from accounts.models import TrailEntry
from mailflow import handoff
from mailflow.models import Event, Message
from mailflow.scheduled import MAX_AHEAD, TOO_FAR
from queue.control.endings import end
from queue.control.rows import ids_of, lock, record, set_times
from queue.models import Entry
from queue.moments import InvalidMoment, parse_moment
from queue.schedule import RESCHEDULED
from queue.simulation.clock import REAL_TIME


class NotScheduled(Exception):
    """There is nothing of the message that could still be cancelled or moved; the text says why, as a sentence."""


def parse_time_to_send(text: str, now: dt.datetime) -> dt.datetime:
    """Return a time from now on; raises `InvalidMoment`."""
    at = parse_moment(text, now)
    if at < now - dt.timedelta(seconds=1):
        raise InvalidMoment("the time has passed; now means at once")
    if at > now + MAX_AHEAD:
        raise InvalidMoment(TOO_FAR[:1].lower() + TOO_FAR[1:].rstrip("."))
    return at


def cancel(message: Message, *, actor: str, now: dt.datetime, client_address: str = "") -> int:
    """End what has not left as failed, without a report; return how many recipients that were."""
    with transaction.atomic():
        entries, _ = _not_begun(message, now)
        words = f"Cancelled by {actor}."
        end(entries, Entry.Status.FAILED, words, now)
        record(entries, Event.Kind.CANCELLED, words, actor)
        _leave_trail("queue.cancel", message, len(entries), "Cancelled", actor, client_address)
    return len(entries)


def reschedule(message: Message, at: dt.datetime, *, actor: str, now: dt.datetime, client_address: str = "") -> int:
    """Put what has not left at another time, or at now; the time allowed for attempts begins then. Returns how many.

    Mail of the sandbox waits by its clock, and keeps the time as it was given, as at its sending (`queue.enqueue`).
    """
    with transaction.atomic():
        entries, ahead = _not_begun(message, now)
        max_age = dt.timedelta(seconds=settings.QUEUE_MAX_AGE_SECONDS)
        for shift, those in _by_clock(entries, ahead):
            its = at + shift
            Entry.objects.filter(pk__in=ids_of(those)).update(scheduled_at=at, expires_at=its + max_age)
            set_times([(one.pk, None, its) if one.held_at is not None else (one.pk, its, None) for one in those])
        words = f"Scheduled for {at:%Y-%m-%d %H:%M:%S} UTC"
        record(entries, Event.Kind.CHANGED, f"{words} by {actor}.", actor, RESCHEDULED)
        _leave_trail("queue.reschedule", message, len(entries), words, actor, client_address)
        if at <= now:
            transaction.on_commit(
                partial(handoff.current().ring, ids_of(entry for entry in entries if entry.held_at is None))
            )
    return len(entries)


def _leave_trail(kind: str, message: Message, count: int, done: str, actor: str, client_address: str) -> None:
    """Leave one line in the trail, in the transaction of the change."""
    TrailEntry.objects.create(
        kind=kind,
        actor=actor[:254],
        subject=f"message {message.pk}",
        client_address=client_address,
        detail=f"{done}, for {count:,} recipient{'s' if count != 1 else ''}.",
    )


def _by_clock(entries: Sequence[Entry], ahead: dt.timedelta) -> list[tuple[dt.timedelta, list[Entry]]]:
    of_sandbox = [entry for entry in entries if entry.is_sandbox]
    return [(ahead, of_sandbox), (REAL_TIME, [entry for entry in entries if not entry.is_sandbox])]


def _not_begun(message: Message, now: dt.datetime) -> tuple[Sequence[Entry], dt.timedelta]:
    """Lock the scheduled entries that no attempt was begun for; return them, and how far the clock is ahead.

    Raises `NotScheduled`.
    """
    rows = list(Entry.objects.filter(message=message).values_list("pk", "status", "scheduled_at", "attempts"))
    scheduled = [pk for pk, status, at, attempts in rows if status in Entry.OPEN and at is not None and not attempts]
    if not scheduled:
        raise NotScheduled(_why_not(rows))
    locked = lock(scheduled, now, Q())
    found = [entry for entry in locked.free if not entry.attempts]
    if not found:
        raise NotScheduled("A worker has it: its time has come.")
    return found, locked.ahead


def _why_not(rows: Sequence[tuple[int, str, dt.datetime | None, int]]) -> str:
    if not any(status in Entry.OPEN for _, status, _, _ in rows):
        return "It has ended: each of its recipients has got it, or will not."
    if all(at is None for _, _, at, _ in rows):
        return "It was not scheduled: it is on its way."
    return "It has left: an attempt was made at the scheduled time."
