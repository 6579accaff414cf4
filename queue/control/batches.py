"""Carry out an order on queue entries, batch by batch, each in a transaction of its own.

What a worker is delivering right now is left alone, and counted as such: its end is on the way. What waits in a worker
is asked back where the order can be done only to what nobody has (`marks`). An expired lease counts as none. Rows that
somebody else has locked are in somebody's hands (SKIP LOCKED), so nothing here waits for a worker or for a second
operator. A crash leaves whole batches, and carrying the same order out again does no harm.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from mailflow import handoff
from queue.control import changes, endings, marks
from queue.control.left import LEFT_WORDS, Left
from queue.control.orders import Action, Order
from queue.control.rows import lock
from queue.models import Entry

__all__ = ["LEFT_WORDS", "Left", "Tally", "apply", "batch_of", "carry_out", "remove", "retry_now", "take_back"]

BATCH = 500  # entries a transaction: none holds SQLite's one write lock for long
_ANY = Q()
BATCH_OF_REPORTS = 50  # of these each may have a report, with the message's beginning in it


@dataclass(slots=True)
class Tally:
    """What came of an order: how many entries it was done to, and how many were left alone, by the reason."""

    done: int = 0
    left: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.done += other.done
        self.left.update(other.left)

    @property
    def words(self) -> str:
        """`12 done, 3 left alone (2 on hold, 1 being delivered right now)`."""
        if not self.left:
            return f"{self.done:,} done"
        reasons = ", ".join(f"{count:,} {LEFT_WORDS[Left(name)]}" for name, count in self.left.most_common())
        return f"{self.done:,} done, {self.left.total():,} left alone ({reasons})"


def carry_out(order: Order, entries: QuerySet[Entry]) -> Tally:
    """Carry the order out on the open entries, at once; each gets its event with who and why."""
    tally = Tally()
    ids = list(entries.filter(Entry.IS_OPEN).order_by("pk").values_list("pk", flat=True))
    for batch in _batches(ids, batch_of(order)):
        with transaction.atomic():
            tally.add(apply(order, batch, timezone.now()))
    return tally


def retry_now(entries: QuerySet[Entry], *, actor: str) -> int:
    """Make the open entries due at once and wake the workers; return how many. What is held or scheduled waits on."""
    return carry_out(Order(Action.RETRY, actor), entries).done


def remove(entries: QuerySet[Entry], *, actor: str) -> int:
    """End the open entries as failed; return how many. Nobody is sent a report."""
    return carry_out(Order(Action.DELETE, actor), entries).done


def batch_of(order: Order) -> int:
    """Return how many entries one transaction takes."""
    return BATCH_OF_REPORTS if order.action is Action.FAIL and order.dsn else BATCH


def apply(order: Order, ids: Sequence[int], now: dt.datetime, condition: Q = _ANY, *, mark: str = "") -> Tally:
    """Carry the order out on one batch, in the caller's transaction; workers are woken after its commit.

    `condition` is what the entries were chosen by: one that has changed since, and does not meet it now, is left alone.
    With a `mark` what a worker has is asked back where the order needs that, for `take_back`.
    """
    locked = lock(ids, now, condition)
    left = Counter({Left.IN_HANDS.value: locked.out_of_reach, Left.ENDED.value: locked.ended})
    if mark and order.wants_back:
        marked = marks.put(locked.leased, mark, now)
        left[Left.RECALLED] += len(marked)
        locked = replace(locked, leased=[entry for entry in locked.leased if entry.pk not in marked])
    done, due_ids = _DO[order.action](order, locked, left, now)
    _ring(due_ids)
    return Tally(done, +left)


def take_back(
    order: Order | None, ids: Sequence[int], now: dt.datetime, mark: str, silent: Collection[str] = ()
) -> Tally:
    """Carry the order out on a batch of marked entries, as far as workers have given them back; the marks go.

    What is still in a worker's hands is being delivered, unless the worker is one of the `silent`. Without an order
    they are only set free.
    """
    locked = lock(ids, now, Q(hold_reason=mark), waits=True)
    marks.remove(locked.leased)
    left: Counter[str] = Counter(
        (Left.UNANSWERED if entry.lease in silent else Left.IN_HANDS).value for entry in locked.leased
    )
    left[Left.ENDED] += locked.ended
    due_ids, done = set(changes.set_free(locked.free, now, locked.ahead)), 0
    if order is not None:
        done, more_ids = _DO[order.action](order, replace(locked, leased=[]), left, now)
        due_ids |= set(more_ids)
    _ring(sorted(due_ids))
    return Tally(done, +left)


def _ring(due_ids: Sequence[int]) -> None:
    if due_ids:
        transaction.on_commit(partial(handoff.current().ring, due_ids))


def _batches(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


_DO = {
    Action.HOLD: changes.hold,
    Action.RELEASE: changes.release,
    Action.RETRY: changes.retry,
    Action.REROUTE: changes.reroute,
    Action.EXPIRE: changes.expire,
    Action.FAIL: endings.fail,
    Action.DELETE: endings.delete,
}
