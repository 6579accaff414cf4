"""A sender, an engine and a world outside, for the tests of what comes back."""

from __future__ import annotations

from collections import deque
from typing import Any

from django.db import transaction

from accounts.dns.memory import MemoryResolver
from accounts.models import User
from accounts.names import parse_address
from mailflow import content, receiver
from mailflow.models import Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue.models import Entry
from queue.outcome import Outcome, from_reply
from queue.tests.conftest import open_entries, running_engine, wait_until
from queue.transports.memory import MemoryTransport

HOP = "mx.dest.example[192.0.2.1]:25"
TAKEN = from_reply(250, "2.0.0 taken", transport="smtp", next_hop=HOP)
BOB, CAROL = "bob@dest.example", "carol@dest.example"


def refusal(code: int, text: str) -> Outcome:
    return from_reply(code, text, transport="smtp", next_hop=HOP)


class World:
    """A sender, an engine, and a world outside that takes everything or answers as it is told."""

    def __init__(self, alice: User) -> None:
        self.alice = alice
        self.transport = MemoryTransport()
        self.resolver = MemoryResolver()
        for domain in ("dest.example", "other.example"):
            self.resolver.hosts[domain] = ["198.41.0.4"]  # never connected to

    def send(
        self, *recipients: str, source: str = "http", sender: str = "alice@example.com", **envelope: Any
    ) -> Message:
        """Send as Alice's account, and return the message when its recipients have ended."""
        self.accept(*recipients, source=source, sender=sender, organization_id=self.alice.organization_id, **envelope)
        message = Message.objects.filter(source=source).order_by("-pk")[0]
        self.run()
        message.refresh_from_db()
        return message

    def receive(self, recipient: str, octets: bytes, *, sender: str = "") -> Message:
        """Take mail from a stranger, and return it when it was delivered."""
        self.accept(recipient, source="reception", sender=sender, octets=octets)
        message = Message.objects.filter(source="reception").order_by("-pk")[0]
        self.run()
        return message

    def accept(
        self, *recipients: str, source: str, sender: str, octets: bytes = b"", organization_id: int | None = None,
        notify: str = "",
    ) -> None:  # fmt: skip
        with transaction.atomic():
            receiver.accept_within(
                [
                    receiver.Submission(
                        source=source,
                        envelope=Envelope(
                            parse_address(sender) if sender else None,
                            [Recipient(parse_address(one), notify) for one in recipients],
                        ),
                        origin=Origin(protocol="ESMTP", trace_id="trace", organization_id=organization_id),
                        content=octets or b"Subject: Invitation\r\nMessage-ID: <inv.1@example.com>\r\n\r\nHello\r\n",
                    )
                ]
            )

    def run(self) -> None:
        with running_engine(self.transport, self.resolver) as engine:
            engine.ring(list(Entry.objects.filter(next_attempt_at__isnull=False).values_list("pk", flat=True)))
            wait_until(lambda: open_entries() == 0)

    def answer(self, recipient: str, *outcomes: Outcome) -> None:
        self.transport.script[recipient] = deque(outcomes)

    @property
    def path(self) -> str:
        """The reverse path of the last transaction with another host."""
        return self.transport.jobs[-1][0].reverse_path

    def header_of(self, message: Message) -> str:
        return content.read(message.pk).partition(b"\r\n\r\n")[0].decode().replace("\r\n", "\n") + "\n"
