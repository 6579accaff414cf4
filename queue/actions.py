"""Orders on selections of entries, kept as rows and carried out batch by batch (`queue.control` does each batch).

A small one is carried out where it was asked for, a large one by a worker (`queue.action_runner`); either way whoever
carries it out holds it by a lease, and after a crash another goes on behind the last whole batch. When it has ended it
leaves one line in the trail.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from accounts.models import TrailEntry
from mailflow.ids import new_row_id
from queue import control, recall, selection
from queue.control import Left, Order, Tally
from queue.control.orders import kept_order
from queue.models import QueueAction
from queue.selection import Selection

logger = structlog.get_logger(__name__)

AT_ONCE = 500  # entries that are dealt with while the caller waits
COMMAND = "command"  # the door of `manage.py queue`
LEASE = dt.timedelta(seconds=60)
LONGEST_PAUSE = 0.1  # after a batch, as long as it took: SQLite's waiting writers poll, and must find the lock free

Progress = Callable[[int, int], object]  # entries looked at, of how many


class TakenOver(Exception):
    """Somebody else goes on with the action, for its lease ran out here."""


def request(order: Order, chosen: Selection, *, door: str, client_address: str = "") -> QueueAction:
    """Write the action down; whoever calls `run` next carries it out, a worker within seconds."""
    return QueueAction.objects.create(
        id=new_row_id(),
        created_at=timezone.now(),
        actor=order.actor[:254],
        client_address=client_address,
        door=door,
        action=order.action.value,
        parameters=order.parameters(),
        filter=dict(chosen.wanted),
        up_to_id=new_row_id(),
    )


def request_stop(action_id: int) -> bool:
    """Ask for an end after the batch under way; what is done stays done. Returns whether there was anything to stop."""
    return bool(QueueAction.objects.filter(pk=action_id, finished_at=None).update(is_stop_wanted=True))


def take(runner: str, action_id: int | None = None) -> QueueAction | None:
    """Take an action that waits, or whose runner fell silent; the named one, or the oldest."""
    now = timezone.now()
    is_free = Q(status=QueueAction.Status.WAITING) | Q(status=QueueAction.Status.RUNNING, seen_at__lt=now - LEASE)
    free = QueueAction.objects.filter(is_free, finished_at=None)
    ids = [action_id] if action_id is not None else list(free.order_by("id").values_list("pk", flat=True)[:5])
    for pk in ids:
        if free.filter(pk=pk).update(status=QueueAction.Status.RUNNING, runner=runner, seen_at=now):
            QueueAction.objects.filter(pk=pk, started_at=None).update(started_at=now)
            return QueueAction.objects.get(pk=pk)
    return None


def run(
    action: QueueAction,
    *,
    progress: Progress = lambda looked_at, total: None,
    is_ending: Callable[[], bool] = lambda: False,
) -> QueueAction:
    """Carry out an action that was taken; return it as it is then: ended, or waiting again where `is_ending` said so.

    Raises `TakenOver`, and what the database raises: the lease then runs out, and another goes on.
    """
    order, chosen = order_of(action), selection.kept(action.filter)
    ids = _ids(action, chosen)
    if action.total is None:
        action.total = action.looked_at + len(ids)
        QueueAction.objects.filter(pk=action.pk).update(total=action.total)
    size = control.batch_of(order)
    progress(action.looked_at, action.total)
    for start in range(0, len(ids), size):
        if is_ending():
            return _pass_on(action)
        began = time.monotonic()
        batch = ids[start : start + size]
        step = partial(control.apply, order, list(batch), condition=chosen.condition, mark=_mark(action, order))
        if not _step(action, step, last_entry_id=batch[-1], looked_at=action.looked_at + len(batch)):
            return _end(action, QueueAction.Status.STOPPED)
        progress(action.looked_at, action.total)
        if connection.vendor == "sqlite":
            time.sleep(min(time.monotonic() - began, LONGEST_PAUSE))
    return _take_back(action, order, size, is_ending)


def _take_back(action: QueueAction, order: Order, size: int, is_ending: Callable[[], bool]) -> QueueAction:
    """Go through what was asked back from workers, once they have answered, and end the action."""
    if not action.left.get(Left.RECALLED):
        return _end(action, QueueAction.Status.DONE)
    mark = _mark(action, order)
    silent = recall.wait(recall.ask(control.workers_of(mark)), is_ending)
    while not is_ending():
        ids = control.marked(mark, size)
        if not ids:
            return _end(action, QueueAction.Status.DONE)
        if not _step(action, partial(control.take_back, order, ids, mark=mark, silent=silent), recalled=len(ids)):
            return _end(action, QueueAction.Status.STOPPED)
    return _pass_on(action)


def _pass_on(action: QueueAction) -> QueueAction:
    """Let another runner go on."""
    _mine(action).update(status=QueueAction.Status.WAITING, runner="")
    action.refresh_from_db()
    return action


def perform(order: Order, chosen: Selection, *, door: str, client_address: str = "") -> QueueAction:
    """Write the action down, and carry it out at once where it is small."""
    action = request(order, chosen, door=door, client_address=client_address)
    if selection.count(chosen.open_entries(), AT_ONCE).is_more:
        return action
    return _run_here(action)


def perform_at_once(order: Order, chosen: Selection, *, door: str, client_address: str = "") -> QueueAction:
    """Write the action down and carry it out, while the caller waits: for what is small by its nature."""
    return _run_here(request(order, chosen, door=door, client_address=client_address))


def _run_here(action: QueueAction) -> QueueAction:
    taken = take(runner_name(), action.pk)
    return run(taken) if taken is not None else QueueAction.objects.get(pk=action.pk)


def stop_here(action: QueueAction) -> QueueAction:
    """End an action that was taken here, between two batches."""
    return _end(action, QueueAction.Status.STOPPED)


def give_up(action: QueueAction, error: Exception) -> None:
    """End an action that cannot be carried out, for a reason that trying again does not mend."""
    action.error = f"Local error ({type(error).__name__})."
    _end(action, QueueAction.Status.FAILED)


def order_of(action: QueueAction) -> Order:
    return kept_order(action.action, action.parameters, actor=action.actor)


def tally_of(action: QueueAction) -> Tally:
    return Tally(action.done, Counter(action.left))


def words_of(action: QueueAction) -> str:
    """Say what it is: `hold: domain x.example`."""
    return f"{order_of(action).words}: {selection.kept(action.filter).words}"


def runner_name() -> str:
    return f"{socket.gethostname()[:20]}:{os.getpid()}:{secrets.token_hex(3)}"


def _ids(action: QueueAction, chosen: Selection) -> Sequence[int]:
    entries = chosen.open_entries().filter(pk__gt=action.last_entry_id, pk__lte=action.up_to_id)
    return array("q", entries.order_by("pk").values_list("pk", flat=True).iterator(10_000))


def _step(action: QueueAction, step: Callable[..., Tally], *, recalled: int = 0, **progress: int) -> bool:
    """Take one step in a transaction and commit the progress with it; False where somebody asked for an end.

    `recalled`: how many of those that were asked back it deals with.
    """
    with transaction.atomic():
        now = timezone.now()
        if not _mine(action).filter(is_stop_wanted=False).update(seen_at=now):  # locks it until the commit, too
            if _mine(action).exists():
                return False
            raise TakenOver
        tally = step(now=now)
        left = Counter(action.left) + tally.left - Counter({Left.RECALLED.value: recalled})
        _mine(action).update(done=F("done") + tally.done, left=dict(left), **progress)
    action.left = dict(left)
    action.done += tally.done
    for name, value in progress.items():
        setattr(action, name, value)
    return True


def _mark(action: QueueAction, order: Order) -> str:
    return control.mark_of(order, action.pk)


def _let_go(action: QueueAction) -> dict[str, int]:
    """Free what was asked back and not dealt with; return what was left alone. In the transaction of the end."""
    left = Counter(action.left)
    if missing := left.pop(Left.RECALLED.value, 0):
        mark = _mark(action, order_of(action))
        ids = control.marked(mark, missing)
        control.take_back(None, ids, timezone.now(), mark)
        left[Left.ENDED.value] += missing - len(ids)
    return dict(+left)


def _mine(action: QueueAction) -> QuerySet[QueueAction]:
    return QueueAction.objects.filter(pk=action.pk, runner=action.runner, finished_at=None)


def _end(action: QueueAction, status: QueueAction.Status) -> QueueAction:
    with transaction.atomic():
        left = _let_go(action)
        if not _mine(action).update(status=status, finished_at=timezone.now(), error=action.error, left=left):
            raise TakenOver
        action.refresh_from_db()
        order = order_of(action)
        reason = f" Reason: {order.reason}." if order.reason else ""
        ending = "" if status == QueueAction.Status.DONE else f" {action.get_status_display()}. {action.error}".rstrip()
        TrailEntry.objects.create(
            kind=f"queue.{action.action}",
            actor=action.actor,
            subject=selection.kept(action.filter).words[:254],
            client_address=action.client_address,
            detail=f"{order.words}: {tally_of(action).words}.{reason}{ending} Action {action.pk}, by {action.door}.",
        )
    if action.door != COMMAND:  # which says so itself
        counts = {"done": action.done, "left": action.left}
        logger.info("queue.action_ended", action=action.action, actor=action.actor, status=status.value, **counts)
    return action
