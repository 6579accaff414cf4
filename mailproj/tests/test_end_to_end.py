"""The whole system, started as the README starts it, with a real Redis, a real Celery worker and real SMTP peers."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import subprocess
import uuid
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mailproj.tests.programs import why_not
from mailproj.tests.whole_system import System, database_settings, is_alive, plan, wait_until
from queue.tests.peers import Peer

pytestmark = pytest.mark.slow


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
        HTTP_WORKERS="2",
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
    # Not by the demo's published key, which is one for tests: its mail goes to the simulated internet alone.
    answer = system.as_admin("POST", "/api/v1/send", body)
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


def test_the_listener_s_own_port_has_the_figures_of_the_system(system: System) -> None:
    url = f"http://127.0.0.1:{system.variables['SMTP_METRICS_PORT']}/metrics"
    for _ in range(2):
        with urlopen(url, timeout=30) as answer:
            names = {
                sample.name
                for family in text_string_to_metric_families(answer.read().decode())
                for sample in family.samples
            }
        assert names > {"smtp_connections_active", "smtp_messages_received_total", "process_cpu_seconds_total"}


def test_requests_are_counted_across_the_web_processes(system: System) -> None:
    def answered() -> float:
        text = system.request("GET", "/metrics").octets.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "http_requests_total" and sample.labels == {"method": "GET", "status": "200"}
        )

    before = answered()
    for _ in range(20):
        assert system.request("GET", "/health").status == 200
    assert [answered() >= before + 20 for _ in range(6)] == [True] * 6  # whichever process is asked


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
