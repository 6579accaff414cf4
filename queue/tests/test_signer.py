"""Who signs: our own mail arrives with two good signatures, others' mail as it came, and nothing unsigned by mishap."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError

from accounts import dkim
from accounts.dns.memory import MemoryResolver
from accounts.models import DkimKey, Domain, Organization, User
from accounts.signing_keys import Holding
from mailflow import content
from mailflow.models import Event, Message
from queue import signer, tls_reports
from queue.claim import Parcel
from queue.models import Attempt, Entry, TlsFigure
from queue.outcome import from_reply
from queue.signer import Signed, Signer
from queue.tests.conftest import open_entries, running_engine, wait_until
from queue.tests.dkim_oracle import key_pair, verdicts
from queue.tests.mail import accepted
from queue.tests.outbound import options
from queue.tests.peers import Peer
from queue.timeline import timeline
from queue.tls_figures import TlsFigures
from queue.transports.memory import MemoryTransport
from queue.transports.noting import SessionResult
from queue.transports.smtp import SmtpTransport

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def resolver() -> MemoryResolver:
    return MemoryResolver(hosts={"x.example": ["198.41.0.4"], "y.example": ["198.41.0.4"]})  # never connected to


@pytest.fixture
def keys(alice: User) -> list[DkimKey]:
    return dkim.ensure_keys(Domain.objects.get())


def deliver(resolver: MemoryResolver, transport: Any = None, *, until: Callable[[], Any] | None = None) -> Any:
    transport = transport or MemoryTransport()
    with running_engine(transport, resolver):
        wait_until(until or (lambda: open_entries() == 0))
    return transport


def sent(transport: MemoryTransport) -> bytes:
    (job, _), *_others = transport.jobs
    return job.content


def records() -> list[Any]:
    return [record for domain in Domain.objects.all() for record in dkim.records_to_publish(domain)]


def words_of(message: Message) -> str:
    return Event.objects.filter(message_id=message.pk).exclude(kind="accepted").order_by("pk")[0].summary


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_a_submission_arrives_at_its_peer_with_two_good_signatures(
    alice: User, keys: list[DkimKey], settings: Any
) -> None:
    settings.OUTBOUND_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    with Peer().in_thread() as peer:
        settings.SMTP_OUT_PORT = peer.port
        message = accepted("b@x.example", by=alice, text="Dots:\r\n.\r\n..two  blanks \t\r\n\r\n\r\n")
        deliver(MemoryResolver(hosts={"x.example": ["127.0.0.1"]}), SmtpTransport(options()))
    (received,) = peer.messages
    assert verdicts(received.content, records()) == [True, True]
    kept = content.read(message.pk)
    assert received.content.endswith(b"\r\n" + kept)
    assert b"DKIM-Signature" not in kept  # what was accepted stays as it was
    rsa, ed25519 = (key.selector for key in keys)
    assert words_of(message).endswith(f"Signed with DKIM for example.com ({rsa}, {ed25519}).")
    assert "Signed with DKIM" in timeline(message.pk)[-1].words
    size = next(command for command in peer.commands if "SIZE=" in command)
    assert f"SIZE={len(received.content)}" in size


@pytest.mark.parametrize("source", ["submission", "http"])
def test_what_comes_from_an_account_is_signed(
    alice: User, keys: list[DkimKey], resolver: MemoryResolver, source: str
) -> None:
    accepted("b@x.example", by=alice, source=source)
    assert verdicts(sent(deliver(resolver)), records()) == [True, True]


def test_an_internationalised_message_is_signed_for_the_a_labels_of_its_domain(
    alice: User, resolver: MemoryResolver
) -> None:
    assert alice.organization is not None
    domain = Domain.objects.create(name="例え.jp", organization=alice.organization, is_trusted=True)
    dkim.ensure_keys(domain)
    head = "From: Žofie <žofie@例え.jp>\r\nSubject: Příliš\r\nMessage-ID: <m@x>\r\n"
    accepted("b@x.example", by=alice, header_section=head, text="kůň\r\n")
    octets = sent(deliver(resolver))
    assert b"d=xn--r8jz45g.jp;" in octets
    assert verdicts(octets, records()) == [True, True]


def test_each_domain_of_the_authors_signs(alice: User, keys: list[DkimKey], resolver: MemoryResolver) -> None:
    assert alice.organization is not None
    dkim.ensure_keys(Domain.objects.create(name="b.example", organization=alice.organization, is_trusted=True))
    head = "From: a@example.com, b@b.example\r\nSender: a@example.com\r\nMessage-ID: <m@x>\r\n"
    message = accepted("b@x.example", by=alice, header_section=head)
    assert verdicts(sent(deliver(resolver)), records()) == [True] * 4
    assert "for example.com (" in words_of(message) and " and b.example (" in words_of(message)


def test_a_retry_is_signed_anew(
    alice: User, keys: list[DkimKey], resolver: MemoryResolver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RETRY_SCHEDULE, settings.SWEEP_INTERVAL_SECONDS = [dt.timedelta(0)], 0.05
    monkeypatch.setattr(signer, "KEYS_SECONDS", 0)
    transport = MemoryTransport()
    transport.script["b@x.example"] = deque([from_reply(451, "4.7.1 later", transport="smtp")])
    message = accepted("b@x.example", by=alice)

    transport.gate.clear()
    with running_engine(transport, resolver):
        wait_until(lambda: transport.jobs)
        dkim.rotate(Domain.objects.get())
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    first, second = (job.content for job, _ in transport.jobs)
    assert verdicts(first, records()) == verdicts(second, records()) == [True, True]
    assert first != second
    new = [key.selector for key in DkimKey.objects.filter(state="active")]
    assert all(f"s={selector};".encode() in second and f"s={selector};".encode() not in first for selector in new)
    summaries = list(Event.objects.filter(message_id=message.pk).order_by("pk").values_list("summary", flat=True))
    assert all("Signed with DKIM" in summary for summary in summaries[1:])


# --- reports ----------------------------------------------------------------------------------------------------------


def test_our_own_report_is_signed_where_its_domain_is_ours(
    alice: User, keys: list[DkimKey], resolver: MemoryResolver, settings: Any
) -> None:
    settings.SMTP_HOSTNAME = "example.com"
    transport = MemoryTransport()
    transport.script["gone@x.example"] = deque([from_reply(550, "5.1.1 no such user", transport="smtp")])
    accepted("gone@x.example", sender="alice@y.example", source="reception")  # no organization's
    deliver(resolver, transport)
    (unsigned, _), (report, _) = transport.jobs
    assert report.recipients == ["alice@y.example"]
    assert verdicts(report.content, records()) == [True, True]
    assert b"DKIM-Signature" not in unsigned.content


# --- what is not signed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "reception"}, "it did not come from an account of ours"),
        ({"source": "forward"}, "forwarded mail goes on as it came"),
        ({"sender": "alice@z.example"}, "z.example is not a domain that is in use here"),
        ({"header_section": "Subject: x\r\nMessage-ID: <m@x>\r\n"}, "it has no From field"),
        ({"header_section": "From: a@example.com\r\nFrom: b@example.com\r\n"}, "it has more than one From field"),
        ({"header_section": "From: a@example.com b\r\n"}, "the From field cannot be read"),
        ({"header_section": f"From: a@example.com\r\nX: {'x' * (257 << 10)}\r\n"}, "more than 256 KiB"),
    ],
)
def test_what_is_not_ours_to_sign_goes_out_as_it_is_and_says_why(
    alice: User, keys: list[DkimKey], resolver: MemoryResolver, change: dict[str, str], words: str
) -> None:
    message = accepted("b@x.example", by=alice, **change)
    assert sent(deliver(resolver)) == content.read(message.pk)
    assert "Not signed with DKIM: " in words_of(message) and words in words_of(message)


def test_nobody_signs_for_the_domain_of_another_organization(
    alice: User, keys: list[DkimKey], resolver: MemoryResolver
) -> None:
    other = Organization.objects.create(name="Other")
    mallory = User.objects.create_user("mallory", "mallory@z.example", organization=other)
    message = accepted("b@x.example", by=mallory, sender="alice@example.com")
    assert b"DKIM-Signature" not in sent(deliver(resolver))
    assert "example.com is not held by the sender's organization" in words_of(message)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"is_active": False}, "is not a domain that is in use"),
        ({"is_trusted": False}, "is not a domain that is in use"),
    ],
)
def test_a_domain_that_is_not_usable_signs_nothing(
    alice: User, keys: list[DkimKey], resolver: MemoryResolver, state: dict[str, bool], words: str
) -> None:
    Domain.objects.update(**state)
    message = accepted("b@x.example", by=alice)
    assert b"DKIM-Signature" not in sent(deliver(resolver))
    assert words in words_of(message)


def test_a_domain_without_keys_sends_unsigned_and_says_so(alice: User, resolver: MemoryResolver) -> None:
    message = accepted("b@x.example", by=alice)
    assert b"DKIM-Signature" not in sent(deliver(resolver))
    assert words_of(message).endswith("Not signed with DKIM: example.com has no active DKIM key.")


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_a_key_that_cannot_be_opened_defers_the_mail_and_sends_nothing(
    alice: User, resolver: MemoryResolver, settings: Any
) -> None:
    right, wrong = os.urandom(32), os.urandom(32)
    settings.ENCRYPTION_KEYS = [right]
    key, _ = dkim.ensure_keys(Domain.objects.get())
    settings.ENCRYPTION_KEYS = [wrong]
    message = accepted("b@x.example", by=alice)
    transport = deliver(resolver, until=Attempt.objects.exists)
    assert transport.jobs == []
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.code, attempt.enhanced_code) == ("deferred", None, "4.3.5")
    assert attempt.reply == "A DKIM key of example.com cannot be used, and mail of this domain is not sent unsigned."
    assert f"{key.selector}._domainkey.example.com cannot be opened" in words_of(message)
    assert "ENCRYPTION_KEYS" in words_of(message) and "ENCRYPTION_KEYS" not in attempt.reply
    settings.ENCRYPTION_KEYS = [wrong, right]
    Entry.objects.update(next_attempt_at=message.created_at, retry_at=None)
    assert verdicts(sent(deliver(resolver)), records()) == [True, True]


def test_a_database_in_trouble_is_no_reason_to_call_a_message_unsigned() -> None:
    async def away(_look: Callable[[], Holding]) -> Holding:
        raise OperationalError("the database is away")

    async def body() -> None:
        with pytest.raises(OperationalError):  # which the engine makes a deferral of
            await Signer(away).sign(parcel(), CONTENT)

    asyncio.run(body())


# --- the caches -------------------------------------------------------------------------------------------------------


class Lookups:
    """Answers what a test says, and counts the questions."""

    def __init__(self, *holdings: Holding) -> None:
        self._holdings = deque(holdings)
        self.asked = 0

    async def __call__(self, _look: Callable[[], Holding]) -> Holding:
        self.asked += 1
        await asyncio.sleep(0)
        return self._holdings.popleft() if len(self._holdings) > 1 else self._holdings[0]


OURS = Holding(organization_id=1, keys=key_pair())
CONTENT = b"From: a@example.com\r\n\r\nx\r\n"


def parcel(number: int = 1) -> Parcel:
    now = dt.datetime.now(dt.UTC)
    fields: dict[str, Any] = dict.fromkeys(Parcel.__slots__, "")
    return replace(Parcel(**fields), message_id=f"msg_{number}", source="submission", organization_id=1, created_at=now)


def signed(lookups: Lookups, body: Callable[[Signer], Awaitable[Sequence[Signed]]]) -> Sequence[Signed]:
    async def run() -> Sequence[Signed]:
        return await body(Signer(lookups))

    return asyncio.run(run())


def test_messages_that_come_together_share_one_lookup() -> None:
    lookups = Lookups(OURS)
    signed(lookups, lambda ours: asyncio.gather(*(ours.sign(parcel(number), CONTENT) for number in range(20))))
    assert lookups.asked == 1


def test_one_message_to_many_domains_is_signed_once() -> None:
    async def body(ours: Signer) -> Sequence[Signed]:
        return await asyncio.gather(*(ours.sign(parcel(), CONTENT) for _ in range(5)), ours.sign(parcel(2), CONTENT))

    *same, other = signed(Lookups(OURS), body)
    assert all(one.fields is same[0].fields for one in same)
    assert other.fields is not same[0].fields


def test_a_retired_key_signs_no_more_once_its_domain_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signer, "KEYS_SECONDS", 0)
    rsa, _ = key_pair()

    async def body(ours: Signer) -> Sequence[Signed]:
        return [await ours.sign(parcel(), CONTENT) for _ in range(3)]

    found = signed(Lookups(OURS, Holding(1, (rsa,)), Holding(1)), body)
    assert [one.fields.count(b"DKIM-Signature:") for one in found] == [2, 1, 0]


def test_a_message_that_cannot_be_signed_is_found_so_for_all_its_recipients() -> None:
    content = b"From: a@example.com\r\n" + b"Subject: x\r\n" * 300 + b"\r\n"

    async def body(ours: Signer) -> Sequence[Signed]:
        return await asyncio.gather(*(ours.sign(parcel(), content) for _ in range(3)))

    found = signed(Lookups(OURS), body)
    assert all("more than 200 header fields" in one.words and one.fields == b"" for one in found)


def test_the_caches_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signer, "MAX_SHARED", 3)
    monkeypatch.setattr(signer, "MAX_DOMAINS", 2)

    async def body(ours: Signer) -> Sequence[Signed]:
        for number in range(10):
            await ours.sign(parcel(number), f"From: a@d{number % 5}.example\r\n\r\nx\r\n".encode())
        assert len(ours._holdings) == 2 and len(ours._made) == 3 and not ours._lookups
        return []

    signed(Lookups(OURS), body)


def test_a_tls_report_is_signed_with_the_fields_that_it_is_known_by(
    alice: User, keys: list[DkimKey], resolver: MemoryResolver, settings: Any
) -> None:
    """RFC 8460 §3, §5.3: others throw away one that is not."""
    settings.TLS_REPORT_FROM = "tls@example.com"
    now = dt.datetime.now(dt.UTC).replace(hour=12)
    figures = TlsFigures()
    figures.note(SessionResult("y.example", "no-policy-found", "mx.y.example"))
    figures.flush()
    TlsFigure.objects.update(day=(now - dt.timedelta(days=1)).date())
    wants = MemoryResolver(texts={"_smtp._tls.y.example": ["v=TLSRPTv1; rua=mailto:r@x.example"]})
    assert tls_reports.run(wants, now=now) == 1
    octets = sent(deliver(resolver))
    assert verdicts(octets, records()) == [True, True]
    signed = re.sub(rb"\s+", b"", octets[octets.index(b"h=") : octets.index(b"bh=")]).lower()
    assert all(name in signed for name in (b":tls-report-domain:", b":tls-report-submitter:", b":tls-required"))
