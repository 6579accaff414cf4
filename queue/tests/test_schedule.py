"""What follows an attempt (RFC 5321 §4.5.4.1, RFC 2852 §4.1.3, RFC 3461 §5.2.5)."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue.outcome import deferred, failed, from_reply
from queue.schedule import End, Step, Terms, needs_no_attempt, next_delay, next_step, terms_of, woken

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
        terms=Terms(NOW + age),
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


# --- deadlines and the word of a delay ---

HOUR = dt.timedelta(hours=1)
MINUTE = dt.timedelta(minutes=1)


def terms(
    mode: str = "",
    deliver_by: dt.timedelta | None = None,
    *,
    told: bool = False,
    wants_delay: bool = True,
    delay_after: dt.timedelta = 4 * HOUR,
) -> Terms:
    return terms_of(
        created_at=NOW,
        expires_at=NOW + dt.timedelta(days=5),
        deliver_by_at=None if deliver_by is None else NOW + deliver_by,
        deliver_by_mode=mode,
        wants_delay=wants_delay,
        delay_told_at=NOW if told else None,
        delay_after=delay_after,
    )


def deferred_at(age: dt.timedelta, of: Terms, *, attempts: int = 3, max_attempts: int = 5) -> Step:
    return next_step(
        LATER,
        attempts=attempts,
        max_attempts=max_attempts,
        now=NOW + age,
        terms=of,
        delays=DELAYS,
        fraction=0.0,
    )


def woken_at(age: dt.timedelta, of: Terms, retry: dt.timedelta | None) -> Step:
    retry_at = None if retry is None else NOW + retry
    return woken(retry_at=retry_at, attempts=3, max_attempts=5, now=NOW + age, terms=of)


@pytest.mark.parametrize("mode", ["R", "RT", "N", "NT"])
def test_an_entry_is_looked_at_by_its_deadline_although_its_retry_comes_later(mode: str) -> None:
    step = deferred_at(dt.timedelta(), terms(mode, 2 * MINUTE))
    assert (step.end, step.next_attempt_at, step.retry_at) == (End.RETRY, NOW + 2 * MINUTE, NOW + HOUR)
    assert not step.tells_delay


def test_a_retry_before_the_deadline_stays_where_it_is() -> None:
    step = deferred_at(dt.timedelta(), terms("R", 2 * HOUR))
    assert (step.next_attempt_at, step.retry_at) == (NOW + HOUR, None)


@pytest.mark.parametrize("mode", ["R", "RT"])
def test_mail_that_is_wanted_back_ends_at_its_deadline_without_another_attempt(mode: str) -> None:
    late = terms(mode, 2 * MINUTE)
    for age in (2 * MINUTE, HOUR):
        assert needs_no_attempt(retry_at=None, now=NOW + age, terms=late)
        for step in (woken_at(age, late, HOUR), deferred_at(age, late), deferred_at(age, late, attempts=5)):
            assert (step.end, step.is_expired, step.tells_delay) == (End.BOUNCED, True, False)
            assert "2026-01-01 00:02:00 UTC" in step.reason
    assert not needs_no_attempt(retry_at=None, now=NOW + MINUTE, terms=late)


def test_what_was_delivered_behind_the_deadline_is_delivered() -> None:
    step = next_step(
        OK, attempts=1, max_attempts=5, now=NOW + HOUR, terms=terms("R", MINUTE), delays=DELAYS, fraction=0
    )
    assert step.end is End.DELIVERED


def test_in_mode_n_the_sender_is_told_at_the_deadline_and_the_retry_keeps_its_time() -> None:
    late = terms("N", 2 * MINUTE)
    assert needs_no_attempt(retry_at=NOW + HOUR, now=NOW + 2 * MINUTE, terms=late)
    step = woken_at(2 * MINUTE, late, HOUR)
    assert (step.end, step.next_attempt_at, step.retry_at) == (End.RETRY, NOW + HOUR, None)
    assert step.tells_delay and "the time that the sender set (BY) has passed; attempt 4 of 5 follows" in step.reason
    assert not deferred_at(HOUR, terms("N", 2 * MINUTE, told=True)).tells_delay


def test_mail_that_was_late_when_it_came_is_told_of_after_the_first_attempt() -> None:
    late = terms("N", -HOUR)
    assert not needs_no_attempt(retry_at=None, now=NOW, terms=late)
    assert deferred_at(dt.timedelta(), late, attempts=1).tells_delay


def test_a_deadline_in_mode_n_takes_the_place_of_our_own_rule() -> None:
    day = terms("N", 24 * HOUR)
    assert not deferred_at(5 * HOUR, day).tells_delay
    assert deferred_at(25 * HOUR, day).tells_delay


def test_a_delay_is_told_once_after_the_time_set_and_costs_no_attempt() -> None:
    before = deferred_at(3 * HOUR + 30 * MINUTE, terms())
    assert (before.next_attempt_at, before.retry_at) == (NOW + 4 * HOUR, NOW + 4 * HOUR + 30 * MINUTE)
    at = woken_at(4 * HOUR, terms(), 5 * HOUR)
    assert (at.tells_delay, at.next_attempt_at, at.retry_at) == (True, NOW + 5 * HOUR, None)
    after = deferred_at(5 * HOUR, terms(told=True))
    assert (after.tells_delay, after.retry_at) == (False, None)


@pytest.mark.parametrize("quiet", [terms(wants_delay=False), terms(delay_after=dt.timedelta(0)), terms(told=True)])
def test_nobody_is_woken_to_tell_a_delay_that_nobody_is_to_hear_of(quiet: Terms) -> None:
    step = deferred_at(3 * HOUR + 30 * MINUTE, quiet)
    assert (step.tells_delay, step.retry_at) == (False, None)
    assert not deferred_at(30 * HOUR, quiet).tells_delay


def test_a_delay_may_be_told_before_a_deadline_ends_the_mail() -> None:
    both = terms("R", 6 * HOUR)
    first = next_step(LATER, attempts=2, max_attempts=9, now=NOW + MINUTE, terms=both, delays=[12 * HOUR], fraction=0.0)
    assert (first.next_attempt_at, first.retry_at) == (NOW + 4 * HOUR, NOW + MINUTE + 12 * HOUR)
    told = woken_at(4 * HOUR, both, 12 * HOUR)
    assert (told.tells_delay, told.next_attempt_at, told.retry_at) == (True, NOW + 6 * HOUR, NOW + 12 * HOUR)


def test_a_retry_asked_for_by_hand_is_made_at_once() -> None:
    assert not needs_no_attempt(retry_at=None, now=NOW + HOUR, terms=terms("N", MINUTE))


@given(
    mode=st.sampled_from(["", "R", "N", "RT", "NT"]),
    deliver_by=st.integers(-3600, 10**6),
    age=st.integers(0, 500_000),
    attempts=st.integers(1, 9),
    told=st.booleans(),
)
def test_no_entry_waits_behind_its_deadline_and_every_wake_gets_on(
    mode: str, deliver_by: int, age: int, attempts: int, told: bool
) -> None:
    of = terms(mode, dt.timedelta(seconds=deliver_by) if mode else None, told=told)
    now = NOW + dt.timedelta(seconds=age)
    step = next_step(LATER, attempts=attempts, max_attempts=9, now=now, terms=of, delays=DELAYS, fraction=0.5)
    for _ in range(4):  # at most two wakes come before an attempt
        if step.end is not End.RETRY:
            assert attempts == 9 or step.is_expired
            return
        assert step.next_attempt_at is not None and step.next_attempt_at > now
        if of.deliver_by_at is not None and of.deliver_by_at > now:
            assert step.next_attempt_at <= of.deliver_by_at
        if step.retry_at is None:
            return
        assert step.retry_at > step.next_attempt_at
        now = step.next_attempt_at
        if step.tells_delay:
            of = replace(of, delay_notice_at=None)
        step = woken(retry_at=step.retry_at, attempts=attempts, max_attempts=9, now=now, terms=of)
    raise AssertionError("it never came to the attempt")
