"""`messages/{id}/cancel` and `/reschedule`: who may, until when, and what becomes of the message."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import keys
from accounts.models import Organization, TrailEntry, User
from mailflow.models import Event, Message
from queue import control
from queue.control import Action, Order
from queue.models import Entry
from queue.tests.mail import accepted, file
from queue.tests.test_actions_api import acting

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def message(alice: User) -> Message:
    return scheduled(alice)


def scheduled(by: User) -> Message:
    message = accepted("a@x.example", "b@x.example", by=by)
    at = timezone.now() + HOUR
    Entry.objects.filter(message=message).update(scheduled_at=at, next_attempt_at=at, expires_at=at + 5 * HOUR)
    return message


def post(user: User, message: Message | str, what: str, **body: Any) -> Any:
    pk = message if isinstance(message, str) else message.pk
    return acting(user).post(f"/api/v1/messages/{pk}/{what}", body, content_type="application/json")


def test_its_sender_cancels_scheduled_mail(alice: User, message: Message) -> None:
    answer = post(alice, message, "cancel")
    assert answer.status_code == 200
    assert answer.json() == {
        "id": message.pk, "message_id": message.pk, "status": "failed", "scheduled_at": None, "recipients": 2,
        "message": "Cancelled.",
    }  # fmt: skip
    assert set(Entry.objects.values_list("status", "last_reply")) == {("failed", "Cancelled by alice.")}
    assert Event.objects.filter(kind="cancelled", actor="alice").count() == 2
    line = TrailEntry.objects.get(kind="queue.cancel")
    assert (line.actor, line.subject, line.client_address) == ("alice", f"message {message.pk}", "127.0.0.1")
    assert line.detail == "Cancelled, for 2 recipients."
    again = post(alice, message, "cancel")
    assert (again.status_code, again.json()["code"]) == (409, "CONFLICT")
    assert again.json()["detail"].startswith("It cannot be cancelled. It has ended")


def test_its_sender_puts_it_at_another_time(alice: User, message: Message) -> None:
    at = (timezone.now() + 3 * HOUR).replace(microsecond=0)
    answer = post(alice, message, "reschedule", scheduled_at=at.isoformat())
    assert (answer.status_code, answer.json()["status"]) == (200, "processing")
    for entry in Entry.objects.all():
        assert (entry.scheduled_at, entry.next_attempt_at) == (at, at)
        assert entry.expires_at == at + dt.timedelta(days=5)  # as QUEUE_MAX_AGE says
    line = TrailEntry.objects.get(kind="queue.reschedule")
    assert (line.actor, line.detail) == ("alice", f"Scheduled for {at:%Y-%m-%d %H:%M:%S} UTC, for 2 recipients.")
    assert f"Scheduled for {at:%Y-%m-%d %H:%M:%S} UTC by alice." in {event.summary for event in Event.objects.all()}


def test_a_key_that_sends_takes_back_what_it_sent(alice: User, message: Message) -> None:
    client = Client(headers={"X-API-Key": keys.create("k", alice, daily_limit=9)[1]})
    moved = client.post(f"/api/v1/messages/{message.pk}/reschedule", {"scheduled_at": "2h"}, "application/json")
    assert moved.status_code == 200, moved.content
    assert client.post(f"/api/v1/messages/{message.pk}/cancel").status_code == 200
    reader = Client(headers={"X-API-Key": keys.create("r", alice, daily_limit=9, scopes=["read"])[1]})
    assert reader.post(f"/api/v1/messages/{message.pk}/cancel").status_code == 403


def test_now_means_at_once(alice: User, message: Message) -> None:
    assert post(alice, message, "reschedule", scheduled_at="now").status_code == 200
    assert all(entry.next_attempt_at <= timezone.now() for entry in Entry.objects.all() if entry.next_attempt_at)


def test_scheduled_mail_on_hold_stays_on_hold(alice: User, message: Message) -> None:
    control.carry_out(Order(Action.HOLD, "root"), Entry.objects.all())
    assert post(alice, message, "reschedule", scheduled_at="3h").status_code == 200
    assert set(Entry.objects.values_list("next_attempt_at", flat=True)) == {None}
    control.carry_out(Order(Action.RELEASE, "root"), Entry.objects.all())
    assert all(entry.next_attempt_at == entry.scheduled_at for entry in Entry.objects.all())
    assert post(alice, message, "cancel").status_code == 200


def test_what_has_left_is_not_taken_back(alice: User, message: Message) -> None:
    first, _ = Entry.objects.order_by("pk")
    Entry.objects.filter(pk=first.pk).update(lease="w")
    answer = post(alice, message, "cancel")
    assert answer.json()["message"] == "Cancelled for 1 of 2 recipients."
    assert Entry.objects.get(pk=first.pk).status == "pending"
    assert (
        post(alice, message, "cancel").json()["detail"] == "It cannot be cancelled. A worker has it: its time has come."
    )
    Entry.objects.filter(pk=first.pk).update(lease="", status="retry", attempts=1)
    assert "It has left" in post(alice, message, "reschedule", scheduled_at="2h").json()["detail"]


def test_mail_that_was_not_scheduled_is_on_its_way(alice: User) -> None:
    message = accepted("a@x.example", by=alice)
    for what, body in (("cancel", {}), ("reschedule", {"scheduled_at": "2h"})):
        answer = post(alice, message, what, **body)
        assert answer.status_code == 409
        assert "It was not scheduled: it is on its way." in answer.json()["detail"]


def test_who_may(alice: User, message: Message) -> None:
    colleague = User.objects.create_user("carol", "carol@example.com", organization=alice.organization)
    stranger = User.objects.create_user(
        "eve", "eve@evil.example", organization=Organization.objects.create(name="Evil"), is_organization_admin=True
    )
    nobodys = User.objects.create_user("tom", "tom@tom.example")
    recipient = User.objects.create_user("bob", "bob@bob.example")
    file(message, recipient)
    for user, status in ((colleague, 403), (stranger, 404), (nobodys, 404), (recipient, 403)):
        for what, body in (("cancel", {}), ("reschedule", {"scheduled_at": "2h"})):
            assert post(user, message, what, **body).status_code == status
    assert Entry.objects.filter(Entry.IS_OPEN).count() == 2
    User.objects.filter(pk=colleague.pk).update(is_organization_admin=True)
    colleague.refresh_from_db()
    assert post(colleague, message, "reschedule", scheduled_at="2h").status_code == 200
    root = User.objects.create_superuser("root", "root@example.net")
    assert post(root, message, "cancel").status_code == 200
    assert post(root, "msg_abc123", "cancel").status_code == 404


@pytest.mark.parametrize("at", ["", "yesterday", "2020-01-01", "9999-01-01", "91d", None, 5, ["2h"]])
def test_a_wrong_time_is_refused_by_name(alice: User, message: Message, at: Any) -> None:
    answer = post(alice, message, "reschedule", scheduled_at=at)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["scheduled_at"]
    assert post(alice, message, "reschedule").status_code == 400


def test_it_may_be_put_as_far_ahead_as_it_may_be_sent(alice: User, message: Message) -> None:
    assert post(alice, message, "reschedule", scheduled_at="90d").status_code == 200
    assert post(alice, message, "reschedule", scheduled_at="91d").json()["detail"] == (
        "scheduled_at: At most 90 days ahead."
    )
