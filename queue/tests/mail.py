"""Mail for the API's tests: accepted by the front door, and filed where a test wants it."""

from __future__ import annotations

import datetime as dt
import hashlib

from django.db import transaction
from django.test import Client

from accounts.models import User
from accounts.names import parse_address
from mailflow import content, mailboxes, receiver
from mailflow.ids import new_row_id
from mailflow.mailboxes import NewFiling
from mailflow.models import FiledMessage, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from mailflow.storage import registry
from mailflow.storage.base import Copy

TEXT = "Hello,\r\nthis is the text.\r\n"


def accepted(
    *recipients: str,
    by: User | None = None,
    sender: str = "alice@example.com",
    subject: str = "Test",
    text: str = TEXT,
    source: str = Message.Source.SUBMISSION,
    header_section: str = "",
) -> Message:
    """Return a message that was accepted for the recipients, sent by a user where one is named."""
    known = set(Message.objects.values_list("pk", flat=True))
    head = (
        header_section
        or f"From: Sender <{sender}>\r\nSubject: {subject}\r\nMessage-ID: <{new_row_id()}@example.com>\r\n"
    )
    submission = receiver.Submission(
        source=source,
        envelope=Envelope(parse_address(sender), [Recipient(parse_address(one)) for one in recipients]),
        origin=Origin(
            protocol="ESMTPA",
            trace_id="trace",
            user_id=by.pk if by else None,
            organization_id=by.organization_id if by else None,
        ),
        content=f"{head}\r\n{text}".encode(),
    )
    with transaction.atomic():
        receiver.accept_within([submission])
    return Message.objects.exclude(pk__in=known).get()


def file(message: Message, user: User, recipient: str = "") -> FiledMessage:
    """File the message in the user's INBOX."""
    octets = content.read(message.pk)
    storage = registry.current()
    copy = Copy(str(new_row_id()), message.pk, user.email, "INBOX", message.created_at, octets)
    filing = NewFiling(
        user_id=user.pk,
        message_id=message.pk,
        entry_id=None,
        recipient=recipient or user.email,
        internal_date=message.created_at + dt.timedelta(seconds=1),
        size_octets=len(octets),
        digest=hashlib.sha256(octets).hexdigest(),
        storage=storage.name,
        storage_key=storage.put(copy),
    )
    with transaction.atomic():
        mailboxes.file_copies([filing])
    return FiledMessage.objects.order_by("-pk")[0]


def client_of(user: User) -> Client:
    """A client with the user's session."""
    client = Client()
    client.force_login(user)
    return client
