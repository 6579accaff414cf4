"""Entries that an action wants back from workers: marked as held, by a reason that names the action.

So a worker gives back what waits in it (`queue.recall`), nobody takes it then, and whoever goes on after a crash finds
it again. What turns out to be under way is held if its attempt does not succeed, and then within reach as well.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import partial

from django.db import transaction

from mailflow.events import clean_text
from queue import recall
from queue.control.orders import Order
from queue.control.rows import MARK_BEGINS, ids_of
from queue.models import Entry


def mark_of(order: Order, action_id: int) -> str:
    """Return the mark of an action, as people read it while it waits."""
    return clean_text(f"{MARK_BEGINS}{action_id} of {order.actor[:80]}: {order.words})", 200)


def put(leased: Sequence[Entry], mark: str, now: dt.datetime) -> frozenset[int]:
    """Mark locked entries that workers have, and ask for them after the commit; return which. A person's hold stays."""
    chosen = [entry for entry in leased if entry.held_at is None]
    if chosen:
        Entry.objects.filter(pk__in=ids_of(chosen)).update(held_at=now, hold_reason=mark)
        transaction.on_commit(partial(recall.ask, {entry.lease for entry in chosen}))
    return frozenset(ids_of(chosen))


def remove(leased: Sequence[Entry]) -> None:
    """Take the marks off locked entries that workers still have."""
    Entry.objects.filter(pk__in=ids_of(leased)).update(held_at=None, hold_reason="")


def marked(mark: str, limit: int) -> list[int]:
    """Return some entries that bear the mark."""
    rows = Entry.objects.filter(Entry.IS_OPEN, Entry.IS_HELD, hold_reason=mark)
    return list(rows.order_by("pk").values_list("pk", flat=True)[:limit])


def workers_of(mark: str) -> set[str]:
    rows = Entry.objects.filter(Entry.IS_OPEN, Entry.IS_HELD, hold_reason=mark).exclude(lease="")
    return set(rows.order_by().values_list("lease", flat=True).distinct())
