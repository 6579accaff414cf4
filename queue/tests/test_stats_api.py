"""`stats`: the union of what R1, R2 and R4 print, from real figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from mailflow import counters, events, removed
from mailflow.events import NewEvent
from mailflow.models import Event, Message
from queue import figures, removal
from queue.tests.mail import accepted, client_of, file

R1 = {
    "emails_sent", "emails_received", "emails_in_queue", "uptime_seconds", "requests_total", "requests_successful",
    "requests_failed", "last_request_time",
}  # fmt: skip
R2 = {"emails_fetched", "active_connections", "active_sessions"}
R4 = {"messages", "connections", "authentication", "spam", "virus", "storage", "performance"}


@pytest.mark.parametrize("path", ["/stats", "/stats/", "/api/stats", "/api/v1/stats"])
def test_every_printed_field_is_there_at_every_path(alice: User, path: str) -> None:
    body = client_of(alice).get(path).json()
    assert body.keys() >= R1 | R2 | R4
    assert body["performance"].keys() == {"avg_processing_ms", "p95_processing_ms", "p99_processing_ms"}


def test_messages_are_counted_by_how_they_came_and_ended(alice: User) -> None:
    ended: list[tuple[str, str]] = [("delivered", "http"), ("delivered", "reception"), ("bounced", "submission")]
    for status, source in [*ended, ("processing", "submission"), ("processing", "dsn")]:
        message = accepted("a@y.example", source=source)
        Message.objects.filter(pk=message.pk).update(status=status)
    body = client_of(alice).get("/stats").json()
    assert body["messages"] == {"received": 4, "sent": 2, "queued": 2, "failed": 1}
    assert (body["emails_sent"], body["emails_received"], body["emails_in_queue"]) == (1, 3, 2)


def test_what_is_removed_stays_counted(alice: User) -> None:
    for status in ("delivered", "bounced"):
        message = accepted("a@y.example", source="http")
        Message.objects.filter(pk=message.pk).update(status=status)
    events.record([NewEvent("refused", "no", stage="recipient"), NewEvent("refused", "no"), NewEvent("refused", "it")])
    before = figures.mail()
    assert (before.received_by_http, before.sent, before.failed, before.refused) == (2, 1, 1, 1)
    removal.remove_rows(list(Message.objects.values_list("pk", flat=True)))
    removed.note_refusals(list(Event.objects.values_list("pk", flat=True)))
    Event.objects.all().delete()
    assert figures.mail() == before
    assert not Message.objects.exists()


def test_storage_and_connections_are_counted(alice: User) -> None:
    filed = file(accepted("alice@example.com", text="x" * 200_000), alice)
    counters.add("smtp.connections.total", 7)
    counters.add("smtp.auth.failed", 2)
    counters.gauge("smtp.connections.active", 3)
    body = client_of(alice).get("/stats").json()
    assert body["storage"] == {"messages_stored": 1, "total_size_mb": round(filed.size_octets / 1048576, 3)}
    assert body["connections"]["total"] >= 7 and body["connections"]["current"] == 3
    assert body["authentication"]["failed"] >= 2
    counters.gauge("smtp.connections.active", 0)


def test_requests_are_counted(alice: User) -> None:
    client = client_of(alice)
    before = client.get("/stats").json()
    client.get("/messages/none")
    after = client.get("/stats").json()
    assert after["requests_total"] == before["requests_total"] + 2
    assert after["requests_failed"] == before["requests_failed"] + 1
    assert after["last_request_time"] >= before["last_request_time"] > 1_700_000_000


def test_spam_that_an_event_tells_of_is_counted(alice: User) -> None:
    accepted("a@y.example")
    accepted("a@y.example")
    events.record([NewEvent("spam_detected", "spam")])
    assert client_of(alice).get("/stats").json()["spam"] == {"detected": 1, "rate": 0.5}


def test_one_service_may_be_asked_for_alone(alice: User) -> None:
    client = client_of(alice)
    assert client.get("/stats?service=imap").json().keys() >= R2
    assert "messages" not in client.get("/stats?service=imap").json()
    assert client.get("/stats?service=smtp").json().keys() >= R1 | R4
    assert client.get("/stats?service=pop3").status_code == 400


def test_stats_need_credentials(db: None) -> None:
    assert Client().get("/stats").status_code == 401


def test_the_figures_cost_a_fixed_number_of_queries(
    alice: User, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    client = client_of(alice)
    for _ in range(20):
        accepted("a@y.example")
    with django_assert_max_num_queries(15):
        client.get("/stats")
