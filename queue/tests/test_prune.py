"""What `prune` removes, and what it must leave."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import TrailEntry, User, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from accounts.webhooks import endpoints, outbox
from mailflow import content
from mailflow.events import NewEvent, record
from mailflow.ids import first_message_id, first_row_id, new_row_id
from mailflow.models import ContentChunk, Event, FiledMessage, Message
from mailflow.storage import registry
from queue import prune
from queue.models import Attempt, Destination, DoubleBounce, Entry, QueueAction, SoftBounce, Suppression
from queue.tests.mail import TEXT, accepted, file

pytestmark = pytest.mark.django_db

OLD = dt.timedelta(days=31)


def ended(message: Message, status: str = Message.Status.DELIVERED, ago: dt.timedelta = OLD) -> Message:
    """Give the message an end, and each of its entries an attempt."""
    at = timezone.now() - ago
    for entry in Entry.objects.filter(message=message):
        Attempt.objects.create(
            id=new_row_id(), entry=entry, number=1, started_at=at, ended_at=at, outcome="delivered", transport="smtp"
        )
    Entry.objects.filter(message=message).update(next_attempt_at=None, finished_at=at, status="delivered")
    Message.objects.filter(pk=message.pk).update(status=status, finished_at=at)
    record([NewEvent(kind="delivered", summary="Delivered.", message_id=message.pk)])
    return message


def chunk(message_id: str, ordinal: int = 0) -> None:
    ContentChunk.objects.create(message_id=message_id, ordinal=ordinal, octets=b"x")


def id_of(ago: dt.timedelta) -> str:
    return first_message_id(timezone.now() - ago).ljust(30, "0")


def event(kind: str, ago: dt.timedelta, message_id: str = "") -> Event:
    at = timezone.now() - ago
    row_id = first_row_id(at) | (new_row_id() & 0x3FFFFF)
    return Event.objects.create(id=row_id, created_at=at, kind=kind, message_id=message_id, summary="Refused.")


def test_an_old_message_goes_with_everything_that_belongs_to_it() -> None:
    ended(accepted("bob@elsewhere.example", "carol@elsewhere.example"))
    assert prune.run()["messages"] == 1
    for model in (Message, Entry, Attempt, Event, ContentChunk):
        assert not model.objects.exists(), model


def test_a_message_that_ended_lately_stays_whole() -> None:
    message = ended(accepted("bob@elsewhere.example"), ago=dt.timedelta(days=29))
    prune.run()
    assert TEXT.encode() in content.read(message.pk)
    assert [model.objects.count() for model in (Message, Entry, Attempt, Event)] == [1, 1, 1, 2]


def test_a_message_that_is_still_open_stays_however_old_it_is() -> None:
    message = accepted("bob@elsewhere.example")
    Message.objects.filter(pk=message.pk).update(created_at=timezone.now() - 10 * OLD)
    prune.run()
    assert Entry.objects.get().message_id == message.pk
    assert content.read(message.pk)


def test_what_lies_in_a_mailbox_stays_readable_with_its_history(alice: User) -> None:
    filed = file(ended(accepted("alice@example.com")), alice)
    assert prune.run()["messages"] == 0
    assert TEXT.encode() in registry.current().read(filed.storage_key)
    assert Entry.objects.count() == Attempt.objects.count() == 1
    assert Event.objects.filter(message_id=filed.message_id).exists()


def test_content_that_only_a_mailbox_needs_stays(alice: User) -> None:
    filed = file(ended(accepted("alice@example.com")), alice)
    old = id_of(OLD)
    FiledMessage.objects.update(message_id=old, storage_key=f"db:{old}")
    ContentChunk.objects.filter(message_id=filed.message_id).delete()
    chunk(old)
    prune.run()
    assert registry.current().read(f"db:{old}") == b"x"


def test_a_failed_message_stays_for_as_long_as_failed_entries_are_listed(settings: Any) -> None:
    settings.QUEUE_KEEP_FAILED_DAYS = 40
    ended(accepted("bob@elsewhere.example"), Message.Status.BOUNCED)
    ended(accepted("bob@elsewhere.example"), Message.Status.FAILED, ago=dt.timedelta(days=41))
    prune.run()
    assert Message.objects.get().status == Message.Status.BOUNCED


def test_content_whose_message_never_came_goes_after_a_day() -> None:
    old, young = id_of(dt.timedelta(days=1, minutes=1)), id_of(dt.timedelta(hours=23))
    for message_id in (old, young):
        chunk(message_id, 0)
        chunk(message_id, 1)
    assert prune.run()["chunks"] == 2
    assert set(ContentChunk.objects.values_list("message_id", flat=True)) == {young}


@pytest.mark.parametrize("kind", prune.WITHOUT_MESSAGE)
def test_old_refusals_go_and_young_ones_stay(kind: str) -> None:
    event(kind, OLD)
    young = event(kind, dt.timedelta(days=29))
    assert prune.run()["refusals"] == 1
    assert Event.objects.get() == young


def test_a_refusal_that_belongs_to_a_message_stays_with_it() -> None:
    kept = event(Event.Kind.REFUSED, OLD, message_id=accepted("bob@elsewhere.example").pk)
    prune.run()
    assert Event.objects.filter(pk=kept.pk).exists()


def test_the_trail_is_kept_for_its_own_time(settings: Any) -> None:
    settings.TRAIL_KEEP_DAYS = 60
    for days in (59, 61):
        line = TrailEntry.objects.create(kind="auth.failed", subject=f"{days} days ago")
        TrailEntry.objects.filter(pk=line.pk).update(created_at=timezone.now() - dt.timedelta(days=days))
    assert prune.run()["trail"] == 1
    assert TrailEntry.objects.get().subject == "59 days ago"


def test_records_of_actions_are_kept_as_long_as_the_trail(settings: Any) -> None:
    settings.TRAIL_KEEP_DAYS = 60
    now = timezone.now()
    for days, has_ended in ((59, True), (61, True), (62, False)):
        at = now - dt.timedelta(days=days)
        QueueAction.objects.create(
            id=first_row_id(at), created_at=at, actor=f"{days}", action="hold", up_to_id=0,
            finished_at=at if has_ended else None,
        )  # fmt: skip
    assert prune.run()["actions"] == 1
    assert set(QueueAction.objects.values_list("actor", flat=True)) == {"59", "62"}


def test_everything_goes_however_many_batches_it_takes(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "BATCH", 2)
    monkeypatch.setattr(prune, "BATCH_CHUNKS", 2)
    monkeypatch.setattr(prune, "BATCH_ROWS", 2)
    kept = [file(ended(accepted("alice@example.com")), alice).message_id for _ in range(3)]
    for _ in range(5):
        ended(accepted("bob@elsewhere.example"))
    large = ended(accepted("a@x.example", "b@x.example", "c@x.example"))
    for ordinal in range(1, 6):
        chunk(large.pk, ordinal)
        chunk(id_of(OLD), ordinal)
        event(Event.Kind.REFUSED, OLD)
        TrailEntry.objects.create(kind="auth.failed")
    TrailEntry.objects.update(created_at=timezone.now() - dt.timedelta(days=91))
    assert prune.run() == {"messages": 6, "chunks": 5, "refusals": 5, "trail": 5}
    assert sorted(Message.objects.values_list("pk", flat=True)) == sorted(kept)
    assert set(ContentChunk.objects.values_list("message_id", flat=True)) == set(kept)


def test_destinations_that_nobody_writes_to_go_but_where_people_have_set_something(db: None) -> None:
    old = timezone.now() - dt.timedelta(days=61)
    given: dict[str, dict[str, object]] = {
        "gone.example": {},
        "limited.example": {"max_connections": 2},
        "noted.example": {"note": "they asked for it"},
        "used.example": {"used_at": timezone.now()},
    }
    for domain, values in given.items():
        Destination.objects.create(domain=domain, **{"used_at": old} | values)
    assert prune.run()["destinations"] == 1
    assert not Destination.objects.filter(domain="gone.example").exists()


def test_messages_that_ended_in_the_same_instant_all_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "BATCH", 2)
    for _ in range(5):
        accepted("bob@elsewhere.example")
    Message.objects.update(status=Message.Status.DELIVERED, finished_at=timezone.now() - OLD)
    assert prune.run()["messages"] == 5


def test_a_run_whose_time_is_over_leaves_the_rest_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    ended(accepted("bob@elsewhere.example"))
    with monkeypatch.context() as patch:
        patch.setattr(prune, "MAX_RUN_SECONDS", -1.0)
        assert not prune.run()
    assert prune.run()["messages"] == 1


def test_what_bounces_left_behind_goes_when_it_counts_no_more() -> None:
    now = timezone.now()
    for number, ago in enumerate((dt.timedelta(days=1), OLD)):
        at, row_id = now - ago, first_row_id(now - ago) + number
        SoftBounce.objects.create(id=row_id, entry_id=number, organization_id=1, address="a@x.example", created_at=at)
        DoubleBounce.objects.create(id=row_id, message_id=f"msg_{number}", words="", created_at=at, told_at=at)
        Suppression.objects.create(address=f"u{number}@x.example", expires_at=at)
    Suppression.objects.create(id=first_row_id(now - OLD), address="kept@x.example", created_at=now - OLD)
    assert prune.run()["bounces"] == 3
    assert SoftBounce.objects.count() == DoubleBounce.objects.count() == 1
    assert set(Suppression.objects.values_list("address", flat=True)) == {"u0@x.example", "kept@x.example"}


def test_old_deliveries_of_webhooks_go_with_their_attempts_and_without_their_endpoint_too() -> None:
    endpoint, _ = endpoints.create(None, "https://example.com/", ["message.sent"])
    gone, _ = endpoints.create(None, "https://example.com/", ["message.sent"])
    now = timezone.now()
    kept = outbox.delivery(endpoint.pk, "message.sent", "{}", now)
    old = [outbox.delivery(one.pk, "message.sent", "{}", now) for one in (endpoint, gone)]
    for number, delivery in enumerate(old):
        delivery.id = f"{outbox.first_id(now - dt.timedelta(days=8))}{number:014d}"
    WebhookDelivery.objects.bulk_create([kept, *old])
    for delivery in (kept, *old):
        WebhookAttempt.objects.create(
            delivery=delivery, started_at=now, duration_ms=1, url=endpoint.url, request_headers={}
        )
    endpoints.delete(gone)
    assert prune.run()["webhook_deliveries"] == 2
    assert [delivery.pk for delivery in WebhookDelivery.objects.all()] == [kept.pk]
    assert WebhookAttempt.objects.get().delivery_id == kept.pk and WebhookEndpoint.objects.get() == endpoint
