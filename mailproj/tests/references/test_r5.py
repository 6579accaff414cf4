"""R5, the mail gateway: its six curl lines, its log line, its keys and the query that it tells its readers to make."""

from __future__ import annotations

import json
import re
import sqlite3
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mailproj.tests.curl_lines import curl
from mailproj.tests.references.example import MESSAGE_ID, TIME, Example, check
from mailproj.tests.references.world import World
from mailproj.tests.starting import run
from mailproj.tests.whole_system import KEY, wait_until

pytestmark = pytest.mark.slow

QUEUED = {"status": "queued", "message": "Email queued for delivery", "email_id": MESSAGE_ID}
NAMES = {
    "http_requests_total", "http_request_duration_seconds_bucket", "email_sends_total", "rate_limit_checks_total",
}  # fmt: skip
LOGGED = {
    "timestamp": TIME, "level": "INFO", "message": "Email queued for delivery", "request_id": str,
    "api_key_id": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}  # fmt: skip
BASIC_SEND = Example(
    "POST /api/v1/send, basic",
    r"""curl -X POST "http://localhost:8000/api/v1/send" \
  -H "X-API-Key: sk_test_default_key_123" \
  -H "Content-Type: application/json" \
  -d '{
    "to": "user@example.com",
    "subject": "Welcome!",
    "html_body": "<h1>Welcome to our service!</h1><p>Thank you for signing up.</p>",
    "text_body": "Welcome to our service! Thank you for signing up."
  }'""",
    QUEUED,
    status=202,
)
WITH_HEADERS = Example(
    "POST /api/v1/send, headers",
    r"""curl -X POST "http://localhost:8000/api/v1/send" \
  -H "X-API-Key: sk_test_default_key_123" \
  -H "Content-Type: application/json" \
  -d '{
    "to": "user@example.com",
    "subject": "Newsletter",
    "html_body": "<h2>Latest Updates</h2>",
    "text_body": "Latest Updates",
    "headers": {
      "Reply-To": "noreply@example.com",
      "X-Priority": "1"
    }
  }'""",
    QUEUED,
    status=202,
)
LINES = [
    Example(
        "POST /api/v1/send, quick start",
        r"""curl -X POST "http://localhost:8000/api/v1/send" \
  -H "X-API-Key: sk_test_default_key_123" \
  -H "Content-Type: application/json" \
  -d '{
    "to": "test@example.com",
    "subject": "Test Email",
    "html_body": "<h1>Hello World!</h1>",
    "text_body": "Hello World!"
  }'""",
        QUEUED,
        status=202,
    ),
    BASIC_SEND,
    WITH_HEADERS,
    Example("GET /health", "curl http://localhost:8000/health", {"status": "healthy"}, is_open=True),
]


@pytest.mark.parametrize("example", LINES, ids=str)
def test_r5_line(world: World, example: Example) -> None:
    answer = world.replay(example)
    assert answer.status == example.status, answer
    check(answer.json, example.answer)


@pytest.mark.parametrize("place", ["quick start", "metrics"])
def test_r5_line_get_metrics(world: World, place: str) -> None:
    world.replay(BASIC_SEND)
    answer = curl("curl http://localhost:8000/metrics", world.ports)
    families = text_string_to_metric_families(answer.octets.decode())
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
    assert {sample.name for family in families for sample in family.samples} >= NAMES


def test_r5_what_was_sent_lies_in_the_mailbox_with_its_headers(world: World) -> None:
    email_id = world.replay(WITH_HEADERS).json["email_id"]
    wait_until(lambda: [one for one in world.system.inbox("user") if one["id"] == email_id])
    raw = world.system.request("GET", f"/emails/{email_id}/raw", auth=("user", world.system.mailbox_password()))
    for field in (b"Reply-To: noreply@example.com", b"X-Priority: 1", b"Subject: Newsletter"):
        assert b"\r\n" + field + b"\r\n" in raw.octets
    for body in (b"<h2>Latest Updates</h2>", b"Latest Updates", b"multipart/alternative"):
        assert body in raw.octets


def test_r5_log_line(world: World) -> None:
    answer = world.replay(BASIC_SEND)
    message_id = answer.json["email_id"]

    def line() -> dict[str, Any] | None:
        text = (world.system.data / "log" / "web.log").read_text()
        return next((json.loads(one) for one in text.splitlines() if f'"{message_id}"' in one), None)

    found = wait_until(line)
    check(found, LOGGED | {"recipient": "user@example.com", "message_id": message_id})
    assert found["request_id"] == answer.headers["X-Request-ID"] and KEY not in json.dumps(found)


def test_r5_create_an_api_key_and_query_its_use(world: World) -> None:
    made = run(["manage.py", "createapikey", "--name", "production", "--limit", "100"], world.system.variables)
    assert made.returncode == 0, made.stderr
    key = made.stdout.splitlines()[-1]
    answer = curl(BASIC_SEND.line.replace(KEY, key), world.ports)
    assert answer.status == 202, answer
    query = """
SELECT k.name, k.daily_limit, u.count, u.date
FROM api_keys k
LEFT JOIN daily_usage u ON k.id = u.api_key_id
WHERE u.date = CURRENT_DATE;
"""
    assert ("production", 100, 1) in [row[:3] for row in rows(world, query)]


def rows(world: World, query: str) -> list[tuple[Any, ...]]:
    """Ask the system's database, past the system."""
    url = world.system.variables.get("DATABASE_URL")
    if url:
        with psycopg.connect(url) as connection:
            return connection.execute(query.encode()).fetchall()
    [file] = world.system.data.glob("*.sqlite3")
    with sqlite3.connect(file) as database:
        return database.execute(query).fetchall()


def test_r5_a_key_works_wherever_a_password_does(world: World) -> None:
    made = world.ask("POST", "/api/v1/api-keys", {"name": "all", "scopes": ["admin"]})
    for path in ("/api/users", "/api/users/user", "/domains", "/api/v1/api-keys", "/api/v1/organizations"):
        assert curl(f"curl http://localhost:8000{path}", world.ports, key=made["key"]).status == 200
