"""R2, the DIGiDIG IMAP service: its ten curl lines, at the port that it prints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailproj.tests.curl_lines import curl
from mailproj.tests.references.example import MESSAGE_ID, NUMBER, TIME, Example, check
from mailproj.tests.references.world import World
from mailproj.tests.whole_system import wait_until

pytestmark = pytest.mark.slow

HEALTH = {"status": "healthy", "uptime_seconds": NUMBER, "active_connections": int}
EMAIL = {"id": MESSAGE_ID, "sender": str, "recipient": str, "subject": str, "body": str, "received_at": TIME}
FETCHED = {"status": "success", "emails_fetched": int, "message": str}
STATS = {
    "emails_fetched": int, "active_connections": int, "uptime_seconds": NUMBER, "requests_total": int,
    "requests_successful": int, "requests_failed": int, "last_request_time": NUMBER, "active_sessions": int,
}  # fmt: skip
CONFIG = {"max_workers": 8, "pool_size": 20, "timeout": NUMBER, "max_connections": 100}


FETCH = Example(
    "POST /fetch",
    r"""curl -X POST http://localhost:8003/fetch \
  -H "Content-Type: application/json" \
  -d '{"user_id": "uuid-here"}'""",
    FETCHED,
    given=lambda world: {"uuid-here": str(world.ask("GET", "/api/v1/users/user")["id"])},
)
PUT_CONFIG = Example(
    "PUT /api/config",
    r"""curl -X PUT http://localhost:8003/api/config \
  -H "Content-Type: application/json" \
  -d '{
    "max_workers": 8,
    "pool_size": 20,
    "timeout": 60,
    "max_connections": 100
  }'""",
    CONFIG,
)
EMAILS = Example("GET /emails", "curl http://localhost:8003/emails", {"emails": [EMAIL], "count": int})
LINES = [
    Example("GET /api/health", "curl http://localhost:8003/api/health", HEALTH, is_open=True),
    EMAILS,
    Example(
        "GET /emails/{email_id}",
        "curl http://localhost:8003/emails/uuid-here",
        {**EMAIL, "headers": dict},
        given=lambda world: {"uuid-here": world.message},
    ),
    FETCH,
    Example("GET /api/stats", "curl http://localhost:8003/api/stats", STATS),
    Example("GET /api/health, testing", "curl http://localhost:8003/api/health", HEALTH, is_open=True),
    Example("GET /emails, testing", "curl http://localhost:8003/emails", {"emails": [EMAIL], "count": int}),
    Example(
        "GET /emails/{email_id}, testing",
        "curl http://localhost:8003/emails/EMAIL_ID",
        {**EMAIL, "headers": dict},
        given=lambda world: {"EMAIL_ID": world.message},
    ),
    Example("POST /fetch, testing", "curl -X POST http://localhost:8003/fetch", FETCHED),
    PUT_CONFIG,
]


@pytest.mark.parametrize("example", LINES, ids=str)
def test_r2_line(world: World, example: Example) -> None:
    assert world.message, "the examples presume that there is mail"
    answer = world.replay(example)
    assert answer.status == example.status, answer
    check(answer.json, example.answer)


def test_r2_emails_are_those_of_the_callers_mailbox(world: World) -> None:
    mine, johns = world.delivered(), world.delivered("test@example.com")
    body = world.replay(EMAILS, user=world.member).json
    found = {email["id"]: email for email in body["emails"]}
    assert body["count"] == len(body["emails"])
    assert mine in found and johns not in found
    assert (found[mine]["subject"], found[mine]["body"].strip()) == ("An important test", "Hello.")


def test_r2_a_fetch_tells_what_is_new_since_the_last(world: World) -> None:
    """Of an account of its own: mail that other tests have sent may still be on its way to the others."""
    reader = world.with_user("reader")
    fetch = replace(FETCH, given=lambda _: {"uuid-here": str(reader)})
    world.replay(fetch)
    message_id = world.delivered("reader@example.com")
    body = world.replay(fetch).json
    assert (body["emails_fetched"], [email["id"] for email in body["emails"]]) == (1, [message_id])
    assert world.replay(fetch).json["emails_fetched"] == 0
    world.without_user("reader")


def test_r2_answers_are_in_czech_for_who_asks_so(world: World) -> None:
    line = 'curl -X POST http://localhost:8003/fetch -H "Accept-Language: cs"'
    assert curl(line, world.ports, user=world.member).json["message"] == "E-maily úspěšně staženy"


def test_r2_its_configuration_is_that_of_imap_where_it_is_asked_for(world: World) -> None:
    world.replay(PUT_CONFIG)
    wait_until(lambda: world.ask("GET", "/api/config?service=imap")["max_connections"] == 100)
