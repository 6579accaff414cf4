"""What follows an attempt (RFC 5321 §4.5.4.1)."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from queue.outcome import deferred, failed, from_reply
from queue.schedule import End, next_delay, next_step

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DELAYS = [dt.timedelta(minutes=1), dt.timedelta(minutes=5), dt.timedelta(hours=1)]
OK = from_reply(250, "2.0.0 taken", transport="smtp")
LATER = from_reply(451, "4.7.1 greylisted", transport="smtp")
NEVER = from_reply(550, "5.1.1 unknown", transport="smtp")


def step(outcome: object, attempts: int = 1, max_attempts: int = 5, age: dt.timedelta = dt.timedelta(days=5)) -> object:
    return next_step(
        outcome,  # type: ignore[arg-type]
        attempts=attempts,
        max_attempts=max_attempts,
        now=NOW,
        expires_at=NOW + age,
        delays=DELAYS,
        fraction=0.0,
    )


def test_a_taken_message_is_delivered() -> None:
    assert step(OK).end is End.DELIVERED  # type: ignore[attr-defined]


def test_a_permanent_refusal_bounces_at_once() -> None:
    assert step(NEVER).end is End.BOUNCED  # type: ignore[attr-defined]
    assert step(failed("null MX", transport="smtp", enhanced_code="5.1.10")).end is End.BOUNCED  # type: ignore[attr-defined]


def test_a_deferred_attempt_is_repeated_by_the_schedule_whose_last_delay_repeats() -> None:
    waits = [step(LATER, attempts, max_attempts=9).next_attempt_at - NOW for attempts in (1, 2, 3, 4)]  # type: ignore[attr-defined]
    assert waits == [*DELAYS, DELAYS[-1]]


def test_the_last_attempt_bounces() -> None:
    assert step(LATER, attempts=5).end is End.BOUNCED  # type: ignore[attr-defined]


def test_no_attempt_is_planned_behind_the_age_limit() -> None:
    silence = deferred("no answer", transport="smtp")
    assert step(silence, age=dt.timedelta(seconds=59)).end is End.BOUNCED  # type: ignore[attr-defined]
    assert step(silence, age=dt.timedelta(seconds=61)).end is End.RETRY  # type: ignore[attr-defined]


@given(attempts=st.integers(1, 50), fraction=st.floats(0, 1))
def test_jitter_only_ever_stretches_and_by_a_fifth_at_most(attempts: int, fraction: float) -> None:
    plain = next_delay(DELAYS, attempts, 0.0)
    assert plain <= next_delay(DELAYS, attempts, fraction) <= plain * 1.2 + dt.timedelta(seconds=1)
