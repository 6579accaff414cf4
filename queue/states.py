"""What a queue entry's state is called wherever people read it: its status, or that it is on hold or scheduled."""

from __future__ import annotations

from typing import NamedTuple

from queue.models import Entry


class State(NamedTuple):
    """`name` is for programs and colours, `label` for people."""

    name: str
    label: str


HELD = State("held", "On hold")
SCHEDULED = State("scheduled", "Scheduled")


def state_of(entry: Entry) -> State:
    if entry.status in Entry.OPEN and entry.held_at is not None:
        return HELD
    if entry.status == Entry.Status.PENDING and entry.scheduled_at is not None and not entry.attempts:
        return SCHEDULED
    return State(entry.status, entry.get_status_display())
