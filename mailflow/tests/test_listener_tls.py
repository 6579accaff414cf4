"""TLS on the listener: STARTTLS, implicit TLS, and what must not be carried over (RFC 3207 §4.2, contract §2)."""

from __future__ import annotations

import datetime as dt
import re
import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accounts.models import User
from accounts.tests.ports import free_port
from mailflow import content
from mailflow.certificates import ensure_self_signed
from mailflow.handoff import MemoryHandoff
from mailflow.listener import connection, door
from mailflow.listener.certificate import CertificateError, CertificateSource
from mailflow.listener.server import Listener
from mailflow.models import Event, Message
from mailflow.tests.test_listener import plain, send_mail
from mailflow.tests.wire import Client, has_room, reset, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    pair = (folder / "cert.pem", folder / "key.pem")
    ensure_self_signed(*pair, "localhost", dt.datetime.now(dt.UTC))
    return pair


@pytest.fixture
def secure(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, certificate: tuple[Path, Path]
) -> Iterator[Listener]:
    """A listener with STARTTLS on its first port and implicit TLS on its second; AUTH needs TLS for everyone."""
    settings.SMTP_PORT = 0
    settings.SMTPS_PORT = settings_port = free_port()
    with running_listener(CertificateSource(*certificate)) as running:
        running.is_loopback = lambda client_address: False  # type: ignore[method-assign]  # as if it came from afar
        assert settings_port in running.ports  # type: ignore[attr-defined]
        yield running


def port(listener: Listener, number: int = 0) -> int:
    found: int = listener.ports[number]  # type: ignore[attr-defined]
    return found


def test_auth_is_offered_and_taken_after_starttls_only(secure: Listener) -> None:
    with Client(port(secure)) as client:
        offer = client.ask("EHLO x")
        assert "STARTTLS" in offer
        assert "AUTH" not in offer
        assert client.ask("AUTH PLAIN " + plain("alice", "correct horse")).startswith("538 5.7.11")
        assert client.ask("STARTTLS").startswith("220 2.0.0")
        client.start_tls()
        assert client.ask("MAIL FROM:<alice@example.com>").startswith("503")  # EHLO is forgotten
        offer = client.ask("EHLO x")
        assert "AUTH PLAIN LOGIN" in offer
        assert "STARTTLS" not in offer
        assert client.ask("STARTTLS").startswith("503")
        assert client.ask("AUTH PLAIN " + plain("alice", "correct horse")).startswith("235")


@pytest.mark.parametrize("number", [0, 1], ids=["STARTTLS", "implicit"])
def test_requiretls_is_announced_and_taken_within_tls_alone_and_kept(secure: Listener, number: int) -> None:
    """RFC 8689 §2."""
    with Client(port(secure, number), greeting=not number) as client:
        if number:
            client.start_tls()
            client.reply()
        else:
            assert "REQUIRETLS" not in client.ask("EHLO x")
            assert client.ask("MAIL FROM:<a@b.example> REQUIRETLS").startswith("555 5.5.4")
            client.ask("STARTTLS")
            client.start_tls()
        assert "REQUIRETLS" in client.ask("EHLO x").replace("250-", "").split("\n")
        assert client.ask("MAIL FROM:<a@b.example> REQUIRETLS=yes").startswith("501 5.5.4")
        for parameter, kept in ((" REQUIRETLS", True), ("", False)):
            assert client.ask(f"MAIL FROM:<a@b.example>{parameter}").startswith("250")
            client.ask("RCPT TO:<alice@example.com>")
            client.ask("DATA")
            assert client.ask("Subject: x\r\n\r\nx\r\n.").startswith("250")
            assert Message.objects.latest("pk").requires_tls is kept


def test_what_was_sent_in_clear_behind_starttls_is_never_obeyed(secure: Listener) -> None:
    with Client(port(secure)) as client:
        client.ask("EHLO x")
        client.send(b"STARTTLS\r\nEHLO injected\r\nMAIL FROM:<injected@b.example>\r\n")
        assert client.reply().startswith("220")
        client.start_tls()
        assert client.ask("NOOP").startswith("250 2.0.0")  # its own answer, nothing before it
        assert client.ask("MAIL FROM:<a@b.example>").startswith("503")


def test_mail_over_implicit_tls_is_stored_as_such(secure: Listener) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with smtplib.SMTP_SSL("127.0.0.1", port(secure, 1), context=context) as client:
        client.login("alice", "correct horse")
        client.sendmail("alice@example.com", ["friend@foreign.example"], "Subject: x\r\n\r\n" + "y" * 200_000)
    message = Message.objects.get()
    assert message.protocol == "ESMTPSA"
    trace = content.read(message.pk).partition(b"Subject:")[0]
    assert re.search(rb"with ESMTPSA id \S+\s+for <friend@foreign.example>\s+tls TLS_[A-Z0-9_]+ \(TLSv1.[23]\);", trace)


def test_a_proxy_header_comes_before_implicit_tls(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, certificate: tuple[Path, Path]
) -> None:
    settings.SMTP_PORT, settings.SMTPS_PORT = 0, free_port()
    settings.SMTP_PROXY_NETWORKS = settings.SMTP_RATE_LIMIT_EXEMPT
    with (
        running_listener(CertificateSource(*certificate)) as running,
        Client(port(running, 1), greeting=False) as client,
    ):
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 465\r\n")
        client.start_tls()
        assert client.reply().startswith("220")
        assert send_mail(client).startswith("250")
    message = Message.objects.get()
    assert message.client_address == "192.0.2.7"
    assert b"with ESMTPS " in content.read(message.pk)


def test_a_handshake_in_clear_text_is_cut_off_and_others_are_served(secure: Listener) -> None:
    with Client(port(secure, 1), greeting=False) as client:
        client.send(b"EHLO in clear\r\n")
        assert "250" not in client.reply()
    with Client(port(secure)) as client:
        client.ask("EHLO x")
        client.ask("STARTTLS")
        client.send(b"NOOP in clear\r\n")
        assert "250" not in client.reply()
    with Client(port(secure)) as client:
        assert client.ask("NOOP").startswith("250")


def test_a_peer_that_resets_in_the_handshake_gives_its_place_back(secure: Listener) -> None:
    secure.max_connections = 1
    client = Client(port(secure))
    client.ask("EHLO x")
    assert client.ask("STARTTLS").startswith("220")
    reset(client)
    until(lambda: has_room(secure))


def test_silence_instead_of_a_handshake_is_cut_off(secure: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.2)
    secure.max_connections = 1
    with Client(port(secure)) as client:
        client.ask("EHLO x")
        assert client.ask("STARTTLS").startswith("220")
        assert client.is_closed()
        until(lambda: has_room(secure))


def test_a_silent_peer_of_implicit_tls_counts_and_is_cut_off(secure: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 2.0)
    secure.max_connections = 1
    with Client(port(secure, 1), greeting=False) as client:
        until(lambda: secure.open_connections == 1)
        assert not has_room(secure)
        assert client.is_closed()
        until(lambda: has_room(secure))


@pytest.mark.parametrize("octets", [b"", b"EHLO in clear\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_of_implicit_tls_that_fails_gives_its_place_back(secure: Listener, octets: bytes) -> None:
    secure.max_connections = 1
    client = Client(port(secure, 1), greeting=False)
    client.send(octets)
    reset(client)
    until(lambda: has_room(secure))


@pytest.mark.parametrize("fails", [True, False])
def test_a_handshake_of_implicit_tls_is_counted_before_it_and_once(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, certificate: tuple[Path, Path],
    fails: bool,
) -> None:  # fmt: skip
    settings.SMTP_PORT, settings.SMTPS_PORT = 0, free_port()
    settings.SMTP_RATE_LIMIT_EXEMPT, settings.SMTP_RATE_LIMIT_CONNECTIONS = [], 2
    with running_listener(CertificateSource(*certificate)) as running:
        for _ in range(2):
            with Client(port(running, 1), greeting=False) as client:
                if fails:
                    client.send(b"EHLO in clear\r\n")
                    client.reply()
                else:
                    client.start_tls()
                    assert client.reply().startswith("220")
        with Client(port(running, 1), greeting=False) as client:
            assert client.is_closed()
        with Client(port(running)) as client:  # all ports have one budget
            assert client.greeting.startswith("421 4.7.0")
        until(lambda: Event.objects.filter(rule="limit.connections").count() == 2)
        until(lambda: running.open_connections == 0)


def test_over_the_cap_implicit_tls_is_closed_at_once(secure: Listener) -> None:
    secure.max_connections = 1
    with Client(port(secure)), Client(port(secure, 1), greeting=False) as client:
        assert client.is_closed()
    until(lambda: has_room(secure))


def test_help_names_starttls_until_it_is_active(secure: Listener) -> None:
    with Client(port(secure)) as client:
        assert "STARTTLS" in client.ask("HELP")
        assert "AUTH" not in client.ask("HELP")
        client.ask("STARTTLS")
        client.start_tls()
        assert "STARTTLS" not in client.ask("HELP")
        assert "AUTH" in client.ask("HELP")


def test_tls_older_than_1_2_is_refused(secure: Listener) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Client(port(secure, 1), greeting=False) as client, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(client.socket)


def test_a_certificate_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    with pytest.raises(CertificateError, match="cannot be used"):
        CertificateSource(tmp_path / "cert.pem", tmp_path / "cert.pem")
