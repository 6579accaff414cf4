"""Rate limits with a real Redis: several listeners that share, a Redis that dies, is silent, or talks nonsense."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mailflow.limits.breaker import PAUSE_SECONDS
from mailflow.limits.ledger import Lease, LeaseRequest, Ledger
from mailflow.limits.limits import Limits
from mailflow.limits.memory import MemoryBudgets
from mailflow.limits.presence import SILENCE_SECONDS
from mailflow.limits.redis_budgets import PREFIX, RedisBudgets
from mailflow.limits.rules import Rule, Verdict
from mailflow.tests.redis_server import RedisServer, running_redis

ADDRESS = "192.0.2.7"


class Clock:
    """The time as the test says; it stands still in between."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def rule(limit: int, name: str = "limit.commands") -> Rule:
    return Rule(name, limit, 60, "commands a minute from {}", "SMTP_RATE_LIMIT_COMMANDS")


def run(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test, 60))


async def said(answer: Verdict | Awaitable[Verdict]) -> Verdict:
    return answer if isinstance(answer, Verdict) else await answer


async def take(limits: Limits, rule: Rule, times: int = 1, subject: str = ADDRESS) -> int:
    """Take one after the other; return how many were within the limit."""
    return sum([not (await said(limits.take(rule, subject))).exceeded for _ in range(times)])


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; `run` ends a test where it never does."""
    while not condition():  # noqa: ASYNC110  (what is waited for happens in Redis and in tasks of the limits)
        await asyncio.sleep(0.005)


@asynccontextmanager
async def listeners(url: str, count: int = 1, clock: Clock | None = None) -> AsyncIterator[list[Limits]]:
    made = [Limits(url, clock=clock or Clock(), timeout_seconds=5, beat_seconds=0.02) for _ in range(count)]
    try:
        yield made
    finally:
        for limits in made:
            await limits.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


@pytest.fixture
def empty(server: RedisServer) -> Iterator[redis.Redis[bytes]]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.config_resetstat()
        yield client


def trips(client: redis.Redis[bytes]) -> int:
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


# --- with Redis -------------------------------------------------------------------------------------------------------


def test_a_lone_listener_reaches_its_exact_limit_in_a_few_trips(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url) as (limits,):
            assert await take(limits, rule(100), 100) == 100
            refused = await said(limits.take(rule(100), ADDRESS))
            assert refused.exceeded and refused.rule == "limit.commands" and refused.retry_after_seconds == 60
            assert refused.words == "100 commands a minute from 192.0.2.7 (SMTP_RATE_LIMIT_COMMANDS)"
            asked = trips(empty)
            assert asked <= 33
            assert await take(limits, rule(100), 1000) == 0
            assert trips(empty) == asked  # a refused client costs Redis nothing

    run(test())


def test_a_block_in_hand_is_answered_at_once(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url) as (limits,):
            await take(limits, rule(1_000_000))
            assert all(isinstance(limits.take(rule(1_000_000), ADDRESS), Verdict) for _ in range(49_999))
            assert trips(empty) <= 2  # one, and once more where the script had to be loaded first

    run(test())


def test_two_listeners_share_one_limit(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url, 2) as (one, other):
            within = 0
            for _ in range(100):
                within += await take(one, rule(100)) + await take(other, rule(100))
            assert within == 100
            assert await take(one, rule(100), subject="192.0.2.8") == 1

    run(test())


def test_a_window_begins_with_the_first_use_and_ends_for_all(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        clock = Clock()
        async with listeners(server.url, 2, clock) as (one, other):
            clock.now += 59
            assert await take(one, rule(10), 11) == 10
            clock.now += 59
            assert await take(other, rule(10)) == 0
            assert (await said(other.take(rule(10), ADDRESS))).retry_after_seconds == 1
            clock.now += 1
            assert await take(other, rule(10), 11) == 10

    run(test())


def test_many_questions_at_once_are_one_trip_and_get_no_more_than_the_limit(
    server: RedisServer, empty: redis.Redis[bytes]
) -> None:
    async def test() -> None:
        async with listeners(server.url, 2) as (one, other):
            await take(one, rule(1), subject="a connection that is up")
            asked = trips(empty)
            answers = [one.take(rule(100), f"192.0.2.{number % 4}") for number in range(600)]
            verdicts = [await said(answer) for answer in answers]
            assert sum(not verdict.exceeded for verdict in verdicts) == 400
            assert trips(empty) - asked <= 2
            assert await take(other, rule(100), subject="192.0.2.1") == 0

    run(test())


def test_amounts_are_taken_whole_or_not_at_all(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url) as (limits,):
            assert not (await said(limits.take(rule(10), ADDRESS, 8))).exceeded
            assert (await said(limits.take(rule(10), ADDRESS, 3))).exceeded
            assert not (await said(limits.take(rule(10), ADDRESS, 2))).exceeded
            assert (await said(limits.take(rule(10), "192.0.2.8", 11))).exceeded
            assert await take(limits, rule(10), 10, "192.0.2.8") == 10

    run(test())


def test_a_look_takes_nothing_and_sees_what_another_listener_took(
    server: RedisServer, empty: redis.Redis[bytes]
) -> None:
    async def test() -> None:
        async with listeners(server.url, 3) as (one, other, third):
            for limits in (one, other, third):
                for _ in range(10):
                    assert not (await said(limits.would_exceed(rule(5), ADDRESS))).exceeded
            assert empty.keys() == []
            assert await take(one, rule(5), 3) + await take(other, rule(5), 3) == 5
            verdict = await said(third.would_exceed(rule(5), ADDRESS))
            assert verdict.exceeded and "5 commands a minute" in verdict.words
            assert isinstance(third.would_exceed(rule(5), ADDRESS), Verdict)

    run(test())


def test_several_rules_are_taken_in_turn_until_one_is_exceeded(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url, 2) as (one, other):
            address, network = rule(100), rule(3, "limit.network_commands")
            both = [(address, ADDRESS), (network, "192.0.2.0/24")]
            verdicts = [await said(one.take_all(both)) for _ in range(5)]
            assert [verdict.rule for verdict in verdicts] == ["", "", "", network.name, network.name]
            assert (await said(other.take_all(both))).exceeded
            assert isinstance(one.take_all([]), Verdict)

    run(test())


def test_a_limit_of_0_and_nobody_are_never_exceeded(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url) as (limits,):
            for subject, limit in ((ADDRESS, 0), ("", 1)):
                answers = [limits.take(rule(limit), subject) for _ in range(100)]
                answers.append(limits.would_exceed(rule(limit), subject))
                assert all(isinstance(answer, Verdict) and not answer.exceeded for answer in answers)
            assert empty.keys() == []

    run(test())


def test_budgets_leave_redis_with_their_window(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url) as (limits,):
            await take(limits, rule(10), 11)
            (key,) = empty.keys()
            assert 0 < empty.pttl(key) <= 60_000

    run(test())


@pytest.mark.parametrize("subject", ["two words\r\n", "\udc80surrogate", "ü@bücher.example", "{}{0}%s", "x" * 5000])
def test_hostile_subjects_are_counted_like_others(subject: str, server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url, 2) as (one, other):
            assert await take(one, rule(3), 2, subject) + await take(other, rule(3), 2, subject) == 3

    run(test())


def test_a_session_that_is_gone_leaves_nobody_else_waiting(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url) as (limits,):
            answers = [limits.take(rule(10), ADDRESS) for _ in range(12)]
            for answer in answers[:4]:
                assert isinstance(answer, asyncio.Future)
                answer.cancel()
            verdicts = [await said(answer) for answer in answers[4:]]
            assert not any(verdict.exceeded for verdict in verdicts)
            assert await take(limits, rule(10), 5) == 2

    run(test())


REQUESTS = st.lists(
    st.tuples(st.integers(0, 70), st.integers(0, 9), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=30
)


@given(limit=st.integers(1, 60), steps=REQUESTS)
def test_redis_answers_as_the_memory_does(
    server: RedisServer, limit: int, steps: list[tuple[int, int, int, int]]
) -> None:
    async def test() -> None:
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        memory, shared, now = MemoryBudgets(), RedisBudgets(server.url), 1_800_000_000.25
        account = Ledger().request(rule(limit), ADDRESS, 1, now).account
        for pause, need, block, debt in steps:
            now += pause
            request = LeaseRequest(rule(limit), ADDRESS, need, block, debt, account, 0)
            asked: list[Lease] = await shared.lease([request, request], now)
            assert asked == memory.lease([request, request], now)
        await shared.drop()

    run(test())


# --- without Redis ----------------------------------------------------------------------------------------------------


def test_a_redis_that_dies_and_comes_back_is_told_once_each_and_mail_goes_on() -> None:
    async def test(server: RedisServer) -> None:
        clock = Clock()
        async with listeners(server.url, 2, clock) as (one, other):
            assert await take(one, rule(20), 5) + await take(other, rule(20), 5) == 10
            with capture_logs() as logs:
                server.kill()
                assert await take(one, rule(20), 30) == 15  # by itself: the same limit
                assert await take(other, rule(20), 30) == 15
                assert one.other_connections == 0
            assert [entry["event"] for entry in logs] == ["limits.redis_away"] * 2
            with capture_logs() as logs:
                server.start()
                assert isinstance(one.take(rule(20), "192.0.2.8"), Verdict)  # not before the pause is over
                clock.now += PAUSE_SECONDS
                for limits in (one, other):
                    assert isinstance(limits.take(rule(20), "192.0.2.9"), Verdict)  # and whoever tries does not wait
                await until(lambda: len(logs) == 2)
                assert {entry["event"] for entry in logs} == {"limits.redis_back"}
            clock.now += 60
            assert await take(one, rule(20), 12) + await take(other, rule(20), 12) == 20

    with running_redis() as server:
        run(test(server))


def test_what_was_taken_without_redis_is_charged_when_it_is_back() -> None:
    async def test(server: RedisServer) -> None:
        clock = Clock()
        server.kill()
        async with listeners(server.url, 2, clock) as (one, other):
            assert await take(one, rule(20), 18) == 18
            server.start()
            clock.now += PAUSE_SECONDS
            one.take(rule(20), "somebody else")
            await until(lambda: not one._breaker.is_open)
            assert await take(one, rule(20)) == 1
            assert await take(other, rule(20), 5) == 1

    with running_redis() as server:
        run(test(server))


def test_an_emptied_redis_without_our_script_is_no_outage(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url) as (limits,):
            with capture_logs() as logs:
                assert await take(limits, rule(10), 5) == 5
                empty.flushall()
                empty.script_flush()
                assert await take(limits, rule(10), 20) >= 5
                assert logs == []

    run(test())


def test_a_redis_that_is_full_is_away_until_it_takes_writes_again(
    server: RedisServer, empty: redis.Redis[bytes]
) -> None:
    async def test() -> None:
        clock = Clock()
        async with listeners(server.url, 1, clock) as (limits,):
            with capture_logs() as logs:
                empty.config_set("maxmemory", 1)
                try:
                    assert await take(limits, rule(10), 12) == 10
                    for _ in range(3):
                        clock.now += PAUSE_SECONDS
                        limits.take(rule(10), ADDRESS)
                        await until(lambda: not limits._tasks)
                    assert [entry["event"] for entry in logs] == ["limits.redis_away"]
                finally:
                    empty.config_set("maxmemory", 0)
                clock.now += PAUSE_SECONDS
                limits.take(rule(10), ADDRESS)
                await until(lambda: len(logs) == 2)
                assert logs[-1]["event"] == "limits.redis_back"

    run(test())


class Impostor:
    """Accepts connections where a Redis should be, and says what it is told to say: by default nothing, ever."""

    def __init__(self, says: bytes = b"") -> None:
        self.accepted = 0
        self._says = says
        self._kept: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://:secret@127.0.0.1:{self._door.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            self.accepted += 1
            self._kept.append(client)
            if self._says:
                client.sendall(self._says)

    def __enter__(self) -> Impostor:
        return self

    def __exit__(self, *_: object) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for client in self._kept:
            client.close()


def test_a_silent_redis_is_waited_for_once_and_then_left_alone() -> None:
    async def test(impostor: Impostor) -> None:
        clock = Clock()
        limits = Limits(impostor.url, clock=clock)
        with capture_logs() as logs:
            answers = [limits.take(rule(10), ADDRESS) for _ in range(15)]
            await asyncio.wait([answer for answer in answers if isinstance(answer, asyncio.Future)][:1])
            verdicts = [await said(answer) for answer in answers]
            assert [verdict.exceeded for verdict in verdicts] == [False] * 10 + [True] * 5
            rest = [limits.take(rule(10), f"192.0.2.{number % 250}") for number in range(1000)]
            assert all(isinstance(answer, Verdict) for answer in rest)
            await until(lambda: impostor.accepted > 0)
            assert impostor.accepted == 1
            clock.now += PAUSE_SECONDS
            assert isinstance(limits.take(rule(10), "192.0.2.251"), Verdict)
            await until(lambda: impostor.accepted == 2)
            await until(lambda: not limits._tasks)
            assert isinstance(limits.take(rule(10), "192.0.2.251"), Verdict)
            assert [(entry["event"], entry["cause"]) for entry in logs] == [("limits.redis_away", "TimeoutError")]
        await limits.close()

    with Impostor() as impostor:
        run(test(impostor))


def test_whoever_comes_while_a_silent_redis_is_waited_for_waits_no_longer_than_the_first() -> None:
    async def test(impostor: Impostor) -> None:
        limits = Limits(impostor.url, clock=Clock(), timeout_seconds=2)  # time enough to come after the first
        first = limits.take(rule(10), ADDRESS)
        await until(lambda: impostor.accepted == 1)
        second = limits.take(rule(10), "192.0.2.8")
        third = limits.would_exceed(rule(10), "192.0.2.9")
        assert not (await said(first)).exceeded
        await asyncio.sleep(0)
        assert all(isinstance(answer, asyncio.Future) and answer.done() for answer in (second, third))
        await limits.close()

    with Impostor() as impostor:
        run(test(impostor))


@pytest.mark.parametrize(
    "says", [b"-ERR go away\r\n" * 50, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\xff" * 500, b":1\r\n"]
)
def test_a_redis_that_talks_nonsense_is_away(says: bytes) -> None:
    async def test(impostor: Impostor) -> None:
        async with listeners(impostor.url) as (limits,):
            limits._timeout = 0.25
            assert await take(limits, rule(10), 15) == 10

    with Impostor(says) as impostor:
        run(test(impostor))


@pytest.mark.parametrize("url", ["", "nonsense", "http://127.0.0.1/", "redis://127.0.0.1:1/0", "unix:///nowhere/redis"])
def test_an_address_without_a_redis_is_away(url: str) -> None:
    async def test() -> None:
        async with listeners(url) as (limits,):
            limits.publish_connections(3)
            assert await take(limits, rule(10), 15) == 10
            assert not (await said(limits.would_exceed(rule(10), "192.0.2.8"))).exceeded
            assert (await said(limits.would_exceed(rule(10), ADDRESS))).exceeded

    run(test())


def test_closing_answers_whoever_still_waits() -> None:
    async def test(impostor: Impostor) -> None:
        limits = Limits(impostor.url, clock=Clock(), timeout_seconds=20)
        answers = [limits.take(rule(2), ADDRESS) for _ in range(2)]
        await until(lambda: impostor.accepted == 1)
        answers.append(limits.take(rule(2), ADDRESS))
        limits._timeout = 0.25
        await limits.close()
        assert [(await said(answer)).exceeded for answer in answers] == [False, False, True]
        assert isinstance(limits.take(rule(2), "192.0.2.8"), Verdict)
        await limits.close()

    with Impostor() as impostor:
        run(test(impostor))


# --- connections ------------------------------------------------------------------------------------------------------


def test_each_listener_hears_how_many_connections_the_others_hold(
    server: RedisServer, empty: redis.Redis[bytes]
) -> None:
    async def test() -> None:
        clock = Clock()
        async with listeners(server.url, 3, clock) as (one, other, third):
            one.publish_connections(7)
            other.publish_connections(30)
            third.publish_connections(0)
            await until(lambda: third.other_connections == 37 and one.other_connections == 30)
            clock.now += 1
            one.publish_connections(50)
            await until(lambda: other.other_connections == 50)
            await one.close()
            await until(lambda: third.other_connections == 30)
            assert len(empty.hgetall("mailproj:listeners")) == 2

    run(test())


def test_a_listener_that_was_killed_is_forgotten(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        clock = Clock()
        async with listeners(server.url, 1, clock) as (limits,):
            empty.hset("mailproj:listeners", "killed", "9:80")
            limits.publish_connections(1)
            await until(lambda: limits.other_connections == 80)
            clock.now += SILENCE_SECONDS + 0.5
            await until(lambda: limits.other_connections == 0)
            await until(lambda: b"killed" not in empty.hgetall("mailproj:listeners"))
            assert 0 < empty.ttl("mailproj:listeners") <= 60

    run(test())


def test_keys_of_ours_are_all_under_one_prefix(server: RedisServer, empty: redis.Redis[bytes]) -> None:
    async def test() -> None:
        async with listeners(server.url, 2) as (limits, other):
            limits.publish_connections(1)
            await take(limits, rule(10))
            other.publish_connections(0)
            await until(lambda: other.other_connections == 1)
            assert all(key.startswith(PREFIX) for key in empty.scan_iter())

    run(test())
