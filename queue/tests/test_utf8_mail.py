"""Internationalised mail through the relay leg: filed, forwarded, sent on or reported (RFC 6531, RFC 6533)."""

from __future__ import annotations

import email
from email.message import Message as EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from django.conf import LazySettings
from django.db import transaction

from accounts.dns.memory import MemoryResolver
from accounts.models import Alias, Domain, User
from accounts.names import parse_address
from mailflow import content, receiver
from mailflow.mailboxes import read_copy
from mailflow.models import Event, FiledMessage, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue.models import Attempt, Entry
from queue.outcome import failed, from_reply
from queue.tests.conftest import open_entries, running_engine, wait_until
from queue.tests.mail import client_of
from queue.transports.memory import MemoryTransport

pytestmark = pytest.mark.django_db(transaction=True)

USER, USER_SHOWN = "用户@xn--r8jz45g.jp", "用户@例え.jp"
CONTENT = (
    "From: Žofie <žofie@example.com>\r\nTo: <用户@例え.jp>\r\nSubject: Příliš\r\nMessage-ID: <m@example.com>\r\n"
    "\r\nŽluťoučký kůň\r\n"
).encode()
ASCII_CONTENT = b"Subject: Lunch\r\nMessage-ID: <m@example.com>\r\n\r\nShall we?\r\n"


@pytest.fixture
def user(alice: User) -> User:
    """A mailbox beyond ASCII, in a domain of Alice's organization."""
    assert alice.organization is not None
    Domain.objects.create(name="例え.jp", organization=alice.organization, is_trusted=True)
    return User.objects.create_user("yonghu", USER_SHOWN, "x", organization=alice.organization)


@pytest.fixture
def resolver() -> MemoryResolver:
    found = MemoryResolver()
    for domain in ("x.example", "xn--hxajbheg2az3al.xn--jxalpdlp"):
        found.hosts[domain] = ["198.41.0.4"]  # never connected to: the transport is in memory
    return found


def accept(
    *recipients: str,
    sender: str = "žofie@example.com",
    octets: bytes = CONTENT,
    original_recipient: str = "",
    **more: Any,
) -> list[int]:
    found = [Recipient(parse_address(one), original_recipient=original_recipient) for one in recipients]
    envelope = Envelope(parse_address(sender), found, **{"is_smtputf8": True, **more})
    submission = receiver.Submission(
        source=Message.Source.RECEPTION.value,
        envelope=envelope,
        origin=Origin(protocol="UTF8SMTP", trace_id="trace", client_address="192.0.2.1", helo="x.example"),
        content=octets,
    )
    with transaction.atomic():
        return receiver.accept_within([submission])


def deliver(ids: list[int], transport: MemoryTransport | None = None, resolver: MemoryResolver | None = None) -> None:
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: open_entries() == 0)


@pytest.mark.parametrize("storage", ["database", "maildir"])
@pytest.mark.parametrize("written", [USER_SHOWN, "用户+tag@XN--R8JZ45G.jp"])
def test_mail_for_a_mailbox_beyond_ascii_is_filed(
    user: User, settings: LazySettings, tmp_path: Path, storage: str, written: str
) -> None:
    settings.SMTP_STORAGE_TYPE, settings.SMTP_STORAGE_PATH = storage, tmp_path
    deliver(accept(written))
    filed = FiledMessage.objects.select_related("mailbox").get()
    assert filed.mailbox.user_id == user.pk and filed.recipient == str(parse_address(written))
    octets = read_copy(filed)
    assert octets.startswith("Return-Path: <žofie@example.com>\r\nReceived: from x.example ".encode())
    assert f"with UTF8SMTP id {filed.message_id}\r\n\tfor <{parse_address(written).unicode}>;".encode() in octets
    assert octets.endswith(CONTENT)
    message = Message.objects.get()
    assert (message.status, message.is_smtputf8, message.subject) == ("delivered", True, "Příliš")


def test_the_api_shows_it_to_its_owner_and_to_staff_who_name_the_address(user: User) -> None:
    deliver(accept(USER_SHOWN))
    (shown,) = client_of(user).get("/emails").json()["emails"]
    assert shown["recipient"] == USER
    root = User.objects.create_superuser("root", "root@example.net")
    for name in (USER_SHOWN, USER, "用户@例え。ＪＰ", "yonghu"):
        answer = client_of(root).get("/emails", {"user": name})
        assert [one["id"] for one in answer.json()["emails"]] == [shown["id"]], name
    assert client_of(root).get("/emails", {"user": "其他@例え.jp"}).status_code == 404


def test_an_alias_beyond_ascii_forwards_to_hosts_that_take_it(user: User, resolver: MemoryResolver) -> None:
    Alias.objects.create(domain=Domain.objects.get(name="例え.jp"), local_part="営業", targets=["bob@x.example"])
    transport = MemoryTransport()
    deliver(accept("営業@例え.jp", sender="s@x.example", octets=ASCII_CONTENT), transport, resolver)
    ((job, _),) = transport.jobs
    assert list(job.recipients) == ["bob@x.example"]
    assert "\r\nDelivered-To: 営業@xn--r8jz45g.jp\r\n".encode() in job.content
    assert Message.objects.get(source="forward").is_smtputf8
    assert Entry.objects.get(recipient="bob@x.example").original_recipient == "utf-8;営業@xn--r8jz45g.jp"


def test_an_alias_in_ascii_with_a_target_beyond_it_declares_smtputf8(user: User) -> None:
    Alias.objects.create(domain=Domain.objects.get(name="例え.jp"), local_part="sales", targets=[USER_SHOWN])
    deliver(accept("sales@例え.jp", sender="s@x.example", octets=ASCII_CONTENT, is_smtputf8=False))
    assert Message.objects.get(source="forward").is_smtputf8
    assert FiledMessage.objects.get().recipient == USER


def test_a_loop_of_aliases_beyond_ascii_ends(user: User) -> None:
    domain = Domain.objects.get(name="例え.jp")
    Alias.objects.create(domain=domain, local_part="一", targets=["二@例え.jp"])
    Alias.objects.create(domain=domain, local_part="二", targets=["一@例え.jp"])
    deliver(accept("一@例え.jp", sender="alice@example.com"))
    assert Message.objects.filter(source="forward").count() == 2  # equal marks for both would end it too early
    assert "has forwarded this message before" in Entry.objects.get(status="bounced").last_reply


def test_an_address_beyond_ascii_travels_in_the_form_for_the_wire(alice: User, resolver: MemoryResolver) -> None:
    transport = MemoryTransport()
    deliver(accept("Δοκιμή@παράδειγμα.δοκιμή"), transport, resolver)
    ((job, _),) = transport.jobs
    assert list(job.recipients) == ["Δοκιμή@xn--hxajbheg2az3al.xn--jxalpdlp"]
    assert job.reverse_path == "žofie@example.com" and job.content.endswith(CONTENT)


NO_SMTPUTF8 = failed(
    "the recipient's address holds characters beyond ASCII, which need SMTPUTF8, and the next hop does not offer it",
    transport="smtp",
    enhanced_code="5.6.7",
    next_hop="mx.x.example[198.41.0.4]:25",
)


def test_the_owner_reads_header_and_text_in_utf8(user: User) -> None:
    deliver(accept(USER_SHOWN))
    message_id = Message.objects.get().pk
    for shown in (
        client_of(user).get("/emails").json()["emails"][0],
        client_of(user).get(f"/emails/{message_id}").json(),
    ):
        assert (shown["sender"], shown["subject"], shown["body"]) == ("žofie@example.com", "Příliš", "Žluťoučký kůň\n")
    assert shown["headers"]["To"] == "<用户@例え.jp>" and shown["headers"]["From"] == "Žofie <žofie@example.com>"


def test_what_was_declared_goes_with_the_message_to_the_transport(alice: User, resolver: MemoryResolver) -> None:
    transport = MemoryTransport()
    deliver(accept("bob@x.example", sender="alice@example.com", octets=ASCII_CONTENT), transport, resolver)
    deliver(
        accept("bob@x.example", sender="alice@example.com", octets=ASCII_CONTENT, is_smtputf8=False),
        transport,
        resolver,
    )
    assert [job.is_smtputf8 for job, _ in transport.jobs] == [True, False]


def test_a_failure_is_reported_to_a_sender_beyond_ascii_by_an_internationalised_report(
    user: User, resolver: MemoryResolver
) -> None:
    transport = MemoryTransport()
    transport.script["Ž@x.example"].append(NO_SMTPUTF8)
    deliver(accept("Ž@x.example", sender=USER, original_recipient="utf-8;Ž@Old.example"), transport, resolver)
    report = Message.objects.get(source="dsn")
    assert (report.is_smtputf8, report.body_type, report.recipients) == (True, "8BITMIME", [USER])
    octets = content.read(report.pk)
    assert f"for <{USER_SHOWN}>;".encode() in octets and f"\r\nTo: <{USER_SHOWN}>\r\n".encode() in octets
    for line in (
        "Original-Recipient: utf-8; Ž@Old.example",
        "Final-Recipient: utf-8; Ž@x.example",
        "Status: 5.6.7",
        "Content-Type: message/global-headers",
    ):
        assert f"\r\n{line}\r\n".encode() in octets
    assert FiledMessage.objects.get().mailbox.user_id == user.pk
    assert Event.objects.filter(kind="bounced", summary__contains="Ž@x.example").exists()


def test_a_failure_is_reported_to_a_sender_in_ascii_by_a_report_that_goes_anywhere(
    alice: User, resolver: MemoryResolver
) -> None:
    transport = MemoryTransport()
    transport.script["Ž@x.example"].append(NO_SMTPUTF8)
    deliver(accept("Ž@x.example", sender="alice@example.com", octets=ASCII_CONTENT), transport, resolver)
    report = Message.objects.get(source="dsn")
    assert not report.is_smtputf8 and content.read(report.pk).isascii()
    whole = email.message_from_bytes(content.read(report.pk))
    text, status, _ = cast("list[EmailMessage]", whole.get_payload())
    assert status.get_content_type() == "message/global-delivery-status"
    told = cast(bytes, text.get_payload(decode=True)).decode()
    assert "<Ž@x.example>" in told and "SMTPUTF8" in told


@pytest.mark.parametrize("original", ["rfc822;bob@old.example", ""])
def test_the_original_recipient_of_ascii_mail_is_told_too(alice: User, resolver: MemoryResolver, original: str) -> None:
    transport = MemoryTransport()
    transport.script["bob@x.example"].append(from_reply(550, "5.1.1 nobody", transport="smtp"))
    ids = accept(
        "bob@x.example",
        sender="alice@example.com",
        octets=ASCII_CONTENT,
        original_recipient=original,
        is_smtputf8=False,
    )
    deliver(ids, transport, resolver)
    octets = content.read(Message.objects.get(source="dsn").pk)
    assert octets.isascii() and b"Content-Type: message/delivery-status\r\n" in octets
    assert (b"\r\nOriginal-Recipient: rfc822; bob@old.example\r\n" in octets) is bool(original)
    assert (b"Original-Recipient" in octets) is bool(original)


def test_an_alias_is_kept_folded_and_found_in_any_form(user: User) -> None:
    domain = Domain.objects.get(name="例え.jp")
    alias = Alias.objects.create(domain=domain, local_part="Stra\u00dfe-O\u0308ST\u03a3", targets=[USER_SHOWN])
    assert alias.local_part == Alias.objects.get().local_part == "strasse-östσ"
    for written in ("STRASSE-ÖSTΣ", "straße-öst\u03c2", "Strasse-o\u0308stσ+tag"):
        deliver(accept(f"{written}@例え.jp"))
    assert FiledMessage.objects.count() == 3
    assert Attempt.objects.filter(outcome="failed").count() == 0
