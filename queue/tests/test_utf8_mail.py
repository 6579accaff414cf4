"""Internationalised mail through the relay leg: filed, forwarded, sent on or reported (RFC 6531, RFC 6533)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import transaction

from accounts.dns.memory import MemoryResolver
from accounts.models import Alias, Domain, User
from accounts.names import parse_address
from mailflow import receiver
from mailflow.mailboxes import read_copy
from mailflow.models import FiledMessage, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue.models import Entry
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
