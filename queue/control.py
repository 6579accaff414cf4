"""What people do to the queue: ask for an attempt now, or take entries out (contract §3).

An entry that a worker is delivering right now is left alone by both: its end is already on the way. An expired lease
counts as none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from functools import partial

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from mailflow import events, handoff
from mailflow.models import Event
from queue import message_status
from queue.models import Entry

_BATCH = 500  # entries a transaction: none holds SQLite's one write lock for long


def retry_now(entries: QuerySet[Entry], *, actor: str) -> int:
    """Make the open entries due at once, each with its event, and wake the workers; return how many.

    `actor` is who asked, in words. A large selection is committed batch by batch; calling it again does no harm.
    """
    count = 0
    for ids in _batches(entries):
        with transaction.atomic():
            now = timezone.now()
            free = _lock_free(ids, now)
            free_ids = [entry.pk for entry in free]
            Entry.objects.filter(pk__in=free_ids).update(next_attempt_at=now, retry_at=None, lease="")
            _record(free, Event.Kind.RETRY_REQUESTED, f"{actor} asked for an attempt now.", actor)
            if free_ids:
                transaction.on_commit(partial(handoff.current().ring, free_ids))
        count += len(free_ids)
    return count


def remove(entries: QuerySet[Entry], *, actor: str) -> int:
    """End the open entries as failed, each with its event, and tell their messages' status anew; return how many.

    Nobody is sent a report. `actor` and batches as in `retry_now`.
    """
    words = f"Removed from the queue by {actor}."
    count = 0
    for ids in _batches(entries):
        with transaction.atomic():
            now = timezone.now()
            free = _lock_free(ids, now)
            Entry.objects.filter(pk__in=[entry.pk for entry in free]).update(
                status=Entry.Status.FAILED,
                next_attempt_at=None,
                retry_at=None,
                lease="",
                finished_at=now,
                last_reply=events.clean_text(words),
            )
            _record(free, Event.Kind.DELETED, words, actor)
            message_status.refresh({entry.message_id for entry in free})
        count += len(free)
    return count


def _batches(entries: QuerySet[Entry]) -> Iterator[list[int]]:
    ids = list(entries.filter(status__in=Entry.OPEN).order_by().values_list("pk", flat=True))
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]


def _lock_free(ids: list[int], now: dt.datetime) -> list[Entry]:
    """Return those of the entries that are open and in nobody's hands, locked until the transaction ends.

    Rows that somebody else has locked are in somebody's hands (SKIP LOCKED), so this never waits for a worker.
    """
    in_hands = ~Q(lease="") & Q(next_attempt_at__gt=now)
    return list(
        Entry.objects.filter(~in_hands, pk__in=ids, status__in=Entry.OPEN)
        .order_by("pk")
        .select_related("message")
        .only("message", "recipient", "message__trace_id")
        .select_for_update(of=("self",), skip_locked=True, no_key=True)
    )


def _record(entries: list[Entry], kind: Event.Kind, summary: str, actor: str) -> None:
    events.record(
        events.NewEvent(
            kind=kind.value,
            summary=summary,
            message_id=entry.message_id,
            entry_id=entry.pk,
            recipient=entry.recipient,
            actor=actor,
            trace_id=entry.message.trace_id,
        )
        for entry in entries
    )
