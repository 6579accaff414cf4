"""Rate limits: the pure core, several processes that share a budget in memory, and what an outage may cost."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.limits.breaker import Breaker
from mailflow.limits.ledger import Answer, Ledger
from mailflow.limits.memory import MemoryBudgets
from mailflow.limits.presence import OtherListeners, report
from mailflow.limits.rules import Rule

WINDOW = 60
SUBJECT = "192.0.2.7"


def rule(limit: int, name: str = "limit.commands") -> Rule:
    return Rule(name, limit, WINDOW, "commands a minute from {}", "SMTP_RATE_LIMIT_COMMANDS")


class Process:
    """One listener, without a loop: it asks for a lease whenever it must, and by itself while it cannot."""

    def __init__(self, shared: MemoryBudgets) -> None:
        self.ledger = Ledger()
        self.shared = shared
        self.trips = 0

    def take(self, rule: Rule, amount: int, now: float, *, away: bool = False) -> bool:
        answer = self.ledger.spend(rule, SUBJECT, amount, now)
        while answer is Answer.ASK:
            if away:
                return not self.ledger.spend_alone(rule, SUBJECT, amount, now).exceeded
            self._lease(rule, amount, now)
            answer = self.ledger.spend(rule, SUBJECT, amount, now)
        return answer is Answer.WITHIN

    def look(self, rule: Rule, now: float) -> bool:
        if self.ledger.look(rule, SUBJECT, now) is Answer.ASK:
            self._lease(rule, 0, now)
        return self.ledger.look(rule, SUBJECT, now) is not Answer.EXCEEDED

    def _lease(self, rule: Rule, need: int, now: float) -> None:
        self.trips += 1
        request = self.ledger.request(rule, SUBJECT, need, now)
        (lease,) = self.shared.lease([request], now)
        self.ledger.granted(request, lease, now)


@given(limit=st.integers(1, 5000))
def test_a_lone_process_gets_its_whole_limit_and_nothing_more(limit: int) -> None:
    process = Process(MemoryBudgets())
    assert all(process.take(rule(limit), 1, 100.0) for _ in range(limit))
    assert not process.take(rule(limit), 1, 159.0)
    assert process.take(rule(limit), 1, 160.0)


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 40), st.booleans()), min_size=1, max_size=150
)


@given(limit=st.integers(1, 60), steps=STEPS)
def test_processes_together_never_pass_the_limit_in_a_window(
    limit: int, steps: list[tuple[int, int, int, bool]]
) -> None:
    shared = MemoryBudgets()
    processes = [Process(shared) for _ in range(4)]
    now, began, spent = 100.0, -1000.0, 0
    for who, amount, pause, looks in steps:
        now += pause
        if looks:
            processes[who].look(rule(limit), now)
        elif processes[who].take(rule(limit), amount, now):
            if now >= began + WINDOW:  # a window begins with the first use after the last one's end
                began, spent = now, 0
            spent += amount
            assert spent <= limit


@given(limit=st.integers(1, 400), others=st.integers(0, 4))
def test_what_others_hold_unused_is_a_block_each_at_most(limit: int, others: int) -> None:
    shared = MemoryBudgets()
    for _ in range(others):
        Process(shared).take(rule(limit), 1, 100.0)
    busy = Process(shared)
    got = sum(busy.take(rule(limit), 1, 101.0) for _ in range(limit))
    assert got >= limit - others * max(1, limit // 20)


@given(limit=st.integers(1, 200), count=st.integers(1, 5))
def test_processes_that_all_want_more_share_out_the_limit_to_the_last_one(limit: int, count: int) -> None:
    shared = MemoryBudgets()
    processes = [Process(shared) for _ in range(count)]
    assert sum(process.take(rule(limit), 1, 100.0) for _ in range(limit) for process in processes) == limit


OUTAGES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 25), st.booleans()), min_size=1, max_size=150)


@given(limit=st.integers(1, 20), steps=OUTAGES)
def test_outages_never_let_a_lone_process_pass_twice_its_limit_in_any_minute(
    limit: int, steps: list[tuple[int, int, bool]]
) -> None:
    process = Process(MemoryBudgets())
    now, spends = 100.0, list[tuple[float, int]]()
    for amount, pause, away in steps:
        now += pause
        if process.take(rule(limit), amount, now, away=away):
            spends.append((now, amount))
        assert sum(amount for at, amount in spends if at > now - WINDOW) <= 2 * limit


def test_what_was_spent_alone_is_charged_when_the_others_can_be_reached_again() -> None:
    shared = MemoryBudgets()
    one, other = Process(shared), Process(shared)
    assert all(one.take(rule(10), 1, 100.0, away=True) for _ in range(8))
    assert one.take(rule(10), 1, 110.0)
    assert other.take(rule(10), 1, 111.0)
    assert not other.take(rule(10), 1, 112.0) and not one.take(rule(10), 1, 112.0)


def test_a_process_alone_keeps_to_the_same_limit() -> None:
    process = Process(MemoryBudgets())
    assert [process.take(rule(3), 1, 100.0, away=True) for _ in range(5)] == [True, True, True, False, False]


def test_a_block_in_hand_is_spent_first_when_nobody_can_be_asked() -> None:
    process = Process(MemoryBudgets())
    process.take(rule(100), 1, 100.0)
    assert sum(process.take(rule(100), 1, 101.0, away=True) for _ in range(200)) == 99


def test_a_budget_that_was_seen_empty_stays_so_without_a_further_question() -> None:
    shared = MemoryBudgets()
    greedy, late = Process(shared), Process(shared)
    assert all(greedy.take(rule(10), 1, 100.0) for _ in range(10))
    refused = [late.take(rule(10), 1, 101.0) for _ in range(1000)]
    assert not any(refused) and late.trips == 1
    assert not late.take(rule(10), 1, 102.0, away=True)  # nor is an outage a way around


def test_a_raised_limit_counts_at_once() -> None:
    process = Process(MemoryBudgets())
    assert not all(process.take(rule(5), 1, 100.0) for _ in range(6))
    assert sum(process.take(rule(8), 1, 101.0) for _ in range(10)) == 3


def test_an_emptied_budget_begins_anew() -> None:
    shared = MemoryBudgets()
    process = Process(shared)
    for _ in range(5):
        process.take(rule(100), 1, 100.0)
    shared.forget()
    assert sum(process.take(rule(100), 1, 130.0) for _ in range(200)) == 100
    assert process.take(rule(100), 1, 190.0)


def test_looking_takes_nothing_and_keeps_nothing_back() -> None:
    shared = MemoryBudgets()
    processes = [Process(shared) for _ in range(8)]
    assert all(process.look(rule(5), 100.0) for process in processes for _ in range(3))
    assert all(processes[0].take(rule(5), 1, 101.0) for _ in range(5))
    assert not any(process.look(rule(5), 102.0) for process in processes)
    assert all(process.look(rule(5), 161.0) for process in processes)


@pytest.mark.parametrize("limit", [100, 1000, 1_000_000])
def test_a_whole_window_costs_few_trips(limit: int) -> None:
    process = Process(MemoryBudgets())
    amount = max(1, limit // 1000)
    while process.take(rule(limit), amount, 100.0):
        pass
    assert process.trips <= 60
    assert process.trips * 3 <= limit


def test_a_limit_of_a_million_is_not_asked_for_in_the_first_fifty_thousand() -> None:
    process = Process(MemoryBudgets())
    assert all(process.take(rule(1_000_000), 1, 100.0) for _ in range(50_000))
    assert process.trips == 1


def test_a_clock_that_was_set_back_shuts_nobody_out() -> None:
    process = Process(MemoryBudgets())
    assert not all(process.take(rule(5), 1, 100_000.0, away=True) for _ in range(6))
    assert process.take(rule(5), 1, 100.0, away=True)


def test_another_machines_clock_that_runs_ahead_holds_nobody_longer_than_a_window() -> None:
    shared = MemoryBudgets()
    ahead, right = Process(shared), Process(shared)
    assert not all(ahead.take(rule(5), 1, 130.0) for _ in range(6))
    assert not right.take(rule(5), 1, 100.0)
    assert right.ledger.exceeded(rule(5), SUBJECT, 100.0).retry_after_seconds <= WINDOW
    assert right.take(rule(5), 1, 190.0)


def test_the_accounts_are_bounded_and_the_oldest_make_room() -> None:
    ledger = Ledger(max_accounts_a_window=100)
    for number in range(10_000):
        ledger.spend_alone(rule(5), f"address {number}", 1, 100.0)
    assert len(ledger) == 100
    assert ledger.spend_alone(rule(5), "address 9999", 4, 100.0).exceeded is False
    assert ledger.spend_alone(rule(5), "address 9999", 1, 100.0).exceeded is True


def test_accounts_whose_window_ended_are_dropped_as_new_ones_come() -> None:
    ledger = Ledger()
    for number in range(1000):
        ledger.spend_alone(rule(5), f"old {number}", 1, 100.0)
    for number in range(500):
        ledger.spend_alone(rule(5), f"new {number}", 1, 200.0)
    assert len(ledger) == 500


def test_a_lease_that_comes_after_its_account_was_dropped_harms_nothing() -> None:
    ledger, shared = Ledger(max_accounts_a_window=1), MemoryBudgets()
    request = ledger.request(rule(100), SUBJECT, 1, 100.0)
    ledger.spend_alone(rule(100), "another", 1, 100.0)
    ledger.granted(request, shared.lease([request], 100.0)[0], 100.0)
    assert len(ledger) == 1 and ledger.spend(rule(100), SUBJECT, 1, 100.0) is Answer.ASK


def test_two_rules_of_one_subject_are_two_budgets() -> None:
    process = Process(MemoryBudgets())
    connections = dataclasses.replace(rule(1), name="limit.connections")
    assert process.take(rule(1), 1, 100.0) and process.take(connections, 1, 100.0)
    assert not process.take(rule(1), 1, 100.0)


def test_a_verdict_says_which_rule_in_words_and_when_to_come_again() -> None:
    process = Process(MemoryBudgets())
    process.take(rule(1), 1, 100.0)
    process.take(rule(1), 1, 100.0)
    verdict = process.ledger.exceeded(rule(1), SUBJECT, 117.5)
    assert verdict.exceeded and verdict.rule == "limit.commands" and verdict.retry_after_seconds == 43
    assert verdict.words == "1 commands a minute from 192.0.2.7 (SMTP_RATE_LIMIT_COMMANDS)"


# --- the circuit breaker ----------------------------------------------------------------------------------------------


def test_the_breaker_lets_one_try_through_after_each_pause() -> None:
    breaker = Breaker(pause_seconds=5)
    assert breaker.failed(100.0) and not breaker.failed(100.0)
    assert breaker.is_open and not breaker.may_try(104.9)
    assert breaker.may_try(105.0)
    breaker.trying(105.0)
    assert not breaker.may_try(106.0)
    breaker.succeeded()
    assert not breaker.is_open and not breaker.may_try(200.0)


def test_the_breaker_tries_again_when_the_clock_was_set_back() -> None:
    breaker = Breaker(pause_seconds=5)
    breaker.failed(100_000.0)
    assert breaker.may_try(100.0)


# --- the other listeners ----------------------------------------------------------------------------------------------


def test_the_connections_of_all_others_are_summed() -> None:
    others = OtherListeners()
    assert others.hear({b"a": report(1, 7), b"b": report(9, 5)}, 100.0) == 12


def test_a_listener_that_says_nothing_new_is_gone_after_three_seconds() -> None:
    others = OtherListeners()
    others.hear({b"a": report(1, 7), b"b": report(1, 5)}, 100.0)
    assert others.hear({b"a": report(2, 7), b"b": report(1, 5)}, 103.0) == 12
    assert others.hear({b"a": report(3, 7), b"b": report(1, 5)}, 103.1) == 7
    assert others.gone == [b"b"]
    assert others.hear({b"a": report(4, 7), b"b": report(2, 5)}, 104.0) == 12 and others.gone == []


@pytest.mark.parametrize("text", [b"", b":", b"1:-5", b"1:x", b"\xff\xfe", "1:²".encode()])
def test_a_report_that_is_none_counts_nothing(text: bytes) -> None:
    assert OtherListeners().hear({b"a": text}, 100.0) == 0
