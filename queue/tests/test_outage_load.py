"""Ten thousand entries that are due at once, as after an outage: what is open, leased and loaded stays in bounds."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import ipaddress
import resource
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from accounts.models import User
from accounts.names import parse_address
from mailflow import receiver
from mailflow.models import Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue.claimer import CLAIM_BATCH, MAX_IN_FLIGHT
from queue.engine import Engine
from queue.models import Attempt, Entry
from queue.tests.conftest import open_entries, running_engine, wait_until
from queue.tests.outbound import options
from queue.tests.peers import Peer, Received
from queue.transports.smtp import SmtpTransport

pytestmark = [pytest.mark.load, pytest.mark.django_db(transaction=True)]

ENTRIES = 10_000
DOMAINS = 50  # so that full lanes (200 first attempts, 200 retries) hold more than may be in flight
BODY = b"Something to read. " * 4 + b"\r\n"
BODY_LINES = 50  # about 4 KiB a message
LOADED_OCTETS = 8 << 20  # the bound, made small enough to be reached
READ_AHEAD_OCTETS = 1 << 20
MOST_GROWTH_OCTETS = 200 << 20  # of the process, the peer and the test's own lists among it
SECONDS = 120


class _Names(list[Received]):
    """Keeps who got a message, and not the octets: those are not the engine's memory."""

    def append(self, received: Received) -> None:
        super().append(dataclasses.replace(received, content=b""))


class _Nothing(list[Any]):
    def append(self, _value: object) -> None: ...


@dataclass
class Internet(Peer):
    """Every host of 127.0.0.0/8, one for each domain; none greets before `gate` is open."""

    messages: list[Received] = field(default_factory=_Names)
    pieces: list[bytes] = field(default_factory=_Nothing)
    commands: list[str] = field(default_factory=_Nothing)
    gate: threading.Event = field(default_factory=threading.Event)
    open_now: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    most_in_all: int = 0

    @contextlib.asynccontextmanager
    async def run(self, port: int = 0) -> AsyncIterator[Peer]:
        server = await asyncio.start_server(self._serve, "0.0.0.0", port, limit=2**16, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        self.open_now[host] += 1
        self.most[host] = max(self.most[host], self.open_now[host])
        self.most_in_all = max(self.most_in_all, self.open_now.total())
        try:
            while not self.gate.is_set():  # noqa: ASYNC110  (another thread opens it)
                await asyncio.sleep(0.05)
            await super()._serve(reader, writer)
        finally:
            self.open_now[host] -= 1


@dataclass
class Seen:
    """The most that an engine ever had."""

    in_flight: int = 0
    loaded_octets: int = 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Look at what the engine has whenever it has just got more."""
    found, dispatch = Seen(), Engine._dispatch

    def looked_at(self: Engine, *arguments: Any) -> None:
        dispatch(self, *arguments)
        found.in_flight = max(found.in_flight, len(self._held))
        found.loaded_octets = max(found.loaded_octets, self._held.loaded_octets)

    monkeypatch.setattr(Engine, "_dispatch", looked_at)
    return found


def accept_many() -> None:
    """Accept the mail by the front door, many in a transaction, and make half of it retries that are due too."""
    content = b"Subject: test\r\nMessage-ID: <m@example.com>\r\n\r\n" + BODY * BODY_LINES
    submissions = [
        receiver.Submission(
            source=Message.Source.SUBMISSION.value,
            envelope=Envelope(
                parse_address("alice@example.com"), [Recipient(parse_address(f"u{number}@d{number % DOMAINS}.example"))]
            ),
            origin=Origin(protocol="ESMTP", trace_id="trace"),
            content=content,
        )
        for number in range(ENTRIES)
    ]
    for start in range(0, ENTRIES, 500):
        with transaction.atomic():
            receiver.accept_within(submissions[start : start + 500])
    middle = Entry.objects.order_by("pk").values_list("pk", flat=True)[ENTRIES // 2]
    Entry.objects.filter(pk__gte=middle).update(status=Entry.Status.RETRY, attempts=1)
    Entry.objects.update(next_attempt_at=timezone.now() - dt.timedelta(hours=1))


def leased() -> int:
    return Entry.objects.exclude(lease="").count()


def peak_octets() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_ten_thousand_due_at_once_stay_within_the_caps_and_arrive_once(
    alice: User, settings: Any, monkeypatch: pytest.MonkeyPatch, seen: Seen, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.DELIVERY_MODE, settings.SMTP_POOL_SIZE = "live", 4
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    monkeypatch.setattr("queue.claimer.MAX_LOADED_OCTETS", LOADED_OCTETS)
    monkeypatch.setattr("queue.claimer.READ_AHEAD_OCTETS", READ_AHEAD_OCTETS)
    accept_many()
    resolver, internet = MemoryResolver(), Internet()
    for number in range(DOMAINS):
        resolver.hosts[f"d{number}.example"] = [f"127.1.0.{number + 1}"]
    transport = SmtpTransport(options(pool_size=settings.SMTP_POOL_SIZE))
    before, most_leased = peak_octets(), 0
    with internet.in_thread():
        settings.SMTP_OUT_PORT = internet.port
        with running_engine(transport, resolver):
            # Nobody answers at first: it claims as much as it may, and no more.
            wait_until(lambda: seen.in_flight > MAX_IN_FLIGHT - CLAIM_BATCH, SECONDS)
            time.sleep(1)
            assert internet.most_in_all <= settings.SMTP_MAX_WORKERS and not internet.messages
            began = time.monotonic()
            internet.gate.set()
            while open_entries():
                most_leased = max(most_leased, leased())
                assert time.monotonic() - began < SECONDS
                time.sleep(0.1)
            took = time.monotonic() - began
    grown = peak_octets() - before
    with capsys.disabled():
        print(
            f"\n{ENTRIES} entries in {took:.1f} s ({ENTRIES / took:.0f} a second); most connections: "
            f"{internet.most_in_all}, {max(internet.most.values())} to one host; most in flight: {seen.in_flight}, "
            f"under lease: {most_leased}; most content loaded: {seen.loaded_octets >> 20} MiB; "
            f"peak resident size: {(before + grown) >> 20} MiB, {grown >> 20} MiB of it since the start"
        )
    assert max(internet.most.values()) <= settings.SMTP_POOL_SIZE
    assert internet.most_in_all <= settings.SMTP_MAX_WORKERS + options().pool_total  # running, and kept for more
    assert max(most_leased, seen.in_flight) <= MAX_IN_FLIGHT
    assert seen.loaded_octets <= LOADED_OCTETS
    assert grown <= MOST_GROWTH_OCTETS
    got = Counter(recipient for message in internet.messages for recipient in message.recipients)
    assert len(got) == ENTRIES and set(got.values()) == {1}
    assert Entry.objects.filter(status="delivered").count() == Attempt.objects.count() == ENTRIES
