"""What a destination has taught us, and what follows from it: growth, back-off, pauses (pure).

Connections grow by one for each round of deliveries that went well and are halved at each sign of too much, once for
all deliveries of one round. A destination that cannot be reached, or that closes even its last connection, is paused,
longer each time: what waits for it costs no attempt meanwhile, and one delivery tries it when the pause is over.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, replace

from queue.pacing.signals import Signal

FIRST_PAUSE = dt.timedelta(seconds=30)  # a destination out of reach
FIRST_CLOSING_PAUSE = dt.timedelta(seconds=5)  # one that says 421 to its only connection
LONGEST_PAUSE = dt.timedelta(minutes=30)
LONGEST_CLOSING_PAUSE = dt.timedelta(minutes=5)
JITTER = 0.2
STILL_WORKS = dt.timedelta(
    minutes=1
)  # a line lost so soon after a delivery says something of the message, not the host
REMEMBERED = dt.timedelta(days=1)
MAX_WORDS = 300


@dataclass(frozen=True, slots=True)
class State:
    """`learned`: connections at once that it bears, None while nothing speaks against the cap.

    `failures`: pauses in a row without a delivery. `failure`, `failed_at`: the last sign against it, in its own words.
    """

    learned: float | None = None
    failures: int = 0
    paused_until: dt.datetime | None = None
    backed_off_at: dt.datetime | None = None
    failure: str = ""
    failed_at: dt.datetime | None = None
    answered_at: dt.datetime | None = None

    @property
    def is_calm(self) -> bool:
        """Whether another success would change nothing but the time of the last one."""
        return self.learned is None and not self.failures and self.paused_until is None


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of one delivery as its destination's state takes it; `fraction` (0 to 1) spreads the end of a pause."""

    signal: Signal
    started_at: dt.datetime
    ended_at: dt.datetime
    words: str = ""
    fraction: float = 0.0


def capacity(state: State, cap: int, now: dt.datetime) -> int:
    """Return how many connections at once are allowed, over all workers; none while it is paused."""
    if is_paused(state.paused_until, now):
        return 0
    return cap if state.learned is None else min(cap, max(1, int(state.learned)))


def is_paused(until: dt.datetime | None, now: dt.datetime) -> bool:
    """A pause that is longer than any can be comes of a clock that was wrong, and is none."""
    return until is not None and now < until <= now + LONGEST_PAUSE * (1 + JITTER)


def after(state: State, marks: Iterable[Mark], cap: int) -> State:
    """Return what the state is after these ends, in the order in which they came."""
    for mark in marks:
        state = _after_one(state, mark, cap)
    return state


def _after_one(state: State, mark: Mark, cap: int) -> State:
    match mark.signal:
        case Signal.NOTHING:
            return state
        case Signal.ANSWERED:
            return replace(state, failures=0, paused_until=None, answered_at=mark.ended_at)
        case Signal.DELIVERED:
            return _grown(state, mark, cap)
    told = replace(state, failure=mark.words[:MAX_WORDS], failed_at=mark.ended_at)
    if state.backed_off_at is not None and mark.started_at < state.backed_off_at <= mark.ended_at:
        return told  # of the round that was answered for already
    if mark.signal is Signal.UNREACHABLE or (mark.signal is Signal.LOST and not _works(state, mark.ended_at)):
        return _paused(replace(told, learned=1.0), mark, FIRST_PAUSE, LONGEST_PAUSE)
    before = min(float(cap), state.learned or cap)
    if mark.signal is Signal.CLOSING and before < 2:
        return _paused(replace(told, learned=1.0), mark, FIRST_CLOSING_PAUSE, LONGEST_CLOSING_PAUSE)
    return replace(told, learned=max(1.0, before / 2), backed_off_at=mark.ended_at)


def _grown(state: State, mark: Mark, cap: int) -> State:
    learned = state.learned
    if learned is not None:
        learned += 1 / max(1.0, learned)
        learned = None if learned >= cap else learned
    return replace(state, learned=learned, failures=0, paused_until=None, answered_at=mark.ended_at)


def _works(state: State, now: dt.datetime) -> bool:
    return state.answered_at is not None and abs(now - state.answered_at) < STILL_WORKS


def _paused(state: State, mark: Mark, first: dt.timedelta, longest: dt.timedelta) -> State:
    pause = min(longest, first * 2 ** min(state.failures, 20)) * (1 + JITTER * mark.fraction)
    return replace(state, failures=state.failures + 1, paused_until=mark.ended_at + pause, backed_off_at=mark.ended_at)
