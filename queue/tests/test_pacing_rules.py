"""What destinations teach, how workers share them, rates, plans and clocks: the pure part (docs/adr/0014)."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue.outcome import Outcome, deferred, failed, from_reply
from queue.pacing import clock, plan, rates, shares, signals, state
from queue.pacing.rates import Bucket
from queue.pacing.signals import Signal
from queue.pacing.state import Mark, State

NOW = dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
CAP = 10


def reply(code: int, text: str) -> Outcome:
    return from_reply(code, text, transport="smtp")


def silence(enhanced_code: str) -> Outcome:
    return deferred("no answer", transport="smtp", enhanced_code=enhanced_code)


@pytest.mark.parametrize(
    ("outcome", "signal"),
    [
        (reply(250, "2.0.0 taken"), Signal.DELIVERED),
        (reply(421, "4.7.0 too many connections"), Signal.CLOSING),
        (reply(450, "busy"), Signal.BUSY),
        (reply(451, "4.7.1 greylisted"), Signal.BUSY),
        (reply(452, "4.3.1 no room"), Signal.BUSY),
        (reply(454, "4.7.0 TLS is not available"), Signal.BUSY),
        (reply(452, "4.2.2 mailbox full"), Signal.ANSWERED),  # says something of one mailbox, and nothing of the host
        (reply(450, "4.1.8 sender's domain not found"), Signal.ANSWERED),
        (reply(432, "4.4.0 odd"), Signal.ANSWERED),
        (reply(550, "5.1.1 unknown"), Signal.ANSWERED),
        (silence("4.4.1"), Signal.UNREACHABLE),
        (silence("4.4.3"), Signal.UNREACHABLE),
        (silence("4.4.4"), Signal.UNREACHABLE),
        (silence("4.4.2"), Signal.LOST),
        (silence("4.7.5"), Signal.BUSY),
        (silence("4.3.0"), Signal.NOTHING),  # our own trouble
        (failed("null MX", transport="smtp", enhanced_code="5.1.10"), Signal.NOTHING),
        (from_reply(421, "4.3.2 simulated", transport="sandbox"), Signal.NOTHING),
    ],
)
def test_an_outcome_says_something_of_its_destination_or_nothing(outcome: Outcome, signal: Signal) -> None:
    assert signals.of_outcome(outcome) is signal


def test_of_several_recipients_one_delivered_speaks_for_the_destination_and_else_the_heaviest() -> None:
    busy, closing = reply(450, "busy"), reply(421, "4.3.2 going down")
    assert signals.of_delivery([busy, reply(250, "ok")]) == (Signal.DELIVERED, "")
    assert signals.of_delivery([busy, closing, reply(550, "no")]) == (Signal.CLOSING, "421 4.3.2 going down")
    assert signals.of_delivery([]) == (Signal.NOTHING, "")


def mark(signal: Signal, at: dt.datetime = NOW, *, took: dt.timedelta = SECOND, fraction: float = 0.0) -> Mark:
    return Mark(signal, at - took, at, "its words" if signal > Signal.DELIVERED else "", fraction)


def after(known: State, *marks: Mark) -> State:
    return state.after(known, marks, CAP)


def test_connections_are_halved_once_for_all_deliveries_of_one_round() -> None:
    found = after(State(), *[mark(Signal.BUSY, NOW + number * SECOND / 10) for number in range(10)])
    assert (found.learned, found.failure) == (5, "its words")
    assert after(found, mark(Signal.BUSY, NOW + 10 * SECOND)).learned == 2.5
    assert state.capacity(found, CAP, NOW) == 5


def test_they_grow_by_about_one_a_round_until_nothing_speaks_against_the_cap() -> None:
    found = State(learned=1.0)
    rounds = 0
    while found.learned is not None:
        found = after(found, *[mark(Signal.DELIVERED)] * state.capacity(found, CAP, NOW))
        rounds += 1
    assert rounds in range(8, 14)
    assert found.is_calm and state.capacity(found, CAP, NOW) == CAP


def test_what_cannot_be_reached_is_paused_longer_each_time_and_one_delivery_tries_it_then() -> None:
    found, at, pauses = State(), NOW, []
    for _ in range(9):
        found = after(found, mark(Signal.UNREACHABLE, at))
        assert found.paused_until is not None
        assert state.capacity(found, CAP, at) == 0
        pauses.append((found.paused_until - at).total_seconds())
        at = found.paused_until + SECOND
        assert state.capacity(found, CAP, at) == 1
        at += SECOND
    assert pauses == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
    found = after(found, mark(Signal.DELIVERED, at))
    assert (found.failures, found.paused_until) == (0, None)


def test_ten_that_fail_together_make_one_pause() -> None:
    found = after(State(), *[mark(Signal.UNREACHABLE, NOW + number * SECOND / 20) for number in range(10)])
    assert (found.failures, found.paused_until) == (1, NOW + state.FIRST_PAUSE)


def test_421_halves_and_pauses_only_who_has_a_single_connection_left() -> None:
    found = after(State(), mark(Signal.CLOSING))
    assert (found.learned, found.paused_until) == (5, None)
    found = after(State(learned=1.0), mark(Signal.CLOSING))
    assert found.paused_until == NOW + state.FIRST_CLOSING_PAUSE


def test_a_line_lost_pauses_but_where_a_delivery_ended_well_a_moment_ago() -> None:
    assert after(State(), mark(Signal.LOST)).paused_until is not None
    works = State(answered_at=NOW - 5 * SECOND)
    assert (after(works, mark(Signal.LOST)).paused_until, after(works, mark(Signal.LOST)).learned) == (None, 5)


def test_a_refusal_of_one_mail_shows_that_the_destination_answers() -> None:
    paused = State(failures=2, learned=1.0, paused_until=NOW)
    found = after(paused, mark(Signal.ANSWERED))
    assert (found.failures, found.paused_until, found.learned) == (0, None, 1.0)


def test_the_end_of_a_pause_is_spread_by_a_fifth() -> None:
    found = after(State(), mark(Signal.UNREACHABLE, fraction=1.0))
    assert found.paused_until == NOW + state.FIRST_PAUSE * 1.2


def test_after_a_jump_back_no_pause_is_longer_than_any_can_be() -> None:
    found = after(State(), mark(Signal.UNREACHABLE))
    hours_back = NOW - dt.timedelta(hours=5)
    assert state.capacity(found, CAP, hours_back) == 1
    again = after(found, mark(Signal.UNREACHABLE, hours_back))  # what it knew of a later time stops no learning
    assert again.paused_until == hours_back + 2 * state.FIRST_PAUSE


@given(st.lists(st.sampled_from(Signal), max_size=60), st.integers(1, 50))
def test_whatever_comes_the_capacity_stays_within_its_bounds(come: list[Signal], cap: int) -> None:
    found, at = State(), NOW
    for signal in come:
        at += 3 * SECOND
        found = state.after(found, [mark(signal, at)], cap)
        assert 0 <= state.capacity(found, cap, at) <= cap
        assert state.capacity(found, cap, at + dt.timedelta(hours=1)) >= 1  # no pause is for ever


# --- shares ---


def test_shares_are_even_and_what_nobody_asked_for_is_spread() -> None:
    assert shares.shares(10, {"a": 50, "b": 50}) == {"a": 5, "b": 5}
    assert shares.shares(10, {"a": 50, "b": 2}) == {"a": 8, "b": 2}
    assert shares.shares(10, {"a": 1, "b": 1}) == {"a": 5, "b": 5}
    assert shares.shares(1, {"a": 5, "b": 5, "c": 0}) == {"a": 1, "b": 0, "c": 0}
    assert shares.shares(0, {"a": 5}) == {"a": 0}
    assert shares.shares(7, {"a": 9, "b": 9, "c": 9}) == {"a": 3, "b": 2, "c": 2}


@given(st.integers(0, 40), st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 60), max_size=8))
def test_shares_hand_out_everything_and_nothing_more(capacity: int, demands: dict[str, int]) -> None:
    found = shares.shares(capacity, demands)
    assert sum(found.values()) == (capacity if any(demands.values()) else 0)
    lowest = min((found[name] for name in demands if found[name] < demands[name]), default=None)
    for name, count in found.items():  # nobody has more than its wish while another has less than that
        if lowest is not None and lowest < demands[name]:
            assert count <= lowest + 1


@given(st.data())
def test_workers_that_settle_one_after_the_other_never_hold_more_than_there_is(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 12))
    held: dict[str, int] = {}
    demands: dict[str, int] = {}
    for _ in range(30):
        worker = data.draw(st.sampled_from("abcd"))
        demands[worker] = data.draw(st.integers(0, 20))
        in_use = data.draw(st.integers(0, held.get(worker, 0)))
        held[worker] = shares.new_slots(capacity, worker=worker, in_use=in_use, demands=demands, held=held)
        assert held[worker] >= in_use
        assert sum(held.values()) <= capacity
    for _ in range(2):  # nothing runs any more: after a round each has its share
        for worker in sorted(held):
            held[worker] = shares.new_slots(capacity, worker=worker, in_use=0, demands=demands, held=held)
    assert held == {worker: shares.shares(capacity, demands)[worker] for worker in held}


# --- rates ---


@pytest.mark.parametrize("per_minute", [1, 20, 600])
def test_no_minute_sees_more_than_the_rate_and_a_little(per_minute: int) -> None:
    bucket, sent = Bucket(), []
    for step in range(1200):  # two minutes, ten looks a second
        at = NOW + step * SECOND / 10
        count, bucket = rates.taken(rates.filled(bucket, per_minute, at), 1000)
        sent += [at] * count
    for start in (0, 13, 30, 59):
        begins = NOW + start * SECOND
        within = sum(begins <= at < begins + 60 * SECOND for at in sent)
        assert per_minute - 1 <= within <= per_minute + max(1, per_minute * rates.BURST_SECONDS / 60) + 1


def test_the_next_message_has_a_time_and_a_clock_that_went_back_fills_nothing() -> None:
    _, bucket = rates.taken(rates.filled(Bucket(), 20, NOW), 5)
    after_it = rates.next_at(bucket, 20)
    assert after_it is not None and NOW < after_it <= NOW + 3 * SECOND
    back = rates.filled(bucket, 20, NOW - dt.timedelta(hours=3))
    assert (back.level, back.at) == (bucket.level, NOW - dt.timedelta(hours=3))


# --- plans ---


def test_a_plan_is_read_and_says_what_is_wrong_with_it() -> None:
    assert plan.parse("50, 100 200\n400") == [50, 100, 200, 400]
    for text, words in [("", "at least one"), ("5,zero", "Day 2"), ("0", "Day 1"), ("٣", "Day 1"), ("9" * 30, "Day 1")]:
        with pytest.raises(plan.InvalidPlan, match=words):
            plan.parse(text)
    with pytest.raises(plan.InvalidPlan, match="365"):
        plan.parse("1 " * 366)


def test_a_plan_allows_by_the_day_and_everything_before_and_after_it() -> None:
    start = NOW.date()
    day = dt.timedelta(days=1)
    found = [plan.allowed([50, 100], start, NOW + number * day) for number in (-1, 0, 1, 2)]
    assert found == [None, 50, 100, None]
    assert plan.next_day(NOW) == dt.datetime(2026, 11, 27, tzinfo=dt.UTC)


def test_the_default_plan_never_more_than_doubles() -> None:
    steps = plan.DEFAULT_STEPS
    assert all(before < later <= 2 * before for before, later in itertools.pairwise(steps))


# --- clocks ---


def test_a_jump_is_what_the_wall_shows_and_the_steady_clock_does_not() -> None:
    before = clock.Reading(NOW, 100.0)
    assert clock.jump(before, clock.Reading(NOW + 7 * SECOND, 105.0)) == dt.timedelta(0)
    assert clock.jump(before, clock.Reading(NOW - 3 * 3600 * SECOND, 102.0)) == dt.timedelta(hours=-3, seconds=-2)
    assert clock.jump(before, clock.Reading(NOW + 3600 * SECOND, 100.0)) == dt.timedelta(hours=1)


def test_a_state_is_calm_while_another_success_would_change_nothing() -> None:
    assert State(answered_at=NOW).is_calm
    assert not replace(State(), learned=3.0).is_calm
