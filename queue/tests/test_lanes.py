"""The bookkeeping of what waits for each domain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from queue.claim import Parcel
from queue.lanes import Lanes


def parcel(recipient: str, message_id: str = "msg_1") -> Parcel:
    """As much of a parcel as a lane looks at."""
    found: Any = SimpleNamespace(recipient=recipient, domain=recipient.partition("@")[2], message_id=message_id)
    return cast(Parcel, found)


def test_what_is_taken_out_leaves_the_rest_in_order() -> None:
    lanes = Lanes(1)
    names = ["a@x.test", "b@x.test", "c@y.test", "d@x.test"]
    for name in names:
        lanes.add(parcel(name))
    taken = lanes.take_out(lambda one: one.recipient in {"b@x.test", "c@y.test"})
    assert [one.recipient for one in taken] == ["b@x.test", "c@y.test"]
    assert [one.recipient for one in lanes.next() or []] == ["a@x.test", "d@x.test"]
    assert lanes.next() is None


def test_what_has_begun_is_not_taken_out() -> None:
    lanes = Lanes(1)
    lanes.add(parcel("a@x.test"))
    assert lanes.next() is not None
    lanes.add(parcel("b@x.test", "msg_2"))
    assert [one.recipient for one in lanes.take_out(lambda _: True)] == ["b@x.test"]
    assert not lanes.ended("x.test")
    assert lanes.empty() == []
