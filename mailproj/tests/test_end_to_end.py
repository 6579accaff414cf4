"""The whole system, started as the README starts it, with a real Redis, a real Celery worker and real SMTP peers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import smtplib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mailflow.tests.wire import Client
from mailproj.tests.programs import why_not
from mailproj.tests.whole_system import ADMIN, ADMIN_PASSWORD, KEY, System, is_alive, plan, wait_until
from queue.tests.peers import Peer

pytestmark = pytest.mark.xdist_group("whole system")


def database_settings() -> dict[str, str]:
    """The run's kind of database: SQLite in the data folder, or a new database on the tests' PostgreSQL."""
    server = os.environ.get("TEST_DATABASE_URL")
    if not server:
        return {}
    name = f"e2e_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return {"DATABASE_URL": server.replace("/postgres?", f"/{name}?")}


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer().in_thread() as running:
        yield running


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, peer: Peer) -> Iterator[System]:
    found = plan(
        tmp_path_factory.mktemp("system"),
        DELIVERY_MODE="live",
        RELAY_HOST="127.0.0.1",
        RELAY_PORT=str(peer.port),
        RELAY_STARTTLS="never",
        RETRY_SCHEDULE="0.2s",
        SWEEP_INTERVAL_SECONDS="1",
        **database_settings(),
    )
    found.start()
    yield found
    assert found.stop() == 0


@pytest.fixture(autouse=True)
def _everything_answers(system: System, peer: Peer) -> Iterator[None]:
    """Whatever the test before did: the doors are open again, and the peer takes everything."""
    wait_until(lambda: system.greets() and system.is_healthy())
    yield
    peer.rcpt, peer.dot = ("250 2.1.5 ok",), ("250 2.0.0 taken",)
    peer._said.clear()


def script(
    peer: Peer, *, rcpt: tuple[str, ...] = ("250 2.1.5 ok",), dot: tuple[str, ...] = ("250 2.0.0 taken",)
) -> None:
    peer._said.clear()
    peer.rcpt, peer.dot = rcpt, dot


def send_by_http(system: System, to: str, subject: str, sender: str | None = None) -> str:
    body = {"to": to, "subject": subject, "text_body": "Hello.\n.\nEnd."}
    if sender:
        body["sender"] = sender
    answer = system.request("POST", "/api/v1/send", body, key=KEY)
    assert answer.status == 202, answer
    assert answer.json["status"] == "queued"
    found: str = answer.json["email_id"]
    return found


def status_of(system: System, message_id: str) -> str:
    return str(system.as_admin("GET", f"/api/v1/messages/{message_id}").json["status"])


def test_mail_comes_in_by_smtp_and_lies_in_the_mailbox(system: System) -> None:
    subject = uuid.uuid4().hex
    with smtplib.SMTP("127.0.0.1", system.smtp_port) as client:
        client.starttls()
        client.sendmail("you@elsewhere.example", ["user@example.com"], f"Subject: {subject}\r\n\r\n.dots\r\n")
    email = wait_until(lambda: [found for found in system.inbox("user") if found["subject"] == subject])[0]
    raw = system.request("GET", f"/api/v1/messages/{email['id']}/raw", auth=("user", system.mailbox_password()))
    assert raw.octets.endswith(f"\r\nSubject: {subject}\r\n\r\n.dots\r\n".encode())
    assert not [found for found in system.inbox("john") if found["subject"] == subject]


def test_one_trace_id_leads_from_the_connection_to_the_last_attempt(system: System) -> None:
    with smtplib.SMTP("127.0.0.1", system.smtp_port) as client:
        client.sendmail("you@elsewhere.example", ["john@example.com"], "Subject: traced\r\n\r\nx\r\n")
        answer = client.docmd("NOOP")[0]
    assert answer == 250

    def lines(name: str, event: str) -> list[dict[str, str]]:
        text = (system.data / "log" / f"{name}.log").read_text()
        found = [json.loads(line) for line in text.splitlines() if f'"{event}"' in line]
        return [line for line in found if line["message"] == event]

    accepted = lines("smtp", "smtp.accepted")[-1]
    attempted = wait_until(
        lambda: [line for line in lines("worker", "queue.attempted") if line["message_id"] == accepted["message_id"]]
    )[0]
    assert attempted["trace_id"] == accepted["trace_id"]
    assert attempted["outcome"] == "delivered"


def test_mail_sent_by_http_leaves_to_a_real_peer(system: System, peer: Peer) -> None:
    subject = uuid.uuid4().hex
    message_id = send_by_http(system, "friend@foreign.example", subject)
    received = wait_until(lambda: [found for found in peer.messages if subject.encode() in found.content])[0]
    assert received.recipients == ("friend@foreign.example",)
    assert message_id.encode() in received.content
    wait_until(lambda: status_of(system, message_id) == "delivered")
    timeline = system.as_admin("GET", f"/api/v1/messages/{message_id}/timeline").json
    assert "taken" in str(timeline)


def test_a_peer_that_defers_gets_the_message_at_the_next_attempt(system: System, peer: Peer) -> None:
    script(peer, dot=("451 4.7.1 come back", "250 2.0.0 taken"))
    message_id = send_by_http(system, "later@foreign.example", "deferred")
    wait_until(lambda: status_of(system, message_id) == "delivered")
    assert "come back" in str(system.as_admin("GET", f"/api/v1/messages/{message_id}/timeline").json)


def test_a_refusal_comes_back_as_a_report_to_the_senders_mailbox(system: System, peer: Peer) -> None:
    script(peer, rcpt=("550 5.1.1 no such user here",))
    message_id = send_by_http(system, "gone@foreign.example", "refused", sender="john@example.com")
    wait_until(lambda: status_of(system, message_id) == "bounced")
    report = wait_until(lambda: [found for found in system.inbox("john") if "gone@foreign.example" in str(found)])[0]
    assert "Mail Delivery System" in report["sender"] or "MAILER-DAEMON" in str(report)


def test_the_telnet_conversation_of_the_reference_works_as_printed(system: System) -> None:
    lines = [
        ("EHLO test.example.com", "250-"),
        ("MAIL FROM:<sender@example.com>", "250"),
        ("RCPT TO:<recipient@example.com>", "250"),
        ("DATA", "354"),
        (
            "Subject: Test Email\r\nFrom: sender@example.com\r\nTo: recipient@example.com\r\n\r\n"
            "This is a test email.\r\n.",
            "250 2.0.0 OK queued as msg_",
        ),
        ("QUIT", "221"),
    ]
    with Client(system.smtp_port) as session:
        assert session.greeting.startswith("220")
        for typed, expected in lines:
            assert session.ask(typed).startswith(expected)
    wait_until(lambda: [found for found in system.inbox("recipient") if found["subject"] == "Test Email"])


CURL_LINES = {
    "R1 send": (
        "curl -u {admin} -X POST http://localhost:8000/send -H 'Content-Type: application/json' "
        '-d \'{{"sender": "from@example.com", "recipient": "to@example.com", "subject": "Test Subject", '
        '"body": "Email body content"}}\'',
        202,
    ),
    "R1 second send": (
        "curl -u {admin} -X POST http://localhost:8000/send -H 'Content-Type: application/json' "
        '-d \'{{"sender": "test@example.com", "recipient": "user@example.com", "subject": "Hello", '
        '"body": "Test message"}}\'',
        202,
    ),
    "R1 health": ("curl http://localhost:8000/api/health", 200),
    "R1 stats": ("curl -u {admin} http://localhost:8000/api/stats", 200),
    "R5 quick start": (
        'curl -X POST "http://localhost:8000/api/v1/send" -H "X-API-Key: sk_test_default_key_123" '
        '-H "Content-Type: application/json" -d \'{{"to": "test@example.com", "subject": "Test Email", '
        '"html_body": "<h1>Hello World!</h1>", "text_body": "Hello World!"}}\'',
        202,
    ),
    "R5 basic send": (
        'curl -X POST "http://localhost:8000/api/v1/send" -H "X-API-Key: sk_test_default_key_123" '
        '-H "Content-Type: application/json" -d \'{{"to": "user@example.com", "subject": "Welcome!", '
        '"html_body": "<h1>Welcome to our service!</h1><p>Thank you for signing up.</p>", '
        '"text_body": "Welcome to our service! Thank you for signing up."}}\'',
        202,
    ),
    "R5 custom headers": (
        'curl -X POST "http://localhost:8000/api/v1/send" -H "X-API-Key: sk_test_default_key_123" '
        '-H "Content-Type: application/json" -d \'{{"to": "user@example.com", "subject": "Newsletter", '
        '"html_body": "<h2>Latest Updates</h2>", "text_body": "Latest Updates", '
        '"headers": {{"Reply-To": "noreply@example.com", "X-Priority": "1"}}}}\'',
        202,
    ),
    "R5 health": ("curl http://localhost:8000/health", 200),
    "R5 metrics": ("curl http://localhost:8000/metrics", 200),
    "R1 send without credentials": (
        "curl -X POST http://localhost:8000/send -H 'Content-Type: application/json' -d '{{}}'",
        401,
    ),
}


@pytest.mark.parametrize("name", CURL_LINES)
def test_the_curl_lines_of_the_references_work(system: System, name: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")
    line, expected = CURL_LINES[name]
    line = line.format(admin=f"{ADMIN}:{ADMIN_PASSWORD}").replace("localhost:8000", f"127.0.0.1:{system.http_port}")
    done = subprocess.run(
        ["bash", "-c", f"{line} -s -o /dev/null -w '%{{http_code}}'"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert int(done.stdout) == expected


def test_swaks_delivers_over_starttls_with_authentication(system: System, peer: Peer) -> None:
    if reason := why_not("swaks with TLS"):
        pytest.skip(reason)
    done = subprocess.run(
        [
            "swaks",
            "--server",
            "127.0.0.1",
            "-p",
            str(system.smtp_port),
            "--tls",
            "-a",
            "PLAIN",
            "-au",
            "john",
            "-ap",
            system.mailbox_password(),
            "-f",
            "john@example.com",
            "-t",
            "swaks@foreign.example",
            "--silent",
            "2",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    received = wait_until(lambda: [found for found in peer.messages if found.recipients == ("swaks@foreign.example",)])[
        0
    ]
    assert b"with ESMTPSA" in received.content


@pytest.mark.parametrize("name", ["smtp", "web", "worker", "beat"])
def test_a_process_that_is_killed_comes_back_and_mail_goes_on(system: System, name: str) -> None:
    pid = system.pid(name)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: system.pid(name) != pid and is_alive(system.pid(name)))
    wait_until(lambda: any(line.startswith(name) and "started again" in line for line in system.lines))

    def sent() -> str | None:
        try:
            return send_by_http(system, "user@example.com", f"after {name}")
        except OSError:  # the web process is coming up
            return None

    message_id = wait_until(sent)
    wait_until(lambda: status_of(system, message_id) == "delivered")


def test_it_stops_within_ten_seconds_and_starts_again_on_the_same_data(tmp_path: Path) -> None:
    found = plan(tmp_path / "data", **database_settings())
    found.start()
    message_id = send_by_http(found, "outside@foreign.example", "captured")
    wait_until(lambda: status_of(found, message_id) == "delivered")
    timeline = str(found.as_admin("GET", f"/api/v1/messages/{message_id}/timeline").json)
    assert "captured by the sandbox" in timeline
    pids = [found.pid(name) for name in ("web", "smtp", "worker", "beat", "redis")]
    found.process.send_signal(signal.SIGINT)
    assert found.wait(10) == 0
    assert not any(is_alive(pid) for pid in pids)
    found.start()
    assert status_of(found, message_id) == "delivered"
    assert found.stop() == 0
