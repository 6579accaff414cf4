"""The engine under limits that change while it delivers (contract §6)."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from accounts.dns.memory import MemoryResolver
from accounts.models import User
from mailflow import runtime
from mailflow.runtime_fields import build
from queue.engine import Engine
from queue.models import Attempt, Entry
from queue.outcome import Outcome
from queue.tests.conftest import drain, open_entries, running_engine, wait_until
from queue.tests.outbound import IMPATIENT, Run, job, on_both_loops, options
from queue.tests.peers import Peer, Silence
from queue.transports.base import Job, Route
from queue.transports.memory import DELIVERED
from queue.transports.smtp import SmtpTransport

Accept = Callable[..., list[int]]
with_engine = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "POLL_SECONDS", 0.05)


class TurnstileTransport:
    """Lets deliveries end one by one, when it is told to."""

    name = "turnstile"

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self._turnstile = threading.Semaphore(0)

    @property
    def running(self) -> int:
        return self.begun - self.ended

    def let(self, count: int) -> None:
        self._turnstile.release(count)

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
        self.begun += 1
        await asyncio.to_thread(self._turnstile.acquire)
        self.ended += 1
        return dict.fromkeys(job.recipients, DELIVERED)

    async def close(self) -> None: ...


@pytest.fixture
def turnstile() -> Iterator[TurnstileTransport]:
    found = TurnstileTransport()
    yield found
    found.let(1000)


@pytest.fixture
def resolver() -> MemoryResolver:
    found = MemoryResolver()
    for name in ("x.example", *(f"d{number}.example" for number in range(20))):
        found.hosts[name] = ["198.41.0.4"]  # never connected to
    return found


def put(engine: Engine, **values: Any) -> None:
    """Set values as the API does, and wait until the engine works with them."""
    runtime.change(runtime.checked(["smtp"], values), actor="test")
    wanted = build(runtime.read()).smtp
    wait_until(lambda: engine._limits == wanted)


@with_engine
def test_a_larger_max_workers_begins_more_at_once_and_a_smaller_one_waits_for_the_ends(
    alice: User, accept: Accept, resolver: MemoryResolver, turnstile: TurnstileTransport, settings: Any
) -> None:
    settings.SMTP_MAX_WORKERS = 2
    ids = [entry for number in range(12) for entry in accept(f"a@d{number}.example")]
    with running_engine(turnstile, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: turnstile.begun == 2)
        put(engine, max_workers=5)
        wait_until(lambda: turnstile.begun == 5)
        put(engine, max_workers=3)
        turnstile.let(2)
        wait_until(lambda: turnstile.ended == 2)
        assert (turnstile.begun, turnstile.running) == (5, 3)
        turnstile.let(1)
        wait_until(lambda: turnstile.begun == 6)
        assert turnstile.running == 3
        put(engine, max_workers=None)
        turnstile.let(1000)
        wait_until(lambda: open_entries() == 0)
    assert turnstile.begun == 12
    assert Attempt.objects.count() == 12  # nothing was delivered twice


@with_engine
def test_a_larger_pool_size_begins_more_for_one_domain_and_a_smaller_one_waits_for_the_ends(
    alice: User, accept: Accept, resolver: MemoryResolver, turnstile: TurnstileTransport, settings: Any
) -> None:
    settings.SMTP_POOL_SIZE = 1
    ids = [entry for number in range(9) for entry in accept(f"u{number}@x.example")]
    with running_engine(turnstile, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: turnstile.begun == 1)
        put(engine, pool_size=4)
        wait_until(lambda: turnstile.begun == 4)
        put(engine, pool_size=2)
        turnstile.let(2)
        wait_until(lambda: turnstile.ended == 2)
        assert (turnstile.begun, turnstile.running) == (4, 2)
        turnstile.let(1)
        wait_until(lambda: turnstile.begun == 5)
        turnstile.let(1000)
        wait_until(lambda: open_entries() == 0)
    assert Attempt.objects.count() == 9


@with_engine
def test_an_engine_starts_with_what_was_set_before(
    alice: User, accept: Accept, resolver: MemoryResolver, turnstile: TurnstileTransport
) -> None:
    runtime.change(runtime.checked(["smtp"], {"max_workers": 1, "enabled": False}), actor="test")
    ids = [entry for number in range(3) for entry in accept(f"a@d{number}.example")]
    with running_engine(turnstile, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: turnstile.begun == 1)
        assert engine._limits.max_workers == 1
        turnstile.let(3)  # what is in the queue is delivered, though new mail is not taken
        wait_until(lambda: open_entries() == 0)


@with_engine
def test_a_shorter_timeout_holds_for_the_next_transaction_of_a_running_engine(
    alice: User, accept: Accept, settings: Any
) -> None:
    with Peer(mail=["250 2.1.0 ok", Silence()]).in_thread() as peer:
        settings.DELIVERY_MODE = "live"
        settings.RELAY_HOST, settings.RELAY_PORT, settings.RELAY_STARTTLS = "127.0.0.1", peer.port, "never"
        settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
        engine = Engine()
        engine.start()
        try:
            engine.ring(accept("a@x.example"))
            wait_until(lambda: open_entries() == 0)
            put(engine, timeout=0.1)
            engine.ring(accept("b@x.example"))
            wait_until(lambda: Entry.objects.get(recipient="b@x.example").status == Entry.Status.RETRY)
        finally:
            drain(engine)
    assert len(peer.messages) == 1


# --- the transport alone ---

pair = pytest.mark.parametrize(("size", "kept"), [(1, 1), (2, 2), (3, 3), (9, 3)])


@pair
@on_both_loops
def test_idle_sessions_over_a_smaller_pool_are_ended_at_once(run: Run, size: int, kept: int) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options(pool_size=3))
            await asyncio.gather(*(transport.deliver(job(), Route([peer.hop])) for _ in range(3)))
            assert len(transport._pool) == 3
            transport.change(timeouts=options().timeouts, pool_size=size)
            assert len(transport._pool) == kept
            await asyncio.gather(*(transport.deliver(job(), Route([peer.hop])) for _ in range(kept)))
            assert peer.connections == 3  # those that were kept are used
            await transport.close()
        assert peer.commands.count("QUIT") == 3

    run(body())


@on_both_loops
def test_no_session_with_other_timeouts_is_used_again(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options())
            await transport.deliver(job(), Route([peer.hop]))
            under_way = asyncio.create_task(transport.deliver(job(), Route([peer.hop])))
            await asyncio.sleep(0)  # it has taken the session
            transport.change(timeouts=IMPATIENT, pool_size=5)
            await under_way
            assert len(transport._pool) == 0
            await transport.deliver(job(), Route([peer.hop]))
            assert len(transport._pool) == 1
            await transport.close()
        assert (peer.connections, len(peer.messages)) == (2, 3)

    run(body())
