"""R1, the DIGiDIG SMTP service: its seven curl lines, its telnet conversation, its question after a domain."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mailflow.tests.wire import Client
from mailproj.tests.curl_lines import curl
from mailproj.tests.references.example import MESSAGE_ID, NUMBER, Example, check
from mailproj.tests.references.world import ADMIN, World
from mailproj.tests.whole_system import is_alive, wait_until

pytestmark = pytest.mark.slow

QUEUED = {"status": "queued", "message": str, "email_id": MESSAGE_ID}
HEALTH = {"status": "healthy", "controller_running": True, "uptime_seconds": NUMBER, "emails_in_queue": int}
STATS = {
    "emails_sent": int, "emails_received": int, "emails_in_queue": int, "uptime_seconds": NUMBER,
    "requests_total": int, "requests_successful": int, "requests_failed": int, "last_request_time": NUMBER,
}  # fmt: skip
CONFIG = {"max_workers": 8, "pool_size": 20, "timeout": NUMBER}


def a_listener(world: World) -> Mapping[str, str]:
    """One that has said, since it was started last, that it runs: it does so about once a second."""
    wait_until(lambda: world.system.request("GET", "/health").json["controller_running"])
    return {}


SEND = Example(
    "POST /send",
    r"""curl -X POST http://localhost:8000/send \
  -H "Content-Type: application/json" \
  -d '{
    "sender": "from@example.com",
    "recipient": "to@example.com",
    "subject": "Test Subject",
    "body": "Email body content"
  }'""",
    QUEUED,
    status=202,
)
RESTART = Example(
    "POST /api/restart", "curl -X POST http://localhost:8000/api/restart", {"status": "restarted", "message": str}
)
PUT_CONFIG = Example(
    "PUT /api/config",
    r"""curl -X PUT http://localhost:8000/api/config \
  -H "Content-Type: application/json" \
  -d '{
    "max_workers": 8,
    "pool_size": 20,
    "timeout": 60
  }'""",
    CONFIG,
)
LINES = [
    SEND,
    Example("GET /api/health", "curl http://localhost:8000/api/health", HEALTH, given=a_listener, is_open=True),
    Example("GET /api/stats", "curl http://localhost:8000/api/stats", STATS),
    Example(
        "GET /api/health, testing", "curl http://localhost:8000/api/health", HEALTH, given=a_listener, is_open=True
    ),
    Example(
        "POST /send, testing",
        r"""curl -X POST http://localhost:8000/send \
  -H "Content-Type: application/json" \
  -d '{
    "sender": "test@example.com",
    "recipient": "user@example.com",
    "subject": "Hello",
    "body": "Test message"
  }'""",
        QUEUED,
        status=202,
    ),
    PUT_CONFIG,
    RESTART,
]


@pytest.mark.parametrize("example", LINES, ids=str)
def test_r1_line(world: World, example: Example) -> None:
    before = world.system.pid("smtp")
    answer = world.replay(example)
    assert answer.status == example.status, answer
    check(answer.json, example.answer)
    if example is RESTART:
        wait_until(lambda: world.system.pid("smtp") != before and is_alive(world.system.pid("smtp")))
        wait_until(lambda: world.system.greets() and world.system.is_healthy())


def test_r1_what_was_sent_lies_in_the_mailbox_of_the_recipient(world: World) -> None:
    email_id = world.replay(SEND).json["email_id"]
    found = wait_until(lambda: [one for one in world.system.inbox("to") if one["id"] == email_id])[0]
    assert (found["subject"], found["body"].strip()) == ("Test Subject", "Email body content")
    assert "from@example.com" in found["sender"]


def test_r1_answers_are_in_czech_for_who_asks_so(world: World) -> None:
    answer = curl(f'{SEND.line} -H "Accept-Language: cs"', world.ports, user=ADMIN)
    assert answer.json["message"] == "E-mail byl úspěšně přidán do fronty"


def test_r1_a_changed_configuration_is_what_is_told_from_then_on(world: World) -> None:
    world.replay(PUT_CONFIG)
    check(world.ask("GET", "/api/config"), CONFIG)
    assert world.ask("GET", "/api/config?service=smtp")["services"]["smtp"]["pool_size"]["set_by"] == "admin"


@pytest.mark.parametrize(("name", "exists"), [("example.com", True), ("gmail.com", False)])
def test_r1_get_api_domains_exists(world: World, name: str, exists: bool) -> None:
    answer = curl(f"curl http://identity:8001/api/domains/{name}/exists", world.ports, user=world.member)
    assert (answer.status, answer.json) == (200, {"exists": exists, "domain": name})


CONVERSATION = """\
EHLO test.example.com
MAIL FROM:<sender@example.com>
RCPT TO:<recipient@example.com>
DATA
Subject: Test Email
From: sender@example.com
To: recipient@example.com

This is a test email.
.
QUIT"""


def test_r1_telnet_conversation(world: World) -> None:
    lines = CONVERSATION.split("\n")
    start, end = lines.index("DATA") + 1, lines.index(".")
    with Client(world.ports[2525]) as client:
        assert client.greeting.startswith("220 ")
        replies = [client.ask(line) for line in lines[:start]]
        client.send("".join(f"{line}\r\n" for line in lines[start:end]).encode())
        replies += [client.ask(line) for line in lines[end:]]
        assert client.is_closed()
    assert [reply[:3] for reply in replies] == ["250", "250", "250", "354", "250", "221"]
    message_id = replies[4].rpartition(" ")[2]
    check(message_id, MESSAGE_ID)
    found = wait_until(lambda: [one for one in world.system.inbox("recipient") if one["id"] == message_id])[0]
    assert (found["subject"], found["body"].strip(), found["sender"]) == (
        "Test Email", "This is a test email.", "sender@example.com",
    )  # fmt: skip
