"""Live delivery as the settings say it: real DNS, real peers, the engine in between (RFC 5321 §5.1)."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone

from accounts.dns.base import Tlsa
from accounts.models import User
from accounts.tests.zone import Zone, serving
from mailflow.mailboxes import read_copy
from mailflow.models import FiledMessage
from mailflow.smtp.envelope import DeliverBy
from queue.engine import Engine
from queue.models import Attempt, Entry, MtaStsPolicy, TlsFigure
from queue.tests.authority import self_signed
from queue.tests.conftest import drain, open_entries, wait_until
from queue.tests.peers import Peer
from queue.timeline import timeline
from queue.tls_figures import TlsFigures
from queue.transports.noting import SessionResult

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer().in_thread() as running:
        yield running


@pytest.fixture
def live(peer: Peer, settings: Any) -> Iterator[Zone]:
    """The internet: foreign.example by MX, plain.example by its A record, and some that are broken."""
    zone = Zone()
    zone.records = {
        ("foreign.example", "MX"): ["10 dead.foreign.example.", "20 mx.foreign.example."],
        ("dead.foreign.example", "A"): ["127.0.0.9"],
        ("mx.foreign.example", "A"): ["127.0.0.1"],
        ("plain.example", "A"): ["127.0.0.1"],
        ("null.example", "MX"): ["0 ."],
        ("inside.example", "A"): ["10.1.2.3"],
        ("alias.example", "MX"): ["10 mx.alias.example."],
        ("mx.alias.example", "CNAME"): ["mx.foreign.example."],
        ("wrong.example", "MX"): ["10 127.0.0.1."],
        ("huge.example", "MX"): [f"{n} mx{n}.a-long-name-for-a-host.huge.example." for n in range(100)],
        ("mx0.a-long-name-for-a-host.huge.example", "A"): ["127.0.0.1"],
        ("circle.example", "MX"): ["10 circle.example."],
        ("circle.example", "CNAME"): ["circle.example."],
    }
    zone.broken = {("broken.example", "MX")}
    with serving(zone):
        settings.DELIVERY_MODE = "live"
        settings.DNS_VALIDATES = True
        settings.DNS_SERVERS = [zone.address]
        settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
        settings.SMTP_OUT_PORT = peer.port
        yield zone


def deliver(ids: list[int], until: Callable[[], Any]) -> None:
    engine = Engine()
    engine.start()
    try:
        engine.ring(ids)
        wait_until(until)
    finally:
        drain(engine)


def test_mail_goes_to_the_next_exchanger_where_the_first_is_dead(
    alice: User, accept: Accept, live: Zone, peer: Peer
) -> None:
    deliver(accept("a@foreign.example", "b@foreign.example"), lambda: open_entries() == 0)
    assert [message.recipients for message in peer.messages] == [("a@foreign.example", "b@foreign.example")]
    assert Attempt.objects.first().next_hop == f"mx.foreign.example[127.0.0.1]:{peer.port}"  # type: ignore[union-attr]


def test_without_an_exchanger_the_address_record_serves(alice: User, accept: Accept, live: Zone, peer: Peer) -> None:
    deliver(accept("a@plain.example"), lambda: open_entries() == 0)
    assert len(peer.messages) == 1


@pytest.mark.parametrize(
    ("domain", "code"), [("null.example", "5.1.10"), ("nowhere.example", "5.1.2"), ("inside.example", "5.4.4")]
)
def test_a_domain_that_takes_no_mail_bounces_at_once(
    alice: User, accept: Accept, live: Zone, domain: str, code: str
) -> None:
    deliver(accept(f"a@{domain}", sender=None), lambda: open_entries() == 0)
    assert Entry.objects.get().status == Entry.Status.BOUNCED
    assert Attempt.objects.get().enhanced_code == code


def test_a_broken_name_server_defers(alice: User, accept: Accept, live: Zone) -> None:
    deliver(accept("a@broken.example"), lambda: Attempt.objects.exists())
    assert Entry.objects.get().status == Entry.Status.RETRY
    assert Attempt.objects.get().enhanced_code == "4.4.3"


def test_what_the_sender_wants_goes_on_to_a_host_that_takes_it(
    alice: User, accept: Accept, live: Zone, peer: Peer
) -> None:
    peer.extensions = ["DSN", "DELIVERBY 30", "PIPELINING"]
    ids = accept(
        "a@plain.example", notify="SUCCESS", envelope_id="QQ", dsn_return="HDRS", deliver_by=DeliverBy(1000, "RT")
    )
    deliver(ids, lambda: FiledMessage.objects.exists())
    mail, rcpt = [command for command in peer.commands if command.startswith(("MAIL", "RCPT"))]
    assert re.fullmatch(r"MAIL FROM:<alice@example.com> RET=HDRS ENVID=QQ BY=(1000|9\d\d);RT", mail)
    assert rcpt == "RCPT TO:<a@plain.example> NOTIFY=SUCCESS ORCPT=rfc822;a@plain.example"
    report = read_copy(FiledMessage.objects.get())
    assert b"Action: relayed\r\n" in report and b"Original-Envelope-Id: QQ\r\n" in report


def test_mail_that_is_wanted_back_does_not_leave_for_a_host_that_keeps_no_deadline(
    alice: User, accept: Accept, live: Zone, peer: Peer
) -> None:
    deliver(accept("a@plain.example", deliver_by=DeliverBy(1000, "R")), lambda: FiledMessage.objects.exists())
    assert (peer.messages, Attempt.objects.get(transport="smtp").enhanced_code) == ([], "5.3.3")
    assert b"Action: failed\r\nStatus: 5.3.3\r\n" in read_copy(FiledMessage.objects.get())


def test_mail_in_mode_n_goes_to_a_host_that_keeps_no_deadline_and_the_sender_is_told(
    alice: User, accept: Accept, live: Zone, peer: Peer
) -> None:
    deliver(accept("a@plain.example", deliver_by=DeliverBy(1000, "N")), lambda: FiledMessage.objects.exists())
    assert len(peer.messages) == 1
    assert b"Action: relayed\r\n" in read_copy(FiledMessage.objects.get())


# --- what DNS says that it should not ---


@pytest.mark.parametrize("domain", ["alias.example", "huge.example"])
def test_an_exchanger_that_is_an_alias_and_one_among_very_many_are_found(
    alice: User, accept: Accept, live: Zone, peer: Peer, domain: str
) -> None:
    deliver(accept(f"a@{domain}"), lambda: open_entries() == 0)
    assert len(peer.messages) == 1


@pytest.mark.parametrize(("domain", "code"), [("wrong.example", "4.4.4"), ("circle.example", "4.4.3")])
def test_nonsense_in_dns_makes_the_mail_wait(alice: User, accept: Accept, live: Zone, domain: str, code: str) -> None:
    deliver(accept(f"a@{domain}"), lambda: Attempt.objects.exists())
    assert Entry.objects.get().status == Entry.Status.RETRY
    assert Attempt.objects.get().enhanced_code == code


# --- TLS policies ---


def sign(zone: Zone, port: int, *records: Tlsa) -> None:
    place = f"_{port}._tcp.mx.foreign.example"
    zone.records["foreign.example", "MX"] = ["10 mx.foreign.example."]
    if records:
        zone.records[place, "TLSA"] = [str(record) for record in records]
    zone.signed |= {"foreign.example", "mx.foreign.example", place}


def figures() -> list[tuple[str, str, str, int]]:
    return list(TlsFigure.objects.values_list("policy_domain", "policy_type", "result", "count").order_by("result"))


def test_dane_is_obeyed_and_told_of(alice: User, accept: Accept, live: Zone, peer: Peer) -> None:
    issued = self_signed("whatever.test")
    peer.tls = issued.server()
    sign(live, peer.port, Tlsa(3, 1, 1, hashlib.sha256(issued.spki).digest()))
    deliver([*accept("a@foreign.example"), *accept("b@foreign.example")], lambda: open_entries() == 0)
    attempt = Attempt.objects.order_by("pk")[0]
    assert (attempt.tls_policy, attempt.is_verified) == ("dane", True)
    assert ", verified by DANE, in " in timeline(attempt.entry.message_id)[-1].detail
    (figure,) = TlsFigure.objects.all()
    assert (figure.policy_domain, figure.policy_type, figure.mx_host) == (
        "foreign.example",
        "tlsa",
        "mx.foreign.example",
    )
    assert figure.result == "" and figure.policy == [f"3 1 1 {hashlib.sha256(issued.spki).hexdigest()}"]


def test_who_is_not_as_dane_says_gets_nothing_and_the_mail_waits(
    alice: User, accept: Accept, live: Zone, peer: Peer
) -> None:
    peer.tls = self_signed("mx.foreign.example").server()
    sign(live, peer.port, Tlsa(3, 1, 1, b"x" * 32))
    deliver(accept("a@foreign.example"), lambda: Attempt.objects.exists())
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.tls_policy, attempt.is_verified) == ("deferred", "dane", False)
    assert "certificate" in attempt.reply and not peer.messages
    assert figures() == [("foreign.example", "tlsa", "certificate-not-trusted", 1)]


def test_who_suppresses_the_records_stops_the_mail_and_does_not_weaken_it(
    alice: User, accept: Accept, live: Zone, peer: Peer
) -> None:
    sign(live, peer.port)
    live.broken.add((f"_{peer.port}._tcp.mx.foreign.example", "TLSA"))
    deliver(accept("a@foreign.example"), lambda: Attempt.objects.exists())
    assert Attempt.objects.get().enhanced_code == "4.4.3"
    assert not peer.messages and figures() == [("foreign.example", "tlsa", "dnssec-invalid", 1)]


def keep_policy(mode: str) -> None:
    now = timezone.now()
    MtaStsPolicy.objects.create(
        domain="foreign.example", policy_id="one", mode=mode, mx=["mx.foreign.example"], max_age=86400, fetched_at=now,
        expires_at=now + dt.timedelta(days=1), refresh_at=now + dt.timedelta(days=1),
    )  # fmt: skip


def test_a_policy_that_is_kept_is_obeyed_by_an_engine_that_never_fetched_it(
    alice: User, accept: Accept, live: Zone, peer: Peer
) -> None:
    """The dead exchanger is not in the policy, the other shows a certificate that nobody vouches for."""
    keep_policy("enforce")
    peer.tls = self_signed("mx.foreign.example").server()
    deliver(accept("a@foreign.example"), lambda: Attempt.objects.exists())
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.enhanced_code, attempt.tls_policy) == ("deferred", "4.7.5", "mta-sts")
    assert not peer.messages
    assert figures() == [
        ("foreign.example", "sts", "certificate-not-trusted", 1),
        ("foreign.example", "sts", "validation-failure", 1),
    ]


def test_the_sender_may_declare_policies_optional(alice: User, accept: Accept, live: Zone, peer: Peer) -> None:
    """RFC 8689 §3: to tell somebody of the certificate that has expired, say."""
    keep_policy("enforce")
    ids = accept("a@foreign.example", header=b"TLS-Required: No\r\n")
    deliver(ids, lambda: open_entries() == 0)
    assert len(peer.messages) == 1
    assert Attempt.objects.get().tls_policy == "opportunistic"


def test_many_sessions_come_to_few_rows(alice: User, accept: Accept, live: Zone, peer: Peer) -> None:
    note = SessionResult("foreign.example", "no-policy-found", "mx.foreign.example")
    figures_of_two = [TlsFigures(), TlsFigures()]
    for own in figures_of_two:
        for number in range(1000):
            own.note(replace(note, result="starttls-not-supported" if number % 10 else ""))
        own.flush()
        own.flush()
    assert figures() == [
        ("foreign.example", "no-policy-found", "", 200),
        ("foreign.example", "no-policy-found", "starttls-not-supported", 1800),
    ]
