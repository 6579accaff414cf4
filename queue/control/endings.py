"""What ends an entry: fail, with a report to the sender or without one, and delete."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Sequence

from django.db.models import Max
from django.utils import timezone

from mailflow import content
from mailflow.events import clean_text
from mailflow.models import Event, Message
from queue import claim, message_status, report, webhook_notices
from queue.control.changes import Done
from queue.control.orders import Order
from queue.control.rows import Locked, ids_of, left_at, record
from queue.dsn_facts import Action as DsnAction
from queue.models import Attempt, Entry
from queue.outcome import failed
from queue.report import Case
from queue.webhook_notices import Ended

GIVEN_UP = "The administrator of this mail system gave the message up"  # who, is for the events alone


def delete(order: Order, locked: Locked, left: Counter[str], now: dt.datetime) -> Done:
    words = f"Removed from the queue {order.by}."
    end(locked.free, Entry.Status.FAILED, words, now)
    left.update(left_at(locked.leased))
    record(locked.free, Event.Kind.DELETED, words, order.actor)
    return len(locked.free), []


def fail(order: Order, locked: Locked, left: Counter[str], now: dt.datetime) -> Done:
    """Give up: with a report as a bounce, by the same way as after an attempt; without one as failed."""
    left.update(left_at(locked.leased))
    words = f"Given up {order.by}."
    if not order.dsn:
        end(locked.free, Entry.Status.FAILED, words, now)
        record(locked.free, Event.Kind.FAILED, f"{words} The sender gets no report.", order.actor)
        return len(locked.free), []
    end(locked.free, Entry.Status.BOUNCED, words, now)
    record(locked.free, Event.Kind.BOUNCED, words, order.actor)
    # The report's event is dated behind those of what it tells of, which were written just now.
    return len(locked.free), _report(order, locked.free, timezone.now())


def end(entries: Sequence[Entry], status: Entry.Status, words: str, now: dt.datetime) -> None:
    """End locked entries in the caller's transaction, and tell their messages' status anew."""
    Entry.objects.filter(pk__in=ids_of(entries)).update(
        status=status,
        next_attempt_at=None,
        retry_at=None,
        lease="",
        held_at=None,
        hold_reason="",
        finished_at=now,
        last_reply=clean_text(words),
    )
    webhook_notices.tell([Ended(entry.message_id, entry.recipient, now, words) for entry in entries])
    message_status.refresh({entry.message_id for entry in entries})


def _report(order: Order, entries: Sequence[Entry], now: dt.datetime) -> list[int]:
    """Tell the senders, one report a message; return the reports' own entries."""
    ids = ids_of(entries)
    said = {entry.pk: entry.last_reply for entry in entries}  # what the last attempt ended with
    ended = Attempt.objects.filter(entry__in=ids).order_by().values_list("entry").annotate(at=Max("ended_at"))
    attempted_at = dict(ended)
    cases: defaultdict[str, list[Case]] = defaultdict(list)
    for parcel in claim.load(ids):
        outcome = failed(_told(order.reason, said[parcel.entry_id]), transport="local", enhanced_code="5.0.0")
        cases[parcel.message_id].append(Case(parcel, outcome, attempted_at.get(parcel.entry_id)))
    messages = Message.objects.in_bulk(list(cases))
    new_ids: list[int] = []
    for message_id, of_message in cases.items():
        original = content.read_head(message_id)
        new_ids += report.send(messages[message_id], DsnAction.FAILED, of_message, original=original, now=now)
    return new_ids


def _told(reason: str, last_reply: str) -> str:
    last = f" The last attempt ended with: {last_reply}" if last_reply else ""
    return f"{GIVEN_UP}{f': {reason}' if reason else ''}.{last}"
