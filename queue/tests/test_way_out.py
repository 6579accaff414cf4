"""Live delivery as the settings say it: real DNS, real peers, the engine in between (RFC 5321 §5.1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from accounts.models import User
from accounts.tests.zone import Zone, serving
from mailflow.mailboxes import read_copy
from mailflow.models import FiledMessage
from mailflow.smtp.envelope import DeliverBy
from queue.engine import Engine
from queue.models import Attempt, Entry
from queue.tests.conftest import open_entries, wait_until
from queue.tests.peers import Peer

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer().in_thread() as running:
        yield running


@pytest.fixture
def live(peer: Peer, settings: Any) -> Iterator[None]:
    """The internet: foreign.example by MX, plain.example by its A record, and some that are broken."""
    zone = Zone()
    zone.records = {
        ("foreign.example", "MX"): ["10 dead.foreign.example.", "20 mx.foreign.example."],
        ("dead.foreign.example", "A"): ["127.0.0.9"],
        ("mx.foreign.example", "A"): ["127.0.0.1"],
        ("plain.example", "A"): ["127.0.0.1"],
        ("null.example", "MX"): ["0 ."],
        ("inside.example", "A"): ["10.1.2.3"],
    }
    zone.broken = {("broken.example", "MX")}
    with serving(zone):
        settings.DELIVERY_MODE = "live"
        settings.DNS_SERVERS = [zone.address]
        settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
        settings.SMTP_OUT_PORT = peer.port
        yield


def deliver(ids: list[int], until: Callable[[], Any]) -> None:
    engine = Engine()
    engine.start()
    try:
        engine.ring(ids)
        wait_until(until)
    finally:
        engine.drain(2)


def test_mail_goes_to_the_next_exchanger_where_the_first_is_dead(
    alice: User, accept: Accept, live: None, peer: Peer
) -> None:
    deliver(accept("a@foreign.example", "b@foreign.example"), lambda: open_entries() == 0)
    assert [message.recipients for message in peer.messages] == [("a@foreign.example", "b@foreign.example")]
    assert Attempt.objects.first().next_hop == f"mx.foreign.example[127.0.0.1]:{peer.port}"  # type: ignore[union-attr]


def test_without_an_exchanger_the_address_record_serves(alice: User, accept: Accept, live: None, peer: Peer) -> None:
    deliver(accept("a@plain.example"), lambda: open_entries() == 0)
    assert len(peer.messages) == 1


@pytest.mark.parametrize(
    ("domain", "code"), [("null.example", "5.1.10"), ("nowhere.example", "5.1.2"), ("inside.example", "5.4.4")]
)
def test_a_domain_that_takes_no_mail_bounces_at_once(
    alice: User, accept: Accept, live: None, domain: str, code: str
) -> None:
    deliver(accept(f"a@{domain}", sender=None), lambda: open_entries() == 0)
    assert Entry.objects.get().status == Entry.Status.BOUNCED
    assert Attempt.objects.get().enhanced_code == code


def test_a_broken_name_server_defers(alice: User, accept: Accept, live: None) -> None:
    deliver(accept("a@broken.example"), lambda: Attempt.objects.exists())
    assert Entry.objects.get().status == Entry.Status.RETRY
    assert Attempt.objects.get().enhanced_code == "4.4.3"


def test_what_the_sender_wants_goes_on_to_a_host_that_takes_it(
    alice: User, accept: Accept, live: None, peer: Peer
) -> None:
    peer.extensions = ["DSN", "DELIVERBY 30", "PIPELINING"]
    ids = accept(
        "a@plain.example", notify="SUCCESS", envelope_id="QQ", dsn_return="HDRS", deliver_by=DeliverBy(1000, "RT")
    )
    deliver(ids, lambda: FiledMessage.objects.exists())
    mail, rcpt = [command for command in peer.commands if command.startswith(("MAIL", "RCPT"))]
    assert re.fullmatch(r"MAIL FROM:<alice@example.com> RET=HDRS ENVID=QQ BY=9\d\d;RT", mail)
    assert rcpt == "RCPT TO:<a@plain.example> NOTIFY=SUCCESS ORCPT=rfc822;a@plain.example"
    report = read_copy(FiledMessage.objects.get())
    assert b"Action: relayed\r\n" in report and b"Original-Envelope-Id: QQ\r\n" in report


def test_mail_that_is_wanted_back_does_not_leave_for_a_host_that_keeps_no_deadline(
    alice: User, accept: Accept, live: None, peer: Peer
) -> None:
    deliver(accept("a@plain.example", deliver_by=DeliverBy(1000, "R")), lambda: FiledMessage.objects.exists())
    assert (peer.messages, Attempt.objects.get(transport="smtp").enhanced_code) == ([], "5.3.3")
    assert b"Action: failed\r\nStatus: 5.3.3\r\n" in read_copy(FiledMessage.objects.get())


def test_mail_in_mode_n_goes_to_a_host_that_keeps_no_deadline_and_the_sender_is_told(
    alice: User, accept: Accept, live: None, peer: Peer
) -> None:
    deliver(accept("a@plain.example", deliver_by=DeliverBy(1000, "N")), lambda: FiledMessage.objects.exists())
    assert len(peer.messages) == 1
    assert b"Action: relayed\r\n" in read_copy(FiledMessage.objects.get())
