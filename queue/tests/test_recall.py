"""What waits in a worker for its turn is within reach of people; what is being delivered is not, and is told apart."""

from __future__ import annotations

import datetime as dt
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from accounts.models import TrailEntry, User
from mailflow.models import Event
from queue import actions, delivery, recall
from queue.control import Action, Order, mark_of, orders
from queue.engine import Engine
from queue.models import Attempt, Destination, Entry, QueueAction, Worker
from queue.outcome import from_reply
from queue.selection import Selection, of_message
from queue.simulation.internet import SESSIONS
from queue.tests.conftest import drain, open_entries, running_engine, wait_until
from queue.transports.memory import MemoryTransport

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]
HOUR = dt.timedelta(hours=1)
_Scene = tuple[Engine, MemoryTransport]
LATER = from_reply(451, "4.7.1 come back", transport="smtp")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr("queue.pacing.beats.BEAT_SECONDS", 0.1)
    monkeypatch.setattr(recall, "PATIENCE_SECONDS", 60.0)  # nobody has to be quick to be asked
    settings.DELIVERY_MODE = "live"
    settings.QUEUE_LEASE_SECONDS = 3600  # nothing comes back by the renewal of leases
    settings.SWEEP_INTERVAL_SECONDS = 0.3


@pytest.fixture
def resolver() -> MemoryResolver:
    found = MemoryResolver()
    found.hosts["x.example"] = found.hosts["y.example"] = ["198.41.0.4"]  # never connected to
    return found


@contextmanager
def one_under_way(accept: Accept, resolver: MemoryResolver, count: int = 20) -> Iterator[_Scene]:
    """An engine that delivers the first of the messages, and has leased the others, which wait for their turns."""
    Destination.objects.create(domain="x.example", max_connections=1, used_at=timezone.now())
    for number in range(count):
        accept(f"u{number}@x.example")
    transport = MemoryTransport()
    transport.gate.clear()
    with running_engine(transport, resolver) as engine:
        wait_until(lambda: Entry.objects.filter(lease=engine.worker).count() == count and len(transport.jobs) == 1)
        try:
            yield engine, transport
        finally:
            transport.gate.set()


def perform(action: Action, **values: Any) -> QueueAction:
    return actions.perform(Order(action, "root", **values), Selection({}), door="api")


@pytest.mark.parametrize("action", [Action.DELETE, Action.FAIL])
def test_what_waits_in_a_worker_is_ended_and_only_what_is_under_way_is_left(
    alice: User, accept: Accept, resolver: MemoryResolver, action: Action
) -> None:
    with one_under_way(accept, resolver) as (_, transport):
        done = perform(action, dsn=False)
        assert (done.status, done.done, done.left) == ("done", 19, {"in_hands": 1})
        assert actions.tally_of(done).words == "19 done, 1 left alone (1 being delivered right now)"
        assert not Entry.objects.filter(Entry.IS_HELD).exists()
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    assert Counter(Entry.objects.values_list("status", flat=True)) == {"failed": 19, "delivered": 1}
    assert len(transport.jobs) == 1
    assert "19 done, 1 left alone" in TrailEntry.objects.get().detail


def test_what_is_under_way_and_does_not_succeed_while_it_is_asked_for_is_reached_too(
    alice: User, accept: Accept, resolver: MemoryResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_under_way(accept, resolver, 1) as (_, transport):
        transport.script["u0@x.example"] = deque([LATER])

        def wait(asked: Any, is_ending: Any) -> frozenset[str]:
            transport.gate.set()
            wait_until(lambda: Attempt.objects.exists())
            return waited(asked, is_ending)

        waited = recall.wait
        monkeypatch.setattr(recall, "wait", wait)
        assert perform(Action.DELETE).done == 1
    assert Entry.objects.get().status == "failed"


def test_another_expiry_and_another_time_are_set_for_what_waits_in_a_worker(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    until = timezone.now() + HOUR
    with one_under_way(accept, resolver, 5) as (_, transport):
        done = perform(Action.EXPIRE, expires_at=until, max_attempts=2)
        assert (done.done, done.left) == (4, {"in_hands": 1})
        assert Entry.objects.filter(expires_at=until, max_attempts=2, held_at=None).count() == 4
        wait_until(lambda: Entry.objects.exclude(lease="").count() == 5)  # they wait for their turns again
        at = timezone.now() + HOUR / 2
        done = perform(Action.RETRY, at=at)
        assert (done.done, done.left) == (4, {"in_hands": 1})
        assert Entry.objects.filter(next_attempt_at=at, lease="", held_at=None).count() == 4
        transport.gate.set()
        wait_until(lambda: Attempt.objects.count() == 1)


def test_a_retry_now_leaves_the_places_in_a_worker_as_they_are(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    with one_under_way(accept, resolver, 3):
        assert perform(Action.RETRY).left == {"at_worker": 3}


def test_a_hold_and_another_route_reach_what_waits_in_a_worker_within_a_beat(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    resolver.hosts["relay.y.example"] = ["198.41.0.5"]
    with one_under_way(accept, resolver, 3) as (engine, transport):
        assert perform(Action.REROUTE, route="relay.y.example").done == 3
        wait_until(lambda: Worker.objects.filter(recalls_answered__gt=0).exists())
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    assert [str(route.hops[0].address) for _, route in transport.jobs] == ["198.41.0.4", "198.41.0.5", "198.41.0.5"]
    with one_more(accept, resolver) as engine:
        perform(Action.HOLD)
        wait_until(lambda: Entry.objects.filter(Entry.IS_HELD, lease="").exists())
        assert Entry.objects.filter(lease=engine.worker).count() == 1


@contextmanager
def one_more(accept: Accept, resolver: MemoryResolver) -> Iterator[Engine]:
    Destination.objects.all().delete()
    with one_under_way(accept, resolver, 2) as (engine, _):
        yield engine


def test_what_a_dead_worker_has_is_said_to_be_with_one_that_does_not_answer(accept: Accept) -> None:
    (entry_id,) = accept("a@x.example")
    now = timezone.now()
    Worker.objects.create(name="dead", host="h", pid=1, started_at=now, seen_at=now, leased_until=now - HOUR)
    Entry.objects.update(lease="dead", next_attempt_at=now + HOUR)
    done = perform(Action.DELETE)
    assert done.left == {"in_silent_worker": 1}
    entry = Entry.objects.get()
    assert (entry.lease, entry.held_at, entry.hold_reason) == ("dead", None, "")
    assert not Event.objects.filter(entry_id=entry_id, kind__in=["held", "deleted"]).exists()


def test_another_runner_goes_on_where_one_was_killed_while_it_waited(accept: Accept) -> None:
    first, second = accept("a@x.example", "b@x.example")
    now = timezone.now()
    action = actions.request(Order(Action.DELETE, "root"), Selection({}), door="api")
    mark = mark_of(Order(Action.DELETE, "root"), action.pk)
    Entry.objects.filter(pk=first).update(held_at=now, hold_reason=mark, next_attempt_at=None)  # given back
    Entry.objects.filter(pk=second).update(held_at=now, hold_reason=mark, lease="w", next_attempt_at=now + HOUR)
    QueueAction.objects.update(
        status="running", runner="killed", seen_at=now - HOUR, last_entry_id=second, looked_at=2, total=2,
        left={"in_worker": 2},
    )  # fmt: skip
    taken = actions.take("another")
    assert taken is not None
    done = actions.run(taken)
    assert (done.status, done.done, done.left) == ("done", 1, {"in_hands": 1})
    assert Entry.objects.get(pk=first).status == "failed"
    assert Entry.objects.get(pk=second).held_at is None


def test_an_action_that_is_stopped_lets_go_of_what_it_asked_for(accept: Accept) -> None:
    ids = accept("a@x.example", "b@x.example")
    now = timezone.now()
    action = actions.request(Order(Action.DELETE, "root"), of_message(Entry.objects.all()[0].message_id), door="api")
    mark = mark_of(Order(Action.DELETE, "root"), action.pk)
    Entry.objects.filter(pk=ids[0]).update(held_at=now, hold_reason=mark, next_attempt_at=None, attempts=2)
    Entry.objects.filter(pk=ids[1]).update(held_at=now, hold_reason=mark, lease="w", next_attempt_at=now + HOUR)
    QueueAction.objects.update(last_entry_id=ids[1], looked_at=2, total=2, left={"in_worker": 2}, is_stop_wanted=True)
    taken = actions.take("r", action.pk)
    assert taken is not None
    done = actions.run(taken)
    assert (done.status, done.done, done.left) == ("stopped", 0, {})
    free, leased = Entry.objects.order_by("pk")
    assert (free.status, free.held_at, free.lease) == ("retry", None, "")
    assert free.next_attempt_at is not None and free.next_attempt_at <= timezone.now()
    assert (leased.held_at, leased.lease) == (None, "w")


def test_a_person_who_holds_what_an_action_wants_back_keeps_it(accept: Accept) -> None:
    (entry_id,) = accept("a@x.example")
    action = actions.request(Order(Action.DELETE, "root"), Selection({}), door="api")
    mark = mark_of(Order(Action.DELETE, "root"), action.pk)
    Entry.objects.update(held_at=timezone.now(), hold_reason=mark, next_attempt_at=None)
    QueueAction.objects.update(last_entry_id=entry_id, looked_at=1, total=1, left={"in_worker": 1})
    assert perform(Action.HOLD, reason="evidence").done == 1
    taken = actions.take("r", action.pk)
    assert taken is not None and actions.run(taken).left == {"ended": 1}
    assert Entry.objects.get().hold_reason == "root: evidence"


def test_no_order_but_these_asks_for_what_workers_have() -> None:
    asking = [action for action in Action if Order(action, "root").wants_back]
    assert asking == [Action.EXPIRE, Action.FAIL, Action.DELETE]
    assert orders.Order(Action.RETRY, "root", at=timezone.now()).wants_back


def test_a_worker_can_be_asked_before_it_has_anything(
    alice: User, accept: Accept, resolver: MemoryResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[bool] = []
    claim_due = delivery.claim_due

    def note_and_claim(worker: str, *arguments: Any, **named: Any) -> delivery.Sorted:
        known.append(Worker.objects.filter(pk=worker).exists())
        return claim_due(worker, *arguments, **named)

    monkeypatch.setattr(delivery, "claim_due", note_and_claim)
    accept("a@x.example")
    with running_engine(MemoryTransport(), resolver):
        wait_until(lambda: open_entries() == 0)
    assert all(known)


def test_what_waits_for_a_simulated_host_is_ended_too(
    alice: User, accept: Accept, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.simulation.host.STEP_SECONDS", 60.0)  # whatever is asked for comes before its answer
    settings.DELIVERY_MODE = "sandbox"
    for number in range(SESSIONS + 3):
        accept(f"slow+{number}@sim.test")
    engine = Engine()
    engine.start()
    try:
        wait_until(lambda: Entry.objects.filter(lease=engine.worker).count() == SESSIONS + 3)
        done = perform(Action.DELETE)
        assert (done.done, done.left) == (3, {"in_hands": SESSIONS})
    finally:
        drain(engine, 0.1)
