"""Engines that keep to limits together: real peers that count, workers that die, hosts that hang, plans and rates."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from accounts.models import Domain, User
from mailflow.models import Event
from queue import control
from queue.engine import Engine
from queue.lanes import Speed
from queue.models import Attempt, Destination, Entry, Slots, WarmupPlan, Worker
from queue.outcome import Outcome, deferred
from queue.pacing import inheritance, warmup
from queue.pacing.state import FIRST_PAUSE
from queue.tests.conftest import drain, open_entries, running_engine, wait_until
from queue.tests.peers import Peer, Slowly
from queue.transports.base import Job, Route
from queue.transports.memory import DELIVERED, MemoryTransport

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]
SECOND = dt.timedelta(seconds=1)
OUT_OF_REACH = deferred("no answer", transport="smtp", enhanced_code="4.4.1")


@dataclass
class CountingPeer(Peer):
    """Counts the connections that are open at once, `open_now` and the most there ever were."""

    open_now: int = 0
    most: int = 0
    counted: list[int] = field(default_factory=list)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        self.most = max(self.most, self.open_now)
        try:
            await super()._serve(reader, writer)
        finally:
            self.open_now -= 1


def slow_peer() -> CountingPeer:
    return CountingPeer(dot=(Slowly("250 2.0.0 taken", 0.004),))


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setattr("queue.pacing.beats.BEAT_SECONDS", 0.1)
    settings.DELIVERY_MODE = "live"  # mail of the sandbox goes beside the lanes, and needs no plan
    settings.SWEEP_INTERVAL_SECONDS = 0.3


@pytest.fixture
def small_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no engine takes all there is before the other has started."""
    monkeypatch.setattr("queue.claimer.CLAIM_BATCH", 6)
    monkeypatch.setattr("queue.lanes.MAX_WAITING", 6)


@pytest.fixture
def resolver() -> MemoryResolver:
    found = MemoryResolver()
    names = ["x.example", "good.example", *(f"d{number}.example" for number in range(40))]
    for name in names:
        found.hosts[name] = ["198.41.0.4"]  # never connected to: the transport is in memory
    return found


@contextmanager
def engines_to(peer: Peer, settings: Any, count: int) -> Iterator[list[Engine]]:
    """Engines that send everything to the peer, as workers beside each other."""
    settings.RELAY_HOST, settings.RELAY_PORT, settings.RELAY_STARTTLS = "127.0.0.1", peer.port, "never"
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    engines = [Engine() for _ in range(count)]
    for engine in engines:
        engine.start()
    try:
        yield engines
    finally:
        for engine in engines:
            drain(engine)


class ByDomain:
    """Hangs for the domains named, until it is let go, and delivers for all others."""

    name = "test"

    def __init__(self, *hanging: str) -> None:
        self.hanging, self.begun = hanging, Counter[str]()
        self.gate = threading.Event()

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
        domain = job.recipients[0].partition("@")[2]
        self.begun[domain] += 1
        if domain in self.hanging:
            await asyncio.to_thread(self.gate.wait)
        return dict.fromkeys(job.recipients, DELIVERED)

    async def close(self) -> None: ...


def many(accept: Accept, count: int, domain: str = "x.example") -> list[int]:
    return [entry for number in range(count) for entry in accept(f"u{number}@{domain}")]


def keep_waiting(accept: Accept) -> None:
    """Keep mail waiting: a worker that is slow to start finds some, too."""
    if open_entries() < 40:
        many(accept, 4)


# --- several workers ---


def test_two_engines_never_have_more_connections_than_the_destination_is_allowed(
    alice: User, accept: Accept, settings: Any, small_claims: None
) -> None:
    settings.SMTP_POOL_SIZE = 3
    many(accept, 60)
    peer = slow_peer()

    def both_work() -> bool:
        keep_waiting(accept)
        return Attempt.objects.order_by().values("worker").distinct().count() == 2

    with peer.in_thread(), engines_to(peer, settings, 2):
        wait_until(both_work)
        wait_until(lambda: open_entries() == 0)
    assert peer.most == 3
    assert len(peer.messages) == Entry.objects.count()  # none twice


def test_a_third_engine_that_comes_later_gets_its_share_and_the_limit_of_staff_holds(
    alice: User, accept: Accept, settings: Any, small_claims: None
) -> None:
    Destination.objects.create(domain="x.example", max_connections=4, used_at=timezone.now())
    settings.SMTP_POOL_SIZE = 50
    many(accept, 40)
    peer = slow_peer()
    with peer.in_thread(), engines_to(peer, settings, 1):
        wait_until(lambda: peer.most == 4)
        with engines_to(peer, settings, 1) as later:

            def has_a_share() -> bool:
                keep_waiting(accept)
                return Slots.objects.filter(worker=later[0].worker, held__gt=0).exists()

            wait_until(has_a_share)
            wait_until(lambda: open_entries() == 0)
    assert peer.most == 4
    assert len(peer.messages) == Entry.objects.count()


WORKER = """
import os, time, django
import mailproj
django.setup()
from queue.pacing import beats
beats.BEAT_SECONDS = 0.1
from queue import engine
engine.current()
time.sleep(120)
"""


def start_worker(peer: Peer, *, lease: int = 3) -> subprocess.Popen[bytes]:
    """Start a worker process on the test's own database."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        url = f"sqlite:///{name}"
    else:
        head, _, query = os.environ["DATABASE_URL"].partition("?")
        url = f"{head.rpartition('/')[0]}/{name}?{query}"
    environment = os.environ | {
        "DATABASE_URL": url,
        "DELIVERY_MODE": "live",
        "RELAY_HOST": "127.0.0.1",
        "RELAY_PORT": str(peer.port),
        "RELAY_STARTTLS": "never",
        "SMTP_POOL_SIZE": "2",
        "QUEUE_LEASE_SECONDS": str(lease),
    }
    return subprocess.Popen([sys.executable, "-c", WORKER], env=environment)


def test_a_worker_killed_with_9_frees_its_slots_when_its_lease_ends(alice: User, accept: Accept, settings: Any) -> None:
    settings.SMTP_POOL_SIZE, settings.QUEUE_LEASE_SECONDS = 2, 3
    many(accept, 8)
    with ExitStack() as stack:
        hanging = stack.enter_context(CountingPeer(dot=(Slowly("250 2.0.0 taken", 9.0),)).in_thread())
        process = start_worker(hanging)
        stack.callback(process.kill)
        assert isinstance(hanging, CountingPeer)
        wait_until(lambda: hanging.open_now == 2)
        dead = Worker.objects.get()
        assert Slots.objects.get(worker=dead.name).held == 2
        peer = stack.enter_context(slow_peer().in_thread())
        assert isinstance(peer, CountingPeer)
        with engines_to(peer, settings, 1):
            wait_until(lambda: Worker.objects.count() == 2)
            process.kill()
            process.wait()
            wait_until(lambda: open_entries() == 0)
            dead.refresh_from_db()
            assert Attempt.objects.earliest("started_at").started_at >= dead.leased_until
    assert len(peer.messages) == 8 and peer.most <= 2


def test_what_a_killed_worker_had_is_taken_over_at_once_by_the_next_on_its_machine(
    alice: User, accept: Accept, settings: Any
) -> None:
    settings.SMTP_POOL_SIZE, settings.QUEUE_LEASE_SECONDS = 2, 3600
    many(accept, 8)
    with ExitStack() as stack:
        hanging = stack.enter_context(CountingPeer(dot=(Slowly("250 2.0.0 taken", 60.0),)).in_thread())
        process = start_worker(hanging, lease=3600)
        stack.callback(process.kill)
        assert isinstance(hanging, CountingPeer)
        wait_until(lambda: hanging.open_now == 2)
        dead = Worker.objects.get()
        process.kill()
        process.wait()
        peer = stack.enter_context(slow_peer().in_thread())
        with engines_to(peer, settings, 1):
            wait_until(lambda: open_entries() == 0)
        dead.refresh_from_db()
        assert dead.leased_until <= timezone.now()
        assert not Slots.objects.filter(worker=dead.name).exists()
    assert len(peer.messages) == 8
    told = Event.objects.filter(rule="queue.worker_killed", actor=dead.name)
    assert Entry.objects.filter(claims__gt=0).count() == 0
    assert len(told) == 8 and all("may arrive twice" in event.summary for event in told)


def test_a_worker_that_runs_keeps_what_it_has_when_another_starts(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.SMTP_POOL_SIZE = 2
    transport = ByDomain("x.example")
    ids = many(accept, 3)
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: transport.begun["x.example"] == 2 and Slots.objects.filter(held=2).exists())
        assert inheritance.take_over(timezone.now(), dt.timedelta(seconds=60)) == 0
        assert Slots.objects.get().held == 2
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    assert Attempt.objects.count() == 3


def test_an_engine_that_cannot_renew_begins_nothing_that_others_may_have(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.QUEUE_LEASE_SECONDS, settings.SMTP_POOL_SIZE = 2, 1
    transport = ByDomain("x.example")
    ids = many(accept, 3)
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: transport.begun["x.example"] == 1)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE queue_worker RENAME TO queue_worker_away")
        try:
            wait_until(lambda: engine._pacer._steady() > engine._pacer.holds_until)
            transport.gate.set()
            wait_until(lambda: Entry.objects.filter(status="delivered").count() == 1)
            assert transport.begun["x.example"] == 1
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE queue_worker_away RENAME TO queue_worker")
        wait_until(lambda: open_entries() == 0)
    assert transport.begun["x.example"] == 3


def test_a_worker_tells_what_it_does_and_leaves_no_row_behind(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = ByDomain("x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(many(accept, 15))
        row = wait_until(lambda: Worker.objects.filter(running=10, waiting=5, in_flight=15).first())
        assert row.name == engine.worker and row.pid == os.getpid()
        assert {told["destination"] for told in row.deliveries} == {"x.example"}
        assert len(row.deliveries) == 10 and row.deliveries[0]["message_id"].startswith("msg_")
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    assert (Worker.objects.count(), Slots.objects.count()) == (0, 0)


# --- what destinations teach ---


def test_a_dead_domain_with_much_mail_burns_no_attempts_and_is_kept_in_mind(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    gone = deferred("no connection: timed out", transport="smtp", enhanced_code="4.4.1")
    transport = MemoryTransport()
    for number in range(150):
        transport.script[f"u{number}@x.example"].append(gone)
    ids = many(accept, 150)
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: Destination.objects.filter(failures=1).exists())
        wait_until(lambda: not Entry.objects.exclude(lease="").exists())
        engine.ring(accept("a@good.example"))
        wait_until(lambda: Entry.objects.filter(domain="good.example", status="delivered").exists())
    assert Attempt.objects.filter(outcome="deferred").count() <= 10  # those that ran together
    row = Destination.objects.get(domain="x.example")
    assert row.failure == "no connection: timed out" and row.paused_until is not None
    assert set(Entry.objects.filter(domain="x.example", attempts=0).values_list("status", flat=True)) == {"pending"}
    with running_engine(transport, resolver) as engine:  # a restart forgets nothing
        engine.ring(ids)
        engine.ring(accept("b@good.example"))
        wait_until(lambda: Entry.objects.filter(recipient="b@good.example", status="delivered").exists())
        assert Attempt.objects.filter(entry__domain="x.example").count() <= 10
        Destination.objects.update(paused_until=None)  # as a person does who resumes it
        transport.script.clear()
        wait_until(lambda: not Entry.objects.filter(domain="x.example", attempts=0, status="pending").exists())


def test_421_to_many_connections_is_answered_with_fewer(alice: User, accept: Accept, settings: Any) -> None:
    settings.SMTP_POOL_SIZE, settings.RETRY_SCHEDULE = 8, [dt.timedelta(seconds=0.2)]
    settings.QUEUE_MAX_ATTEMPTS = 50
    many(accept, 40)

    class Strict(CountingPeer):
        """Takes two connections at once and closes the others with 421."""

        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self.open_now >= 2:
                writer.write(b"421 4.7.0 too many connections from you\r\n")
                writer.close()
                return
            await super()._serve(reader, writer)

    peer = Strict(dot=(Slowly("250 2.0.0 taken", 0.004),))
    with peer.in_thread(), engines_to(peer, settings, 1):
        wait_until(lambda: Destination.objects.filter(learned__lte=4).exists())
        wait_until(lambda: open_entries() == 0)
    row = Destination.objects.get()
    assert row.failure == "421 4.7.0 too many connections from you"
    assert Attempt.objects.filter(outcome="deferred").count() < 40


def test_hosts_that_hang_never_delay_one_that_answers(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SMTP_MAX_WORKERS = 12
    names = [f"d{number}.example" for number in range(40)]
    transport = ByDomain(*names)
    accept("a@good.example")
    try:
        with running_engine(transport, resolver) as engine:
            engine.sweep()
            wait_until(lambda: open_entries() == 0)  # so that it is known to answer
            engine.ring([entry for name in names for entry in many(accept, 3, name)])
            wait_until(lambda: sum(transport.begun.values()) == 11)
            with monkeypatch.context() as patch:
                patch.setattr("queue.pacing.pacer.SLOW_SECONDS", 0.0)  # for those that hang, and for nobody else
                wait_until(lambda: engine._pacer.lanes._running[Speed.SLOW] == 10)
            for number in range(5):
                engine.ring(accept(f"b{number}@good.example"))
                wait_until(lambda: not Entry.objects.filter(domain="good.example").exclude(status="delivered").exists())
            assert sum(transport.begun[name] for name in names) == 10  # the rest is for who is known to answer
            transport.gate.set()
            wait_until(lambda: open_entries() == 0)
    finally:
        transport.gate.set()


def test_new_mail_goes_out_beside_retries_that_hang(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.SMTP_POOL_SIZE = 3

    class OldHang(ByDomain):
        async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
            self.hanging = ("x.example",) if job.recipients[0].startswith("u") else ()
            hanging = self.hanging
            self.begun["old" if hanging else "new"] += 1
            if hanging:
                await asyncio.to_thread(self.gate.wait)
            return dict.fromkeys(job.recipients, DELIVERED)

    transport = OldHang()
    old = many(accept, 20)
    Entry.objects.update(status="retry", attempts=1)
    try:
        with running_engine(transport, resolver) as engine:
            engine.ring(old)
            wait_until(lambda: transport.begun["old"] == 2)
            engine.ring([entry for number in range(6) for entry in accept(f"new{number}@x.example")])
            wait_until(lambda: transport.begun["new"] == 6)
            transport.gate.set()
            wait_until(lambda: open_entries() == 0)
    finally:
        transport.gate.set()


# --- rates and plans ---


def test_a_rate_lets_so_many_go_and_the_rest_waits(alice: User, accept: Accept, resolver: MemoryResolver) -> None:
    Destination.objects.create(domain="x.example", per_minute=120, used_at=timezone.now())  # ten at once, two a second
    transport = ByDomain()
    began = time.monotonic()
    with running_engine(transport, resolver) as engine:
        engine.ring(many(accept, 14))
        wait_until(lambda: open_entries() == 0)
        took = time.monotonic() - began
    assert transport.begun["x.example"] == 14
    assert took >= 1.8  # four beyond the first ten, half a second each


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> dt.date:
    """The day that it is for the plans: its midnight is not near, at whatever time the test runs."""
    noon = (timezone.now() + dt.timedelta(days=1)).replace(hour=12)
    for name in ("admit", "give_back"):
        monkeypatch.setattr(warmup, name, _at(noon, getattr(warmup, name)))
    return noon.date()


def _at(moment: dt.datetime, function: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, now: dt.datetime) -> Any:
        return function(*arguments, now=moment)

    return called


def test_what_is_above_the_warm_up_plan_of_the_day_waits_for_the_next(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any, today: dt.date
) -> None:
    WarmupPlan.objects.create(domain=Domain.objects.get(), started_on=today, steps=[3, 6])
    transport = ByDomain()
    with running_engine(transport, resolver) as engine:
        engine.ring(many(accept, 8))
        engine.ring(accept("alice@example.com"))  # ours: no plan is about it
        engine.ring(accept("z@x.example", sender="someone@elsewhere.example"))
        wait_until(lambda: Entry.objects.filter(status="delivered").count() == 5)
        wait_until(lambda: Entry.objects.exclude(waits_for="").count() == 5)
        engine.sweep()
    assert transport.begun["x.example"] == 4
    plan = WarmupPlan.objects.get()
    assert (plan.granted, plan.granted_on) == (3, today)
    entry = Entry.objects.exclude(waits_for="").first()
    assert entry is not None and entry.attempts == 0
    assert entry.waits_for == "the warm-up plan of example.com: all 3 messages of day 1 have begun"
    tomorrow = dt.datetime.combine(today, dt.time(), dt.UTC) + dt.timedelta(days=1)
    assert entry.next_attempt_at == tomorrow or entry.retry_at == tomorrow
    assert Entry.objects.filter(attempts=1).count() == 5


def test_what_was_let_through_and_comes_back_unbegun_counts_no_more(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any, today: dt.date
) -> None:
    settings.SMTP_POOL_SIZE = 1
    WarmupPlan.objects.create(domain=Domain.objects.get(), started_on=today, steps=[5])
    transport = ByDomain("x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(many(accept, 4))
        # An entry is leased a moment before the plan counts it.
        wait_until(lambda: transport.begun["x.example"] == 1 and WarmupPlan.objects.get().granted == 4)
        assert Entry.objects.exclude(lease="").count() == 4
        transport.gate.set()
        transport.hanging = ()
        drain(engine, 60)
    begun = Entry.objects.filter(attempts=1).count()
    assert WarmupPlan.objects.get().granted == begun


# --- people who cannot wait for the end of a pause ---


def test_a_retry_now_is_made_within_seconds_although_the_worker_has_just_sent_mail_back_for_a_pause(
    alice: User, accept: Accept, settings: Any, resolver: MemoryResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.pacing.pacer.CLOSED_SECONDS", 3600.0)
    settings.SMTP_POOL_SIZE = 1
    transport = MemoryTransport()
    transport.script["a@x.example"] = deque([OUT_OF_REACH])
    accept("a@x.example")
    accept("b@x.example")
    with running_engine(transport, resolver):
        wait_until(lambda: Destination.objects.filter(paused_until__isnull=False).exists())
        wait_until(lambda: not Entry.objects.exclude(lease="").exists())
        assert len(transport.jobs) == 1
        control.retry_now(Entry.objects.filter(recipient="b@x.example"), actor="root")
        wait_until(lambda: len(transport.jobs) > 1, FIRST_PAUSE.total_seconds() - 5)
