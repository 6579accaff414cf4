"""The bookkeeping of what waits for each domain."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from queue.claim import Parcel
from queue.lanes import MAX_JOB_RECIPIENTS, Lanes, Speed


def parcel(recipient: str, message_id: str = "msg_1", attempts: int = 0, **values: Any) -> Parcel:
    """As much of a parcel as a lane looks at."""
    fields = {"route": "", "is_sandbox": False, **values}
    domain = recipient.partition("@")[2]
    found: Any = SimpleNamespace(recipient=recipient, domain=domain, message_id=message_id, attempts=attempts, **fields)
    return cast(Parcel, found)


def lanes_with(*parcels: Parcel, limit: int = 10, max_running: int = 100, messages: int | None = None) -> Lanes:
    lanes = Lanes(max_running)
    for one in parcels:
        lanes.add(one)
        lanes.give(one.domain, limit=limit, messages=messages, speed=Speed.UNKNOWN)
    return lanes


def begun(lanes: Lanes) -> list[str]:
    """Begin whatever may begin; return the first recipient of each."""
    started = []
    while parcels := lanes.next():
        started.append(parcels[0].recipient)
    return started


def test_what_is_taken_out_leaves_the_rest_in_order() -> None:
    names = ["a@x.test", "b@x.test", "c@y.test", "d@x.test"]
    lanes = lanes_with(*map(parcel, names), limit=1)
    taken = lanes.take_out(lambda one: one.recipient in {"b@x.test", "c@y.test"})
    assert [one.recipient for one in taken] == ["b@x.test", "c@y.test"]
    assert [one.recipient for one in lanes.next() or []] == ["a@x.test", "d@x.test"]
    assert lanes.next() is None


def test_what_has_begun_is_not_taken_out() -> None:
    lanes = lanes_with(parcel("a@x.test"), limit=1)
    assert lanes.next() is not None
    lanes.add(parcel("b@x.test", "msg_2"))
    assert [one.recipient for one in lanes.take_out(lambda _: True)] == ["b@x.test"]
    lanes.ended("x.test", was_retry=False)
    assert lanes.empty() == []
    assert "x.test" not in lanes and lanes.waiting == lanes.running == 0


def test_nothing_begins_in_a_lane_that_was_given_nothing() -> None:
    lanes = Lanes(10)
    lanes.add(parcel("a@x.test"))
    assert lanes.next() is None
    lanes.give("x.test", limit=1, messages=None, speed=Speed.FAST)
    assert begun(lanes) == ["a@x.test"]


def test_recipients_that_go_another_way_go_on_their_own() -> None:
    ways = (("a@x.test", ""), ("b@x.test", "relay.test"), ("c@x.test", "relay.test"))
    lanes = lanes_with(*(parcel(name, route=route) for name, route in ways), parcel("d@x.test", is_sandbox=True))
    taken = [[one.recipient for one in lanes.next() or []] for _ in range(3)]
    assert taken == [["a@x.test"], ["b@x.test", "c@x.test"], ["d@x.test"]]


def test_a_lane_begins_no_more_messages_than_it_was_given() -> None:
    lanes = lanes_with(*(parcel(f"u{number}@x.test", f"msg_{number}") for number in range(5)), messages=2)
    assert len(begun(lanes)) == 2
    lanes.give("x.test", limit=10, messages=1, speed=Speed.FAST)
    assert len(begun(lanes)) == 1


def test_first_attempts_and_retries_begin_by_turns_and_one_connection_is_left_to_new_mail() -> None:
    retries = [parcel(f"r{number}@x.test", f"old_{number}", 1) for number in range(20)]
    lanes = lanes_with(*retries, limit=4)
    assert begun(lanes) == ["r0@x.test", "r1@x.test", "r2@x.test"]  # the fourth waits for new mail
    for number in range(3):
        lanes.add(parcel(f"n{number}@x.test", f"new_{number}"))
    assert begun(lanes) == ["n0@x.test"]
    order = []
    for _ in range(4):
        lanes.ended("x.test", was_retry=True)
        order += begun(lanes)
    assert [name[0] for name in order] == ["r", "n", "r", "n"]


def test_on_a_single_connection_they_take_turns_too() -> None:
    lanes = lanes_with(
        *(parcel(f"r{number}@x.test", f"old_{number}", 1) for number in range(3)),
        *(parcel(f"n{number}@x.test", f"new_{number}") for number in range(3)),
        limit=1,
    )
    order = []
    while parcels := lanes.next():
        order.append(parcels[0].recipient[0])
        lanes.ended("x.test", was_retry=parcels[0].attempts > 0)
    assert order == ["n", "r", "n", "r", "n", "r"]


def test_a_full_lane_of_retries_is_open_to_new_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queue.lanes.MAX_WAITING", 4)
    lanes = lanes_with(*(parcel(f"r{number}@x.test", f"old_{number}", 1) for number in range(4)), limit=2)
    assert lanes.full(retries=True) == {"x.test"}
    assert not lanes.full(retries=False)
    while parcels := lanes.next():
        lanes.ended("x.test", was_retry=parcels[0].attempts > 0)
    assert not lanes.full(retries=True)
    assert lanes.hungry(5) == ["x.test"]
    assert not lanes.is_hungry


def test_domains_that_hang_leave_room_for_those_that_answer() -> None:
    slow = [parcel(f"a@slow{number}.test") for number in range(60)]
    lanes = lanes_with(*slow, max_running=24)
    assert len(begun(lanes)) == 20  # nothing was known of them: a sixth stays free all the same
    for domain, lane in list(lanes):
        lanes.give(domain, limit=lane.limit, messages=None, speed=Speed.SLOW)
    assert begun(lanes) == []
    lanes.add(parcel("a@good.test"))
    lanes.give("good.test", limit=1, messages=None, speed=Speed.FAST)
    assert begun(lanes) == ["a@good.test"]


def test_known_slow_domains_take_half_of_all_deliveries_at_most() -> None:
    lanes = lanes_with(*(parcel(f"a@slow{number}.test") for number in range(60)), max_running=24)
    for domain, _ in list(lanes):
        lanes.give(domain, limit=1, messages=None, speed=Speed.SLOW)
    assert len(begun(lanes)) == 12
    for number in range(20):
        lanes.add(parcel(f"a@new{number}.test"))
        lanes.give(f"new{number}.test", limit=1, messages=None, speed=Speed.UNKNOWN)
    assert len(begun(lanes)) == 8


def recipients(parcels: Sequence[Parcel] | None) -> list[str]:
    return [one.recipient for one in parcels or ()]


def taken_along(lanes: Lanes, taken: list[Parcel] | None, *others: str) -> list[str]:
    """Take along who goes to one of these domains, or anywhere."""
    assert taken is not None
    return sorted(recipients(lanes.take_along(taken, lambda one: not others or one.domain in others)))


def test_recipients_in_other_domains_come_along_wherever_they_stand_if_they_go_the_same_way() -> None:
    lanes = lanes_with(parcel("a@x.test"), limit=1)
    taken = lanes.next()
    others = ["b@y.test", "d@y.test", "e@z.test", "f@other.test", "g@chosen.test"]
    lanes.add(parcel("c@y.test", "msg_2"))
    for recipient in others:
        lanes.add(parcel(recipient, route="relay.test" if recipient.startswith("g") else ""))
    for domain in ("y.test", "z.test", "other.test", "chosen.test"):
        lanes.give(domain, limit=1, messages=None, speed=Speed.FAST)
    assert taken is not None and lanes.has_others(taken[0])
    assert taken_along(lanes, taken, "y.test", "z.test", "chosen.test") == ["b@y.test", "d@y.test", "e@z.test"]
    assert lanes.waiting == 3 and "z.test" not in lanes and lanes.running == 1
    assert begun(lanes) == ["c@y.test", "f@other.test", "g@chosen.test"]
    assert not lanes.has_others(taken[0])


def test_retries_come_along_too_and_no_more_than_fit_a_transaction() -> None:
    lanes = lanes_with(parcel("a@x.test"), limit=1)
    taken = lanes.next()
    for number in range(MAX_JOB_RECIPIENTS + 20):
        domain = f"d{number // 3}.test"
        lanes.add(parcel(f"r{number}@{domain}", attempts=number % 2))
        lanes.give(domain, limit=1, messages=None, speed=Speed.FAST)
    assert len(taken_along(lanes, taken)) == MAX_JOB_RECIPIENTS - 1
    assert lanes.waiting == 21 and taken_along(lanes, [parcel("other@x.test", "msg_2")]) == []
    assert len(lanes.empty()) == 21 and not lanes.has_others(parcel("a@x.test"))


@pytest.mark.parametrize("terms", [{"limit": 0, "messages": None}, {"limit": 1, "messages": 5}])
def test_who_waits_for_a_pause_or_is_counted_does_not_come_along(terms: dict[str, Any]) -> None:
    lanes = lanes_with(parcel("a@x.test"), limit=1)
    lanes.add(parcel("b@y.test"))
    taken = lanes.next()
    lanes.give("y.test", speed=Speed.FAST, **terms)
    assert taken_along(lanes, taken) == []


def test_a_recipient_that_is_there_twice_comes_along_once_and_a_lane_that_is_empty_goes() -> None:
    lanes = lanes_with(parcel("a@x.test"), limit=1)
    for one in (parcel("b@y.test"), parcel("b@y.test"), parcel("c@z.test")):
        lanes.add(one)
    taken = lanes.next()
    for domain in ("y.test", "z.test"):
        lanes.give(domain, limit=1, messages=None, speed=Speed.FAST)
    assert taken_along(lanes, taken) == ["b@y.test", "c@z.test"]
    assert lanes.waiting == 1 and "z.test" not in lanes
    assert recipients(lanes.empty()) == ["b@y.test"] and lanes.waiting == 0
