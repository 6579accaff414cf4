"""What leaves an entry open: hold, release, retry, another route, another expiry.

Each function takes a locked batch, counts what it leaves alone in `left`, and returns how many it changed, and which
entries are due at once. While an entry is held `next_attempt_at` is empty, so nobody takes it, neither its expiry nor
its sender's deadline is obeyed, and `retry_at` keeps the time that it waited for.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from functools import partial

from django.conf import settings
from django.db import transaction
from django.db.models import Case, CharField, Value, When

from mailflow.events import clean_text
from mailflow.models import Event
from queue import claim, notices, recall, schedule
from queue.control.left import Left
from queue.control.orders import Order
from queue.control.pauses import lift, record_lifted
from queue.control.rows import Locked, ids_of, is_marked, is_scheduled, left_at, record, set_times
from queue.models import Entry
from queue.schedule import EXPIRY_SET

Done = tuple[int, list[int]]

_AS_AFTER_ATTEMPTS = Case(
    When(attempts__gt=0, then=Value(Entry.Status.RETRY.value)),
    default=Value(Entry.Status.PENDING.value),
    output_field=CharField(),
)


def hold(order: Order, locked: Locked, left: Counter[str], now: dt.datetime) -> Done:
    """Hold; what a worker has is marked, and held when the worker gives it back or defers it (`queue.settle`)."""
    free = [entry for entry in locked.free if entry.held_at is None or is_marked(entry)]
    leased = [entry for entry in locked.leased if entry.held_at is None or is_marked(entry)]
    left[Left.UNCHANGED] += len(locked.free) + len(locked.leased) - len(free) - len(leased)
    left[Left.UNDER_WAY] += len(leased)
    reason = clean_text(f"{order.actor}: {order.reason}" if order.reason else order.actor, 200)
    Entry.objects.filter(pk__in=ids_of([*free, *leased])).update(held_at=now, hold_reason=reason)
    Entry.objects.filter(pk__in=ids_of(free)).update(status=Entry.Status.PENDING)
    set_times([(entry.pk, None, _waited_for(entry, now + locked.shift(entry))) for entry in free])
    record(free, Event.Kind.HELD, f"Put on hold {order.by}.", order.actor)
    marked = f"To be put on hold if the attempt under way does not succeed, {order.by}."
    record(leased, Event.Kind.HELD, marked, order.actor)
    _ask_back(leased)
    return len(free), []


def release(order: Order, locked: Locked, left: Counter[str], now: dt.datetime) -> Done:
    free = [entry for entry in locked.free if entry.held_at is not None]
    leased = [entry for entry in locked.leased if entry.held_at is not None]
    left[Left.UNCHANGED] += len(locked.free) + len(locked.leased) - len(free) - len(leased)
    Entry.objects.filter(pk__in=ids_of(leased)).update(held_at=None, hold_reason="")
    due = set_free(free, now, locked.ahead)
    record([*free, *leased], Event.Kind.RELEASED, f"Released {order.by}.", order.actor)
    return len(free) + len(leased), due


def retry(order: Order, locked: Locked, left: Counter[str], now: dt.datetime) -> Done:
    """Neither a hold nor the sender's own time is overridden, and no attempt is put behind the expiry.

    An attempt that is wanted now waits for no pause of its destination: that is lifted.
    """
    if order.at is None:
        left[Left.AT_WORKER] += len(locked.leased)
    else:
        left.update(left_at(locked.leased))
    chosen = []
    for entry in locked.free:
        if entry.held_at is not None:
            left[Left.HELD] += 1
        elif is_scheduled(entry, now, locked.shift(entry)):
            left[Left.SCHEDULED] += 1
        elif order.at is not None and order.at + locked.shift(entry) > entry.expires_at:
            left[Left.EXPIRES_FIRST] += 1
        else:
            chosen.append(entry)
    if order.at is None:
        set_times([(entry.pk, now, None) for entry in chosen])
        why = f": {order.reason}" if order.reason else ""
        lifted = lift(order, chosen, now)
        words = f"{order.actor} asked for an attempt now{why}."
        record_lifted(chosen, lifted, Event.Kind.RETRY_REQUESTED, words, order.actor)
        return len(chosen), ids_of(chosen)
    due = _wait([(entry, max(order.at, now) + locked.shift(entry)) for entry in chosen], now, locked.ahead)
    words = f"The next attempt is put at {order.at:%Y-%m-%d %H:%M:%S} UTC {order.by}."
    record(chosen, Event.Kind.RETRY_REQUESTED, words, order.actor)
    return len(chosen), due


def reroute(order: Order, locked: Locked, left: Counter[str], now: dt.datetime) -> Done:
    """Also what a worker has: its next attempt goes the other way, and what waits in it for its turn comes back.

    What must not leave this machine is left alone: no way leads out of the sandbox. A pause of the destination was
    learned on the old way, and is lifted.
    """
    entries = sorted([*locked.free, *locked.leased], key=lambda entry: entry.pk)
    leaving = [] if settings.DELIVERY_MODE == "sandbox" else [entry for entry in entries if not entry.is_sandbox]
    changed = [entry for entry in leaving if entry.route != order.route]
    left[Left.SANDBOX] += len(entries) - len(leaving)
    left[Left.UNCHANGED] += len(leaving) - len(changed)
    Entry.objects.filter(pk__in=ids_of(changed)).update(route=order.route)
    way = f"to {order.route}" if order.route else "by the rules again"
    lifted = lift(order, changed, now)
    words = f"Goes {way} from the next attempt on, {order.by}."
    record_lifted(changed, lifted, Event.Kind.CHANGED, words, order.actor)
    leased = {entry.pk for entry in locked.leased}
    _ask_back([entry for entry in changed if entry.pk in leased])
    due = [entry for entry in changed if entry.domain in lifted and _is_due(entry, now)]
    return len(changed), ids_of(due)


def expire(order: Order, locked: Locked, left: Counter[str], now: dt.datetime) -> Done:
    """Set until when, or how often, attempts are made; one that was to come later is put at the new end.

    So is the waking of mail that waits for its host and was to be woken at the old one.
    """
    left.update(left_at(locked.leased))
    until = order.expires_at
    chosen = [
        entry
        for entry in locked.free
        if until is None
        or entry.scheduled_at is None
        or not is_scheduled(entry, now, locked.shift(entry))
        or entry.scheduled_at < until
    ]
    left[Left.SCHEDULED] += len(locked.free) - len(chosen)
    if order.max_attempts is not None:
        Entry.objects.filter(pk__in=ids_of(chosen)).update(max_attempts=order.max_attempts)
    due: list[int] = []
    if until is not None:
        ends = {entry.pk: until + locked.shift(entry) for entry in chosen}
        for end in set(ends.values()):
            Entry.objects.filter(pk__in=[pk for pk, its in ends.items() if its == end]).update(expires_at=end)
        moved = [
            (entry, ends[entry.pk])
            for entry in chosen
            if entry.held_at is None
            and ((entry.retry_at or entry.next_attempt_at or now) > ends[entry.pk] or _waits_for_its_end(entry))
        ]
        due = _wait(moved, now, locked.ahead)
        for entry in chosen:
            if entry.held_at is not None and _waits_for_its_end(entry):
                Entry.objects.filter(pk=entry.pk).update(retry_at=ends[entry.pk])
    said = [f"given up at {until:%Y-%m-%d %H:%M:%S} UTC"] if until is not None else []
    said += [f"attempted {order.max_attempts} times at most"] if order.max_attempts is not None else []
    rule = EXPIRY_SET if until is not None else ""
    record(chosen, Event.Kind.CHANGED, f"Will be {' and '.join(said)}, {order.by}.", order.actor, rule)
    return len(chosen), due


def set_free(entries: Sequence[Entry], now: dt.datetime, ahead: dt.timedelta) -> list[int]:
    """End the hold of locked entries that no worker has, and let them wait as before; return which are due at once."""
    Entry.objects.filter(pk__in=ids_of(entries)).update(held_at=None, hold_reason="", status=_AS_AFTER_ATTEMPTS)
    waits = []
    for entry in entries:
        its_now = now + ahead if entry.is_sandbox else now
        entry.held_at, entry.hold_reason, entry.lease = None, "", ""
        entry.next_attempt_at = max(entry.retry_at or its_now, its_now)
        waits.append((entry, entry.next_attempt_at))
    return _wait(waits, now, ahead)


def _waits_for_its_end(entry: Entry) -> bool:
    """Whether only its host's asking or its last hour wakes it (`queue.dialup`)."""
    return entry.waits_for_host and (entry.retry_at or entry.next_attempt_at) == entry.expires_at


def _ask_back(leased: Sequence[Entry]) -> None:
    """Ask the workers to look at what waits in them, once the change is committed."""
    if workers := {entry.lease for entry in leased}:
        transaction.on_commit(partial(recall.ask, workers))


def _is_due(entry: Entry, now: dt.datetime) -> bool:
    return entry.next_attempt_at is not None and entry.next_attempt_at <= now


def _waited_for(entry: Entry, now: dt.datetime) -> dt.datetime | None:
    """Return the time of the attempt that the entry waits for; None where it is due."""
    at = entry.retry_at or entry.next_attempt_at
    return at if at is not None and at > now and not entry.lease else None


def _wait(rows: Sequence[tuple[Entry, dt.datetime]], now: dt.datetime, ahead: dt.timedelta) -> list[int]:
    """Let entries wait for their attempts, and wake before those where a deadline or a report comes first.

    The times are by each entry's own clock. Returns which are due at once.
    """
    attempt_at = {entry.pk: at for entry, at in rows}
    times, due = [], []
    for parcel in claim.load(list(attempt_at), ahead):
        its_now = now + parcel.ahead
        due_at, retry_at = schedule.wait(attempt_at[parcel.entry_id], its_now, notices.terms(parcel))
        times.append((parcel.entry_id, due_at, retry_at))
        if due_at <= its_now:
            due.append(parcel.entry_id)
    set_times(times)
    return due
