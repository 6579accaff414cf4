"""The listener of a running system: configuration and restart by API, SIGTERM, a new certificate (contract §6, §7)."""

from __future__ import annotations

import datetime as dt
import os
import signal
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailflow.certificates import ensure_self_signed
from mailproj.tests import whole_system
from mailproj.tests.whole_system import System, database_settings, wait_until

pytestmark = pytest.mark.slow

MAIL = "Subject: live\r\n\r\nHello\r\n"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = whole_system.plan(tmp_path_factory.mktemp("live"), **database_settings())
    running.start()
    try:
        yield running
    finally:
        running.stop()


def client(system: System) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", system.smtp_port, timeout=20)


def answer_to_mail(system: System) -> int:
    with client(system) as session:
        session.ehlo()
        return session.mail("a@b.example")[0]


def test_reception_is_switched_off_and_on_while_it_runs(system: System) -> None:
    with client(system) as session:
        session.ehlo()
        assert system.as_admin("PUT", "/api/config", {"enabled": False}).status == 200
        wait_until(lambda: answer_to_mail(system) == 421)
        assert session.mail("a@b.example")[0] == 421  # a session that was open before, too
        session.close()
    assert system.as_admin("PUT", "/api/config", {"enabled": True}).status == 200
    wait_until(lambda: answer_to_mail(system) == 250)


def test_the_cap_of_connections_changes_while_it_runs(system: System) -> None:
    with client(system):
        assert system.as_admin("PUT", "/api/v1/config", {"max_connections": 1}).status == 200
        wait_until(lambda: not system.greets())
        assert system.as_admin("PUT", "/api/v1/config", {"max_connections": None}).status == 200
        wait_until(system.greets)


def test_a_restart_by_api_ends_what_runs_and_starts_anew(system: System) -> None:
    before = system.pid("smtp")
    with client(system) as session:
        session.ehlo()
        session.mail("a@b.example")
        session.rcpt("user@example.com")
        assert session.docmd("DATA")[0] == 354
        assert system.as_admin("POST", "/api/restart").status == 200
        wait_until(lambda: not system.greets())  # nothing new is taken
        session.send(MAIL.encode() + b".\r\n")
        assert session.getreply()[0] == 250
        assert session.getreply()[0] == 421
        session.close()
    wait_until(lambda: system.greets() and system.pid("smtp") != before)
    assert system.process.poll() is None
    wait_until(lambda: any(mail["subject"] == "live" for mail in system.inbox("user")))


def test_sigterm_ends_what_runs_and_idle_sessions_are_told(system: System) -> None:
    before = system.pid("smtp")
    with client(system) as idle:
        idle.ehlo()
        os.kill(before, signal.SIGTERM)
        assert idle.getreply()[0] == 421
        idle.close()
    wait_until(lambda: system.greets() and system.pid("smtp") != before)


def certificate_of(system: System) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with client(system) as session:
        session.starttls(context=context)
        assert isinstance(session.sock, ssl.SSLSocket)
        return session.sock.getpeercert(binary_form=True) or b""


def test_a_new_certificate_serves_the_next_handshake(system: System, tmp_path: Path) -> None:
    old = certificate_of(system)
    fresh = (tmp_path / "cert.pem", tmp_path / "key.pem")
    ensure_self_signed(*fresh, "localhost", dt.datetime.now(dt.UTC))
    with client(system) as open_session:
        for path in fresh:
            path.replace(system.data / "tls" / path.name)
        wait_until(lambda: certificate_of(system) != old)
        assert open_session.noop()[0] == 250
