"""R4, the SMTP server: its eleven curl lines, at the ports that it prints, its webhook and its headers."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mailproj.tests.curl_lines import curl
from mailproj.tests.references.example import ADDRESS, MESSAGE_ID, NUMBER, TIME, Example, check
from mailproj.tests.references.world import MEMBER_PASSWORD, World
from mailproj.tests.whole_system import wait_until

pytestmark = pytest.mark.slow

HEALTH = {
    "status": "healthy", "version": str, "uptime_seconds": NUMBER, "connections": {"active": int, "total": int},
    "memory": {"allocated_mb": NUMBER, "heap_mb": NUMBER},
}  # fmt: skip
STATS = {
    "messages": {"received": int, "sent": int, "queued": int, "failed": int},
    "connections": {"current": int, "total": int, "rejected": int},
    "authentication": {"attempts": int, "successful": int, "failed": int},
    "spam": {"detected": int, "rate": NUMBER},
    "virus": {"detected": int, "rate": NUMBER},
    "storage": {"messages_stored": int, "total_size_mb": NUMBER},
    "performance": {"avg_processing_ms": NUMBER, "p95_processing_ms": NUMBER, "p99_processing_ms": NUMBER},
}
NEW_USER = {
    "id": int, "username": "jane", "email": "jane@example.com", "created_at": TIME, "quota_mb": 1000, "enabled": True,
}  # fmt: skip
USER = {
    "id": int, "username": str, "email": ADDRESS, "created_at": TIME, "last_login": (TIME, None), "quota_mb": int,
    "used_mb": NUMBER, "enabled": bool,
}  # fmt: skip
JOHN = {**USER, "username": "john", "email": "john@example.com", "last_login": TIME, "quota_mb": 1000, "enabled": True}
QUEUED = {
    "id": MESSAGE_ID, "from": str, "to": [ADDRESS], "subject": str, "size_bytes": int, "attempts": int,
    "max_attempts": int, "next_retry": TIME, "status": "retry", "created_at": TIME,
}  # fmt: skip
METRICS = {
    "smtp_messages_received_total", "smtp_messages_sent_total", "smtp_messages_queued", "smtp_connections_active",
    "smtp_connections_total", "smtp_auth_attempts_total", "smtp_spam_detected_total", "smtp_virus_detected_total",
    "smtp_memory_bytes", "smtp_processing_duration_seconds_bucket", "smtp_message_size_bytes_bucket",
}  # fmt: skip
LABELLED = [
    ("smtp_messages_received_total", "accepted", "rejected"),
    ("smtp_messages_sent_total", "delivered", "failed"),
    ("smtp_auth_attempts_total", "success", "failure"),
]


def john(world: World) -> Mapping[str, str]:
    """He has logged in once, and has a gigabyte."""
    world.with_user("john", quota_mb=1000)
    world.ask("GET", "/api/v1/messages", user=f"john:{MEMBER_PASSWORD}")
    return {}


def no_jane(world: World) -> Mapping[str, str]:
    world.without_user("jane")
    return {}


def a_retry(world: World) -> Mapping[str, str]:
    world.retrying()
    return {}


def a_queued_message(world: World) -> Mapping[str, str]:
    return {"msg_abc123": world.retrying()}


CREATE_USER = Example(
    "POST /api/users",
    r"""curl -u admin:password -X POST http://localhost:8080/api/users \
  -H "Content-Type: application/json" \
  -d '{"username":"jane","email":"jane@example.com","password":"SecureP@ssw0rd","quota_mb":1000}'""",
    NEW_USER,
    status=201,
    given=no_jane,
)
UPDATE_USER = Example(
    "PUT /api/users/{username}",
    r"""curl -u admin:password -X PUT http://localhost:8080/api/users/john \
  -H "Content-Type: application/json" \
  -d '{"quota_mb":2000}'""",
    {"id": int, "username": "john", "email": "john@example.com", "quota_mb": 2000, "enabled": True},
    given=john,
)
DELETE_USER = Example(
    "DELETE /api/users/{username}",
    "curl -u admin:password -X DELETE http://localhost:8080/api/users/john",
    {"success": True, "message": "User deleted successfully"},
    given=john,
)
RETRY = Example(
    "POST /api/queue/{message_id}/retry",
    "curl -u admin:password -X POST http://localhost:8080/api/queue/msg_abc123/retry",
    {"success": True, "message": "Message queued for immediate retry"},
    given=a_queued_message,
)
DELETE = Example(
    "DELETE /api/queue/{message_id}",
    "curl -u admin:password -X DELETE http://localhost:8080/api/queue/msg_abc123",
    {"success": True, "message": "Message removed from queue"},
    given=a_queued_message,
)
LINES = [
    Example("GET /health", "curl http://localhost:8080/health", HEALTH, is_open=True),
    Example("GET /stats", "curl -u admin:password http://localhost:8080/stats", STATS),
    Example(
        "GET /api/users",
        "curl -u admin:password http://localhost:8080/api/users?limit=50",
        {"users": [USER], "total": int, "offset": 0, "limit": 50},
    ),
    Example(
        "GET /api/users/{username}",
        "curl -u admin:password http://localhost:8080/api/users/john",
        {**JOHN, "statistics": {"messages_received": int, "messages_sent": int, "storage_used_mb": NUMBER}},
        given=john,
    ),
    CREATE_USER,
    UPDATE_USER,
    DELETE_USER,
    Example(
        "GET /api/queue",
        "curl -u admin:password http://localhost:8080/api/queue?status=retry",
        {"messages": [QUEUED], "total": int, "offset": 0, "limit": 100},
        given=a_retry,
    ),
    RETRY,
    DELETE,
]


@pytest.mark.parametrize("example", LINES, ids=str)
def test_r4_line(world: World, example: Example) -> None:
    answer = world.replay(example)
    assert answer.status == example.status, answer
    check(answer.json, example.answer)
    assert answer.headers["X-API-Version"] == "1.0"


def test_r4_line_get_metrics(world: World) -> None:
    assert world.message
    answer = curl("curl http://localhost:8081/metrics", world.ports)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.octets.decode()) for sample in family.samples]
    assert {sample.name for sample in samples} >= METRICS
    values = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    for name, *outcomes in LABELLED:
        assert all(values[name, outcome] >= 0 for outcome in outcomes)
    assert values["smtp_messages_received_total", "accepted"] > 0


def test_r4_a_user_that_was_created_logs_in_and_is_not_created_again(world: World) -> None:
    world.replay(CREATE_USER)
    assert world.ask("GET", "/api/users/jane", user="jane:SecureP@ssw0rd")["username"] == "jane"
    again = curl(CREATE_USER.line, world.ports)
    assert (again.status, again.json["code"]) == (409, "CONFLICT") and "jane" in again.json["detail"]


def test_r4_a_user_is_updated_in_all_that_the_reference_lists(world: World) -> None:
    whole = {"email": "newemail@example.com", "quota_mb": 2000, "enabled": True}
    line = UPDATE_USER.line.replace('{"quota_mb":2000}', json.dumps(whole))
    body = world.replay(Example("the whole body", line, given=john)).json
    check(body, {"username": "john", **whole})


def test_r4_a_deleted_user_is_gone(world: World) -> None:
    world.replay(DELETE_USER)
    again = curl(DELETE_USER.line, world.ports)
    assert (again.status, again.json["code"]) == (404, "NOT_FOUND")


def test_r4_a_users_statistics_count_what_came(world: World) -> None:
    john(world)
    world.delivered("john@example.com")
    assert world.ask("GET", "/api/users/john")["statistics"]["messages_received"] == 1


def test_r4_a_retry_is_an_attempt_at_once(world: World) -> None:
    message_id = world.retrying()
    queued = f"/api/queue/{message_id}"
    before = world.ask("GET", queued)["attempts"]
    world.ask("POST", f"{queued}/retry")
    wait_until(lambda: world.ask("GET", queued)["attempts"] == before + 1)


def test_r4_a_message_that_was_removed_from_the_queue_failed(world: World) -> None:
    message_id = world.retrying()
    world.ask("DELETE", f"/api/queue/{message_id}")
    assert world.status_of(message_id) == "failed"


def test_r4_rate_limit_headers_and_the_answer_over_the_limit(world: World) -> None:
    made = world.ask("POST", "/api/v1/api-keys", {"name": "one a day", "daily_limit": 1, "scopes": ["send"]})
    body = {"to": "user@example.com", "subject": "x", "text_body": "x"}
    first, second = (world.system.request("POST", "/api/v1/send", body, key=made["key"]) for _ in range(2))
    assert (first.status, second.status) == (202, 429)
    for answer in (first, second):
        assert (answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"]) == ("1", "0")
        assert int(answer.headers["X-RateLimit-Reset"]) > 1_600_000_000
    assert int(second.headers["Retry-After"]) > 0


def test_r4_webhook_payload(world: World) -> None:
    with smtplib.SMTP("127.0.0.1", world.ports[2525]) as client:
        client.ehlo()
        client.mail("sender@example.com")
        client.rcpt("recipient@example.com")
        _, reply = client.data(
            "From: sender@example.com\r\nTo: recipient@example.com\r\nSubject: Test Email\r\n\r\nx\r\n"
        )
    message_id = reply.decode().rpartition(" ")[2]
    told = wait_until(
        lambda: [heard for heard in list(world.hooks.heard) if heard.json["data"].get("message_id") == message_id]
    )[0]
    data = {
        "message_id": message_id, "from": "sender@example.com", "to": ["recipient@example.com"],
        "subject": "Test Email", "size_bytes": int,
    }  # fmt: skip
    check(told.json, {"event": "message.received", "timestamp": TIME, "data": data})
    assert told.json.keys() == {"event", "timestamp", "data"} and told.json["data"].keys() == data.keys()
    assert told.headers.keys() >= {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert set(world.hooks.events()) == {"message.received"}, "it hears of what SMTP_WEBHOOK_EVENTS names alone"
