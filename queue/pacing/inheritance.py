"""Takes over at once what workers of this machine had when they were killed (docs/adr/0014).

Without it their entries and their connections are nobody's until their leases end. What cannot be seen from here, as a
worker of another machine, keeps its lease.
"""

from __future__ import annotations

import datetime as dt

import structlog
from django.db import transaction

from mailflow import events
from mailflow.models import Event
from queue import claim
from queue.models import Entry, Slots, Worker
from queue.pacing import heartbeat, process_mark

logger = structlog.get_logger(__name__)

BATCH = 500


def take_over(now: dt.datetime, lease: dt.timedelta) -> int:
    """Make due what the dead had under lease, and free their slots; return how many entries it were.

    Their rows stay as those of workers whose lease is over, for people to see.
    """
    entries = 0
    for name, mark in heartbeat.alive(now, lease).values_list("name", "mark"):
        if process_mark.has_ended(mark):
            freed = _free(name, now, lease)
            logger.warning("queue.worker_was_killed", worker=name, entries=freed)
            entries += freed
    return entries


def _free(worker: str, now: dt.datetime, lease: dt.timedelta) -> int:
    """The row is written last: whoever is killed in the middle leaves the rest to the next."""
    # By the index of what is due when: a search for the name alone would go through the whole queue.
    leased = Entry.objects.filter(
        status__in=Entry.OPEN, next_attempt_at__gt=now, next_attempt_at__lte=now + 2 * lease, lease=worker
    )
    rows = list(leased.values_list("pk", "message_id", "message__trace_id", "recipient"))
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        with transaction.atomic():
            claim.give_back(worker, [pk for pk, *_ in batch], now=now, was_lost=True)
            events.record(_told(worker, *row) for row in batch)
    Slots.objects.filter(worker=worker).delete()
    Worker.objects.filter(pk=worker).update(leased_until=now)
    return len(rows)


def _told(worker: str, entry_id: int, message_id: str, trace_id: str, recipient: str) -> events.NewEvent:
    """Say why the mail goes on here, and why it may come twice: nobody knows how far the dead one was."""
    return events.NewEvent(
        kind=Event.Kind.CHANGED.value,
        summary=f"{recipient}: the worker that had it was killed. It goes on at once; if its delivery was under way, it"
        " may arrive twice.",
        rule="queue.worker_killed",
        message_id=message_id,
        entry_id=entry_id,
        recipient=recipient,
        actor=worker,
        trace_id=trace_id,
    )
