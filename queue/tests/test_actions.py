"""Orders on selections: progress, resumption after a crash, two operators at once, and what the trail says."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import TrailEntry
from mailflow.models import Event
from queue import actions
from queue.action_runner import ActionRunner
from queue.control import Action, Order, batches, parse_order
from queue.control.orders import InvalidOrder, kept_order
from queue.models import Entry, QueueAction
from queue.selection import Selection, parse
from queue.tests.conftest import wait_until

Accept = Callable[..., list[int]]
NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)


@pytest.fixture
def ten(accept: Accept, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(batches, "BATCH", 3)
    return accept(*(f"r{number}@x.example" for number in range(10)))


def requested(action: Action = Action.HOLD, **given: Any) -> QueueAction:
    return actions.request(Order(action, "root", "test"), parse(given, timezone.now()), door="api")


def taken(action: QueueAction, runner: str = "one") -> QueueAction:
    found = actions.take(runner, action.pk)
    assert found is not None
    return found


def test_a_small_action_is_carried_out_at_once_and_leaves_one_line_in_the_trail(ten: list[int]) -> None:
    action = actions.perform(
        Order(Action.HOLD, "root", "spam"), parse({"domain": "x.example"}, NOW), door="api", client_address="192.0.2.7"
    )
    assert (action.status, action.total, action.looked_at, action.done, action.left) == ("done", 10, 10, 10, {})
    line = TrailEntry.objects.get()
    assert (line.kind, line.actor, line.subject, line.client_address) == (
        "queue.hold", "root", "domain x.example", "192.0.2.7",
    )  # fmt: skip
    assert line.detail == f"hold: 10 done. Reason: spam. Action {action.pk}, by api."


def test_a_large_action_waits_for_a_worker(ten: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "AT_ONCE", 9)
    action = actions.perform(Order(Action.HOLD, "root"), Selection({}), door="api")
    assert action.status == "waiting"
    assert not Entry.objects.filter(Entry.IS_HELD).exists()
    assert not TrailEntry.objects.exists()


class Killed(BaseException):
    """What ends a process in the middle."""


def test_after_a_crash_another_goes_on_behind_the_last_whole_batch(ten: list[int]) -> None:
    action = taken(requested())

    def die(looked_at: int, _total: int) -> None:
        if looked_at == 6:
            raise Killed

    with pytest.raises(Killed):
        actions.run(action, progress=die)
    stored = QueueAction.objects.get()
    assert (stored.status, stored.looked_at, stored.done, stored.total) == ("running", 6, 6, 10)
    assert Entry.objects.filter(Entry.IS_HELD).count() == 6
    assert actions.take("two") is None  # the first may still live
    QueueAction.objects.update(seen_at=timezone.now() - 2 * actions.LEASE)
    again = actions.take("two")
    assert again is not None
    seen: list[tuple[int, int]] = []
    ended = actions.run(again, progress=lambda *step: seen.append(step))
    assert seen == [(6, 10), (9, 10), (10, 10)]
    assert (ended.status, ended.looked_at, ended.done, ended.left) == ("done", 10, 10, {})
    assert Event.objects.filter(kind="held").count() == 10
    assert TrailEntry.objects.count() == 1


def test_who_was_taken_over_from_changes_nothing_more(ten: list[int]) -> None:
    first = taken(requested())
    QueueAction.objects.update(seen_at=timezone.now() - 2 * actions.LEASE)
    taken(first, "two")
    with pytest.raises(actions.TakenOver):
        actions.run(first)
    assert not Entry.objects.filter(Entry.IS_HELD).exists()


def test_an_action_is_stopped_between_two_batches(ten: list[int]) -> None:
    action = taken(requested())
    ended = actions.run(action, progress=lambda looked_at, _: looked_at == 3 and actions.request_stop(action.pk))
    assert (ended.status, ended.done) == ("stopped", 3)
    assert Entry.objects.filter(Entry.IS_HELD).count() == 3
    assert "3 done" in TrailEntry.objects.get().detail and "Stopped." in TrailEntry.objects.get().detail
    assert not actions.request_stop(action.pk)


def test_a_worker_that_ends_gives_the_rest_back(ten: list[int]) -> None:
    steps = iter([False, True])
    given_back = actions.run(taken(requested()), is_ending=lambda: next(steps))
    assert (given_back.status, given_back.runner, given_back.done) == ("waiting", "", 3)
    assert actions.run(taken(given_back, "two")).done == 10


def test_what_came_after_the_request_is_not_meant(ten: list[int], accept: Accept) -> None:
    action = requested(Action.DELETE, domain="x.example")
    accept("later@x.example")
    assert actions.run(taken(action)).done == 10
    assert Entry.objects.get(Entry.IS_OPEN).recipient == "later@x.example"


def test_what_has_changed_meanwhile_is_left_alone(ten: list[int]) -> None:
    action = taken(requested(Action.DELETE, attempts_to=0))

    def change(looked_at: int, _total: int) -> None:
        if looked_at == 0:
            Entry.objects.filter(pk=ten[5]).update(attempts=1)

    ended = actions.run(action, progress=change)
    assert (ended.done, ended.left) == (9, {"ended": 1})
    assert Entry.objects.get(Entry.IS_OPEN).pk == ten[5]


def test_an_action_that_breaks_says_so_without_details(ten: list[int]) -> None:
    action = taken(requested())
    actions.give_up(action, ZeroDivisionError("secret"))
    stored = QueueAction.objects.get()
    assert (stored.status, stored.error) == ("failed", "Local error (ZeroDivisionError).")
    assert "secret" not in TrailEntry.objects.get().detail


@pytest.mark.django_db(transaction=True)
def test_a_worker_carries_out_what_waits(transactional_db: None, ten: list[int]) -> None:
    action = requested()
    runner = ActionRunner(poll_seconds=0.01)
    runner.start()
    try:
        wait_until(lambda: QueueAction.objects.filter(pk=action.pk, status="done").exists())
    finally:
        runner.stop()
    assert Entry.objects.filter(Entry.IS_HELD).count() == 10


@pytest.mark.django_db(transaction=True)
def test_two_operators_at_once_share_the_work_and_do_nothing_twice(transactional_db: None, ten: list[int]) -> None:
    chosen = [requested(Action.DELETE), requested(Action.DELETE)]
    ended: list[QueueAction] = []
    start = threading.Barrier(2)

    def act(action: QueueAction) -> None:
        try:
            start.wait(60)
            ended.append(actions.run(taken(action, str(action.pk))))
        finally:
            connection.close()

    threads = [threading.Thread(target=act, args=(action,)) for action in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(action.done for action in ended) == 10
    assert Event.objects.filter(kind="deleted").count() == 10
    assert not Entry.objects.filter(Entry.IS_OPEN).exists()


WRONG = [
    ("fly", {}, "action"),
    (None, {}, "action"),
    ("hold", {"at": "2h"}, "at"),
    ("retry", {"at": "yesterday"}, "at"),
    ("retry", {"at": "2020-01-01"}, "at"),
    ("retry", {"at": "400d"}, "at"),
    ("retry", {"at": 7}, "at"),
    ("reroute", {}, "route"),
    ("reroute", {"route": "no host"}, "route"),
    ("reroute", {"route": None}, "route"),
    ("expire", {}, "expires_at"),
    ("expire", {"expires_at": "2020-01-01"}, "expires_at"),
    ("expire", {"max_attempts": 0}, "max_attempts"),
    ("expire", {"max_attempts": "many"}, "max_attempts"),
    ("expire", {"max_attempts": True}, "max_attempts"),
    ("fail", {"dsn": "perhaps"}, "dsn"),
    ("fail", {"dsn": 1}, "dsn"),
    ("delete", {"reason": 3}, "reason"),
    ("delete", {"reason": "x" * 151}, "reason"),
]


@pytest.mark.parametrize(("action", "given", "name"), WRONG, ids=[f"{row[0]} {row[1]}" for row in WRONG])
def test_a_wrong_order_is_refused_by_name(action: object, given: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidOrder) as caught:
        parse_order(action, given, actor="root", now=NOW)
    assert list(caught.value.errors) == [name]


@pytest.mark.parametrize(
    ("action", "given", "words"),
    [
        ("hold", {"reason": " two\nlines. "}, "hold"),
        ("retry", {}, "retry now"),
        ("retry", {"at": "now"}, "retry now"),
        ("retry", {"at": "2h"}, "retry at 2026-11-27 14:00:00 UTC"),
        ("reroute", {"route": "192.0.2.1:26"}, "reroute to 192.0.2.1:26"),
        ("reroute", {"route": ""}, "reroute by the rules"),
        ("expire", {"expires_at": "1d", "max_attempts": "3"}, "give up at 2026-11-28 12:00:00 UTC, at most 3 attempts"),
        ("fail", {}, "fail with a report to the sender"),
        ("fail", {"dsn": "false"}, "fail without a report"),
        ("delete", {}, "delete"),
    ],
)
def test_an_order_is_kept_as_it_was_given(action: str, given: dict[str, Any], words: str) -> None:
    order = parse_order(action, given, actor="root", now=NOW)
    assert order.words == words
    assert kept_order(order.action.value, order.parameters(), actor="root") == order
    if action == "hold":
        assert order.by == "by root: two lines"
