"""`queue` in the API: R4's shape for staff; retry and removal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from accounts.models import TrailEntry, User
from mailflow.models import Event, Message
from queue import control, message_status, queued
from queue.control import Action, Order
from queue.models import Entry
from queue.tests.mail import accepted, client_of


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.net")


def retrying(message: Message) -> None:
    at = timezone.now() + dt.timedelta(hours=1)
    Entry.objects.filter(message=message).update(status="retry", attempts=1, next_attempt_at=at)


def ended(message: Message, status: str, **since: int) -> None:
    at = timezone.now() - dt.timedelta(**since)
    Entry.objects.filter(message=message).update(status=status, next_attempt_at=None, finished_at=at)
    message_status.refresh([message.pk])


def listed(user: User, query: str = "") -> list[str]:
    return [item["id"] for item in client_of(user).get(f"/api/v1/queue?{query}").json()["items"]]


@pytest.mark.parametrize("path", ["/api/queue", "/api/queue/"])
def test_r4s_path_answers_in_r4s_shape(root: User, path: str) -> None:
    message = accepted("a@y.example", "b@y.example", subject="Test Email")
    retrying(message)
    body = client_of(root).get(path).json()
    assert (body["total"], body["offset"], body["limit"]) == (1, 0, 100)
    (item,) = body["messages"]
    assert item["id"] == message.pk and item["from"] == "alice@example.com" and item["subject"] == "Test Email"
    assert item["to"] == ["a@y.example", "b@y.example"] and item["size_bytes"] == message.size_octets
    assert (item["attempts"], item["max_attempts"], item["status"]) == (1, 5, "retry")
    assert item["next_retry"] > item["created_at"] and item["waiting_for"]


def test_the_canonical_path_answers_in_r3s_shape(root: User) -> None:
    message = accepted("a@y.example")
    body = client_of(root).get("/api/v1/queue").json()
    assert [item["id"] for item in body["items"]] == [message.pk] and body["page_size"] == 20


def test_only_what_somebody_has_not_got_is_listed(root: User, settings: LazySettings) -> None:
    delivered, bounced, old, pending = (accepted("a@y.example") for _ in range(4))
    settings.QUEUE_KEEP_FAILED_DAYS = 7
    ended(delivered, "delivered", days=0)
    ended(bounced, "bounced", days=1)
    ended(old, "failed", days=8)
    assert listed(root) == [pending.pk, bounced.pk]
    assert listed(root, "status=pending") == [pending.pk]
    assert listed(root, "status=failed") == [bounced.pk]
    retrying(pending)
    assert listed(root, "status=retry") == [pending.pk] and listed(root, "status=pending") == []


def test_a_wrong_status_is_refused(root: User) -> None:
    assert client_of(root).get("/api/queue?status=lost").status_code == 400


def test_the_queue_is_for_staff(alice: User) -> None:
    message = accepted("a@y.example", by=alice)
    client = client_of(alice)
    assert client.get("/api/queue").status_code == 403
    assert client.get(f"/api/queue/{message.pk}").status_code == 403
    assert Client().get("/api/queue").status_code == 401


def acting(user: User) -> Client:
    """A client that acts with its password, as curl does: a session would need a CSRF token."""
    user.set_password("correct horse")
    user.save()
    return Client(headers={"Authorization": "Basic cm9vdDpjb3JyZWN0IGhvcnNl"})


@pytest.mark.parametrize("path", ["/api/queue/{}/retry", "/api/queue/{}/retry/", "/api/v1/queue/{}/retry"])
def test_a_retry_makes_the_message_due_at_once(root: User, path: str) -> None:
    message = accepted("a@y.example")
    retrying(message)
    answer = acting(root).post(path.format(message.pk))
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "message": "Message queued for immediate retry"}
    due_at = Entry.objects.get().next_attempt_at
    assert due_at is not None and due_at <= timezone.now()
    assert Event.objects.get(kind="retry_requested").actor == "root"
    line = TrailEntry.objects.get(kind="queue.retry")
    assert (line.actor, line.subject) == ("root", f"message {message.pk}")
    assert line.detail.startswith("retry now: 1 done. ")


def test_a_deletion_takes_the_message_out(root: User) -> None:
    message = accepted("a@y.example")
    client = acting(root)
    answer = client.delete(f"/api/queue/{message.pk}", headers={"Accept-Language": "cs"})
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "message": "Zpráva byla odstraněna z fronty"}
    message.refresh_from_db()
    assert message.status == "failed" and client.get(f"/api/queue/{message.pk}").json()["status"] == "failed"
    line = TrailEntry.objects.get(kind="queue.delete")
    assert (line.actor, line.subject, line.client_address) == ("root", f"message {message.pk}", "127.0.0.1")
    for again in (client.delete(f"/api/queue/{message.pk}"), client.post(f"/api/queue/{message.pk}/retry")):
        assert again.status_code == 409


def test_a_message_that_is_not_queued_is_a_404(root: User) -> None:
    message = accepted("a@y.example")
    ended(message, "delivered", days=0)
    client = acting(root)
    for message_id in (message.pk, "msg_abc123", "a%00b"):
        assert client.get(f"/api/queue/{message_id}").status_code == 404
        assert client.delete(f"/api/queue/{message_id}").status_code == 404
        assert client.post(f"/api/queue/{message_id}/retry").status_code == 404


def test_a_list_of_fifty_costs_as_many_queries_as_a_list_of_one(
    root: User, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    client = client_of(root)
    for count in (1, 49):
        for _ in range(count):
            accepted("a@y.example", "b@example.com")
        with django_assert_max_num_queries(12):
            assert client.get("/api/v1/queue?page_size=50").json()["items"]


def test_held_and_scheduled_mail_is_pending_and_says_what_it_waits_for(root: User) -> None:
    held, scheduled = accepted("a@y.example"), accepted("b@y.example")
    retrying(held)
    control.carry_out(Order(Action.HOLD, "root", "spam"), Entry.objects.filter(message=held))
    at = timezone.now() + dt.timedelta(hours=1)
    Entry.objects.filter(message=scheduled).update(scheduled_at=at, next_attempt_at=at)
    items = {item["id"]: item for item in client_of(root).get("/api/v1/queue?status=pending").json()["items"]}
    assert items[held.pk]["waiting_for"].endswith("by root: spam") and items[held.pk]["next_retry"] is None
    assert items[scheduled.pk]["waiting_for"] == "the time that its sender chose"
    assert {item["status"] for item in items.values()} == {"pending"}
    assert listed(root, "status=retry") == []


def test_a_message_is_listed_once_and_by_its_liveliest_recipient(root: User) -> None:
    message = accepted("a@y.example", "b@y.example", "c@y.example")
    Entry.objects.filter(recipient="a@y.example").update(status="retry", attempts=1)
    control.remove(Entry.objects.filter(recipient="c@y.example"), actor="root")
    body = client_of(root).get("/api/v1/queue").json()
    assert (body["total"], len(body["items"]), body["items"][0]["status"]) == (1, 1, "retry")
    assert {item["status"] for item in body["items"][0]["recipients"]} == {"pending", "retry", "failed"}
    assert listed(root, "status=retry") == [message.pk]
    assert listed(root, "status=pending") == listed(root, "status=failed") == []


@pytest.mark.parametrize("status", ["", "&status=pending", "&status=retry", "&status=failed"])
def test_pages_and_the_cursor_lead_through_everything_once(root: User, status: str) -> None:
    messages = [accepted("a@y.example", "b@y.example") for _ in range(5)]
    for message in messages:
        if "retry" in status:
            retrying(message)
        if "failed" in status:
            ended(message, "bounced", days=0)
    newest_first = sorted((message.pk for message in messages), reverse=True)
    pages = [listed(root, f"limit=2&offset={offset}{status}") for offset in (0, 2, 4, 6)]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:], []]
    assert listed(root, f"before={newest_first[1]}{status}") == newest_first[2:]
    assert client_of(root).get(f"/api/v1/queue?limit=2{status}").json()["total"] == 5


def test_a_wrong_cursor_is_refused(root: User) -> None:
    for before in ("x", "msg_%00"):
        assert client_of(root).get(f"/api/v1/queue?before={before}").status_code == 400


def test_the_total_ends_at_its_cap(root: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "TOTAL_CAP", 2)
    for _ in range(3):
        accepted("a@y.example")
    body = client_of(root).get("/api/v1/queue").json()
    assert (body["total"], len(body["items"])) == (2, 3)


def test_a_retry_of_held_mail_says_that_it_is_held(root: User) -> None:
    message = accepted("a@y.example")
    control.carry_out(Order(Action.HOLD, "root"), Entry.objects.all())
    answer = acting(root).post(f"/api/queue/{message.pk}/retry")
    assert answer.status_code == 409
    assert "on hold" in answer.json()["detail"]
