"""`queue` in the API: R4's shape for staff; retry and removal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from accounts.models import User
from mailflow.models import Event, Message
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


def test_a_deletion_takes_the_message_out(root: User) -> None:
    message = accepted("a@y.example")
    client = acting(root)
    answer = client.delete(f"/api/queue/{message.pk}", headers={"Accept-Language": "cs"})
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "message": "Zpráva byla odstraněna z fronty"}
    message.refresh_from_db()
    assert message.status == "failed" and client.get(f"/api/queue/{message.pk}").json()["status"] == "failed"
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
        with django_assert_max_num_queries(5):
            assert client.get("/api/v1/queue?page_size=50").json()["items"]
