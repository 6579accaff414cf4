"""Tags, metadata and schedules of sent messages, as the queue and the API of messages know them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import Organization, User
from accounts.names import parse_address
from mailflow import receiver
from mailflow.models import Message, Metadata, Tag
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Labels, Origin
from queue import prune
from queue.models import Entry
from queue.tests.mail import client_of, file

pytestmark = pytest.mark.django_db


def sent(
    by: User, *, tag: str, at: dt.datetime | None = None, is_test: bool = False, to: str = "x@y.example"
) -> Message:
    known = set(Message.objects.values_list("pk", flat=True))
    submission = receiver.Submission(
        source=Message.Source.HTTP,
        envelope=Envelope(parse_address(by.email), [Recipient(parse_address(to))]),
        origin=Origin("HTTP", "trace", user_id=by.pk, organization_id=by.organization_id, is_test=is_test),
        content=b"Subject: x\r\n\r\nx\r\n",
        scheduled_at=at,
        labels=Labels((tag,), {"order": 17}),
    )
    with transaction.atomic():
        receiver.accept_within([submission])
    return Message.objects.exclude(pk__in=known).get()


def test_messages_are_found_by_their_tag_and_shown_with_their_labels(alice: User) -> None:
    message, _ = sent(alice, tag="invoice"), sent(alice, tag="other")
    client = client_of(alice)
    listed: Any = client.get("/api/v1/messages?tag=invoice").json()
    assert [item["id"] for item in listed["items"]] == [message.pk]
    shown = client.get(f"/api/v1/messages/{message.pk}").json()
    assert (shown["tags"], shown["metadata"]) == (["invoice"], {"order": 17})


def test_who_merely_received_it_neither_sees_nor_finds_them(alice: User) -> None:
    bob = User.objects.create_user("bob", "bob@example.com", organization=alice.organization)
    stranger = User.objects.create_user("m", "m@other.test", organization=Organization.objects.create(name="Other"))
    message = sent(alice, tag="invoice", to="bob@example.com")
    file(message, bob)
    shown = client_of(bob).get(f"/api/v1/messages/{message.pk}").json()
    assert (shown["tags"], shown["metadata"]) == ([], {})
    for other in (bob, stranger):
        assert client_of(other).get("/api/v1/messages?tag=invoice").json()["total"] == 0


def test_a_scheduled_message_waits_for_its_time_and_lives_from_then(alice: User, settings: Any) -> None:
    at = timezone.now() + dt.timedelta(days=2)
    entry = Entry.objects.get(message=sent(alice, tag="later", at=at))
    assert entry.next_attempt_at == entry.scheduled_at == at
    assert entry.expires_at == at + dt.timedelta(seconds=settings.QUEUE_MAX_AGE_SECONDS)


def test_a_test_keys_mail_is_marked_for_the_simulated_internet(alice: User, settings: Any) -> None:
    settings.DELIVERY_MODE = "live"
    marks = [Entry.objects.get(message=sent(alice, tag="t", is_test=is_test)).is_sandbox for is_test in (False, True)]
    assert marks == [False, True]


def test_labels_go_with_their_message(alice: User, settings: Any) -> None:
    message = sent(alice, tag="old")
    long_ago = timezone.now() - dt.timedelta(days=settings.MESSAGE_KEEP_DAYS + 1)
    Entry.objects.update(status="delivered", next_attempt_at=None, finished_at=long_ago)
    Message.objects.update(status="delivered", finished_at=long_ago)
    prune.run()
    assert not Message.objects.filter(pk=message.pk).exists()
    assert not Tag.objects.exists() and not Metadata.objects.exists()
