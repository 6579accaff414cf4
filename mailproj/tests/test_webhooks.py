"""R4's webhooks end to end: a message comes in by SMTP, an engine delivers it, a courier tells a real HTTP server."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client as Browser
from standardwebhooks.webhooks import Webhook

from accounts.dns.memory import MemoryResolver
from accounts.models import Domain, Organization, User, WebhookDelivery
from accounts.names import parse_address
from accounts.tests.webhook_receiver import Heard, Receiver, receiving
from accounts.webhooks import endpoints, outbox
from accounts.webhooks.names import EVENTS, SPAM_DETECTED, VIRUS_DETECTED
from mailflow import receiver as front_door
from mailflow import webhook_notices
from mailflow.listener.server import Listener
from mailflow.models import Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from mailflow.tests.wire import Client, running_listener, until
from queue import control
from queue.courier import Courier
from queue.models import Entry
from queue.outcome import from_reply
from queue.tests.conftest import running_engine
from queue.tests.test_courier import stop
from queue.transports.memory import MemoryTransport

pytestmark = pytest.mark.django_db(transaction=True)
LETTER = b"From: sender@example.net\r\nTo: alice@example.com\r\nSubject: Test Email\r\n\r\nHello.\r\n.\r\n"


@pytest.fixture
def alice(transactional_db: None) -> User:
    organization = Organization.objects.create(name="Example")
    Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    return User.objects.create_user("alice", "alice@example.com", "correct horse", organization=organization)


@pytest.fixture
def listener(alice: User, settings: Any) -> Iterator[Listener]:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    with running_listener() as running:
        yield running


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.fixture
def hooks(alice: User) -> Iterator[tuple[Receiver, Callable[..., str]]]:
    """An HTTP server, and what makes an endpoint of it and returns its secret; a courier runs."""
    courier = Courier(resolver=MemoryResolver(), poll_seconds=0.02)
    with receiving() as receiver:

        def listen(organization: Organization | None = None, *events: str, path: str = "") -> str:
            _, secret = endpoints.create(organization, receiver.url + path, events or EVENTS)
            outbox.forget()
            return secret

        courier.start()
        try:
            yield receiver, listen
        finally:
            stop(courier)


def smtp(listener: Listener, *commands: str, letter: bytes = LETTER) -> str:
    with Client(listener.ports[0]) as client:  # type: ignore[attr-defined]
        client.ask("EHLO client.example.net")
        for command in commands:
            assert client.ask(command).startswith("250"), command
        assert client.ask("DATA").startswith("354")
        client.send(letter)
        return client.reply()


def heard(receiver: Receiver, event: str, path: str = "/hook") -> Heard:
    """Return the one request that told of the event."""
    until(lambda: any(one.path == path and one.json["event"] == event for one in list(receiver.heard)))
    [found] = [one for one in receiver.heard if one.path == path and one.json["event"] == event]
    return found


def test_a_message_is_told_of_when_it_comes_in_and_when_it_is_delivered(
    listener: Listener, hooks: tuple[Receiver, Callable[..., str]]
) -> None:
    receiver, listen = hooks
    secret = listen()
    with running_engine() as engine:
        answer = smtp(listener, "MAIL FROM:<sender@example.net>", "RCPT TO:<alice@example.com>")
        assert answer.startswith("250"), answer
        engine.sweep()  # there is no Redis to ring it
        received, delivered = heard(receiver, "message.received"), heard(receiver, "message.sent")
    message = Message.objects.get()
    body = Webhook(secret).verify(received.body, received.headers)
    assert list(body) == ["event", "timestamp", "data"]
    assert body["event"] == "message.received"
    assert body["timestamp"] == f"{message.created_at:%Y-%m-%dT%H:%M:%SZ}"
    assert body["data"] == {
        "message_id": message.pk,
        "from": "sender@example.net",
        "to": ["alice@example.com"],
        "subject": "Test Email",
        "size_bytes": message.size_octets,
    }
    assert message.pk in answer
    assert Webhook(secret).verify(delivered.body, delivered.headers)["data"] == body["data"]


def test_a_failure_is_told_of_with_its_reason_and_our_report_of_it_is_not(
    listener: Listener, alice: User, hooks: tuple[Receiver, Callable[..., str]]
) -> None:
    receiver, listen = hooks
    listen(alice.organization)
    transport = MemoryTransport()
    transport.script["nobody@example.org"].append(from_reply(550, "5.1.1 No such user", transport="memory"))
    resolver = MemoryResolver(hosts={"example.org": ["93.184.216.34"]})
    login = base64.b64encode(b"\0alice\0correct horse").decode()
    with running_engine(transport, resolver) as engine, Client(listener.ports[0]) as client:  # type: ignore[attr-defined]
        client.ask("EHLO client.example.net")
        assert client.ask(f"AUTH PLAIN {login}").startswith("235")
        client.ask("MAIL FROM:<alice@example.com>")
        client.ask("RCPT TO:<nobody@example.org>")
        client.ask("DATA")
        client.send(LETTER.replace(b"sender@example.net", b"alice@example.com"))
        assert client.reply().startswith("250")
        engine.sweep()
        data = heard(receiver, "message.failed").json["data"]
        engine.sweep()
        until(lambda: not Entry.objects.filter(status__in=Entry.OPEN).exists())
    assert data["to"] == ["nobody@example.org"] and "No such user" in data["reason"]
    assert set(WebhookDelivery.objects.values_list("event", flat=True)) == {"message.received", "message.failed"}
    assert Message.objects.filter(source=Message.Source.DSN).count() == 1


def test_an_entry_that_a_person_removes_is_a_failure_too(
    listener: Listener, hooks: tuple[Receiver, Callable[..., str]]
) -> None:
    receiver, listen = hooks
    listen(None, "message.failed")
    smtp(listener, "MAIL FROM:<sender@example.net>", "RCPT TO:<alice@example.com>")
    control.remove(Entry.objects.all(), actor="root")
    assert heard(receiver, "message.failed").json["data"]["reason"] == "Removed from the queue by root."


def test_who_merely_receives_hears_of_their_own_recipients_alone(
    listener: Listener, alice: User, hooks: tuple[Receiver, Callable[..., str]]
) -> None:
    receiver, listen = hooks
    other = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.test", organization=other, is_trusted=True)
    User.objects.create_user("eve", "eve@other.test", "x", organization=other)
    third = Organization.objects.create(name="Third")
    for organization, path in ((None, "/all"), (alice.organization, "/ours"), (other, "/theirs"), (third, "/third")):
        listen(organization, "message.received", path=path)
    smtp(listener, "MAIL FROM:<sender@example.net>", "RCPT TO:<alice@example.com>", "RCPT TO:<eve@other.test>")
    to = {
        path: heard(receiver, "message.received", f"/hook{path}").json["data"]["to"]
        for path in ("/all", "/ours", "/theirs")
    }
    assert to == {
        "/all": ["alice@example.com", "eve@other.test"],
        "/ours": ["alice@example.com"],
        "/theirs": ["eve@other.test"],
    }
    assert WebhookDelivery.objects.count() == 3


def test_failed_logins_are_told_of_by_smtp_and_by_http(
    listener: Listener, hooks: tuple[Receiver, Callable[..., str]]
) -> None:
    receiver, listen = hooks
    listen(None, "auth.failed")
    wrong = base64.b64encode(b"\0alice\0wrong").decode()
    with Client(listener.ports[0]) as client:  # type: ignore[attr-defined]
        client.ask("EHLO client.example.net")
        assert client.ask(f"AUTH PLAIN {wrong}").startswith("535")
    basic = "Basic " + base64.b64encode(b"alice:wrong").decode()
    assert Browser().get("/api/v1/events", headers={"Authorization": basic}).status_code == 401
    until(lambda: len(receiver.heard) == 2)
    found = sorted((one.json["data"] for one in receiver.heard), key=lambda data: str(data["protocol"]))
    assert [(data["protocol"], data["username"], data["client_address"]) for data in found] == [
        ("http", "alice", "127.0.0.1"),
        ("smtp", "alice", "127.0.0.1"),
    ]


def test_a_new_account_is_told_of(hooks: tuple[Receiver, Callable[..., str]]) -> None:
    receiver, listen = hooks
    listen(None, "user.created")
    john = User.objects.create_user("john", "john@example.com", "correct horse")
    data = {"user_id": john.pk, "username": "john", "email": "john@example.com", "organization_id": None}
    assert heard(receiver, "user.created").json["data"] == data


@pytest.mark.parametrize("event", [SPAM_DETECTED, VIRUS_DETECTED])
def test_what_a_scanner_finds_is_told_of_in_the_same_form(alice: User, event: str) -> None:
    """No scanner is there yet: this is the call that one makes."""
    endpoints.create(alice.organization, "https://example.com/", [event])
    outbox.forget()
    accepted = front_door.examine(
        front_door.Submission(
            source=Message.Source.RECEPTION.value,
            envelope=Envelope(parse_address("sender@example.net"), [Recipient(parse_address("alice@example.com"))]),
            origin=Origin(protocol="ESMTP", trace_id="trace"),
            content=LETTER,
        )
    )
    webhook_notices.tell([webhook_notices.received(accepted, event, score=7.5)])
    [payload] = WebhookDelivery.objects.values_list("payload", flat=True)
    assert f'"event":"{event}"' in payload and accepted.message_id in payload and '"score":7.5' in payload
