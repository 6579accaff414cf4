"""Sandbox mail beside live mail: what a test key sends, and all mail in sandbox mode, stays on this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from accounts.models import Alias, Domain, User
from accounts.tests.zone import Zone, serving
from mailflow.models import Event, FiledMessage, Message
from queue.engine import Engine
from queue.models import Attempt, Entry
from queue.tests.conftest import drain, open_entries, wait_until
from queue.tests.peers import Peer

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]

CAPTURED = "captured by the sandbox; nothing left this machine"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer().in_thread() as running:
        yield running


@pytest.fixture
def live(peer: Peer, settings: Any) -> None:
    """Live delivery, with a smarthost that would take whatever is sent."""
    settings.DELIVERY_MODE = "live"
    settings.RELAY_HOST = "127.0.0.1"
    settings.RELAY_PORT = peer.port


@pytest.fixture
def zone(live: None, peer: Peer, settings: Any) -> Iterator[Zone]:
    """The same by DNS: an internet in which foreign.example has a host that takes mail."""
    zone = Zone()
    zone.records = {("foreign.example", "A"): ["127.0.0.1"], ("sim.test", "A"): ["127.0.0.1"]}
    with serving(zone):
        settings.RELAY_HOST = ""
        settings.DNS_SERVERS = [zone.address]
        settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
        settings.SMTP_OUT_PORT = peer.port
        yield zone


def deliver(until: Callable[[], Any]) -> None:
    engine = Engine()
    engine.start()
    try:
        wait_until(until)
    finally:
        drain(engine)


def all_ended() -> bool:
    return open_entries() == 0


def test_live_mail_leaves_and_that_of_a_test_key_does_not(alice: User, accept: Accept, zone: Zone, peer: Peer) -> None:
    accept("real@foreign.example")
    accept("test@foreign.example", "ok@sim.test", is_test=True)
    deliver(all_ended)
    assert [message.recipients for message in peer.messages] == [("real@foreign.example",)]
    hops = dict(Attempt.objects.values_list("entry__recipient", "next_hop"))
    assert hops == {
        "real@foreign.example": f"foreign.example[127.0.0.1]:{peer.port}",
        "test@foreign.example": "sandbox",
        "ok@sim.test": "mx.sim.test[192.0.2.25]:25",
    }
    # Whether its policy (MTA-STS) is asked for before the engine ends is a matter of moments.
    assert {name.removeprefix("_mta-sts.") for name, _ in zone.asked} == {"foreign.example"}


def test_only_tests_know_the_simulated_hosts(alice: User, accept: Accept, live: None, peer: Peer) -> None:
    accept("bounced@sim.test")
    deliver(all_ended)
    assert [message.recipients for message in peer.messages] == [("bounced@sim.test",)]


def test_a_route_that_a_person_chose_does_not_lead_a_test_outside(
    alice: User, accept: Accept, live: None, peer: Peer
) -> None:
    accept("test@foreign.example", is_test=True)
    Entry.objects.update(route=f"127.0.0.1:{peer.port}")
    deliver(all_ended)
    assert (peer.connections, Attempt.objects.get().reply) == (0, CAPTURED)


def test_in_sandbox_mode_mail_that_waited_for_live_delivery_is_captured_too(
    alice: User, accept: Accept, live: None, peer: Peer, settings: Any
) -> None:
    accept("a@foreign.example")
    assert Entry.objects.get().is_sandbox is False
    settings.DELIVERY_MODE = "sandbox"
    deliver(all_ended)
    assert (peer.connections, Attempt.objects.get().reply) == (0, CAPTURED)


def test_mail_that_waited_in_the_sandbox_stays_there_when_delivery_goes_live(
    alice: User, accept: Accept, live: None, peer: Peer, settings: Any
) -> None:
    settings.DELIVERY_MODE = "sandbox"
    accept("a@foreign.example")
    accept("bounced@sim.test", sender="someone@foreign.example")
    settings.DELIVERY_MODE = "live"
    deliver(lambda: Message.objects.filter(source="dsn").exists() and all_ended())
    assert peer.connections == 0
    assert Entry.objects.get(message__source="dsn").is_sandbox


# --- our own addresses (contract §7) ---


def test_in_production_a_test_reaches_no_mailbox(alice: User, accept: Accept, live: None, settings: Any) -> None:
    settings.DEMO = False
    accept("alice@example.com", is_test=True)
    deliver(all_ended)
    assert not FiledMessage.objects.exists()
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.transport) == ("delivered", "sandbox")
    assert attempt.reply == "captured by the sandbox, since it was sent with a test key; no mailbox got it"
    assert Event.objects.filter(kind="captured").count() == 1


def test_in_production_in_sandbox_mode_only_tests_are_kept_from_mailboxes(
    alice: User, accept: Accept, settings: Any
) -> None:
    settings.DEMO = False
    accept("alice@example.com", is_test=True)
    (real,) = accept("alice@example.com")
    deliver(all_ended)
    assert [filed.entry_id for filed in FiledMessage.objects.all()] == [real]


@pytest.mark.parametrize("mode", ["live", "sandbox"])
def test_in_the_demo_mailboxes_get_tests_as_usual(
    alice: User, accept: Accept, live: None, settings: Any, mode: str
) -> None:
    settings.DELIVERY_MODE = mode
    accept("alice@example.com", is_test=True)
    deliver(all_ended)
    assert FiledMessage.objects.count() == 1


def test_a_test_to_an_address_that_does_not_exist_bounces_as_live_mail_would(
    alice: User, accept: Accept, live: None, settings: Any
) -> None:
    settings.DEMO = False
    accept("nobody@example.com", is_test=True)
    deliver(all_ended)
    assert Attempt.objects.get(entry__recipient="nobody@example.com").enhanced_code == "5.1.1"


def test_what_an_alias_sends_on_is_a_test_again(
    alice: User, accept: Accept, live: None, peer: Peer, settings: Any
) -> None:
    settings.DEMO = False
    Alias.objects.create(
        domain=Domain.objects.get(), local_part="all", targets=["a@foreign.example", "alice@example.com"]
    )
    accept("all@example.com", is_test=True)
    deliver(lambda: Message.objects.filter(source="forward").exists() and all_ended())
    assert (peer.connections, FiledMessage.objects.count()) == (0, 0)
    assert set(Entry.objects.values_list("is_sandbox", "is_test")) == {(True, True)}


def test_the_report_of_a_tests_bounce_stays_in_the_sandbox(
    alice: User, accept: Accept, live: None, peer: Peer, settings: Any
) -> None:
    settings.DEMO = False
    accept("bounced+5.2.2@sim.test", sender="alice@example.com", is_test=True)
    accept("bounced+5.2.2@sim.test", sender="writer@foreign.example", is_test=True)
    deliver(lambda: Message.objects.filter(source="dsn").count() == 2 and all_ended())
    assert (peer.connections, FiledMessage.objects.count()) == (0, 0)
    ends = Attempt.objects.filter(entry__message__source="dsn").values_list("transport", flat=True)
    assert list(ends) == ["sandbox", "sandbox"]


# --- who holds up whom ---


def test_mail_for_a_slow_host_holds_up_nobody_and_fills_no_worker(
    alice: User, accept: Accept, live: None, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.simulation.host.STEP_SECONDS", 60.0)
    monkeypatch.setattr("queue.simulation.sandbox.MAX_WAITING", 3)
    for _ in range(12):
        accept("slow@sim.test", is_test=True)
    accept("slow@sim.test", "ok@sim.test", "captured@foreign.example", is_test=True)
    accept("real@foreign.example")
    quick = ["ok@sim.test", "captured@foreign.example", "real@foreign.example"]
    engine = Engine()
    engine.start()
    try:
        wait_until(lambda: Entry.objects.filter(recipient__in=quick, status="delivered").count() == 3)
        slow = Entry.objects.filter(recipient="slow@sim.test")
        wait_until(lambda: slow.exclude(lease="").count() == 3)
        assert slow.filter(status="pending", attempts=0).count() == 13
    finally:
        drain(engine, 0.1)
    assert not Entry.objects.exclude(lease="").filter(next_attempt_at__isnull=False).exists()


def test_live_mail_goes_on_while_the_sandbox_is_full(
    alice: User, accept: Accept, live: None, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.simulation.host.STEP_SECONDS", 60.0)
    monkeypatch.setattr("queue.simulated.MAX_SIMULATED", 2)
    for _ in range(3):
        accept("slow@sim.test", is_test=True)
    engine = Engine()
    engine.start()
    try:
        wait_until(lambda: Entry.objects.exclude(lease="").count() == 3)
        (waiting,) = accept("ok@sim.test", is_test=True)
        (real,) = accept("real@foreign.example")
        engine.sweep()
        wait_until(lambda: Entry.objects.get(pk=real).status == "delivered")
        assert Entry.objects.get(pk=waiting).attempts == 0
    finally:
        drain(engine, 0.1)
