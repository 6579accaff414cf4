"""What once kept a session waiting, or let one through: found by a review, over real sockets."""

from __future__ import annotations

import asyncio
import re
import select
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import User
from mailflow.handoff import MemoryHandoff
from mailflow.limits.rules import WITHIN, Verdict
from mailflow.listener import intake
from mailflow.listener.certificate import CertificateSource
from mailflow.listener.server import Listener
from mailflow.models import Event
from mailflow.smtp.data import with_whole_line_ends
from mailflow.tests.test_listener import MAIL, connect, plain, send_mail
from mailflow.tests.test_listener_tls import certificate  # noqa: F401
from mailflow.tests.wire import Client, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)
RATES = ("CONNECTIONS", "COMMANDS", "MESSAGES", "SENDER_MESSAGES", "ACCOUNT_MESSAGES", "ACCOUNT_COMMANDS")


def begin(client: Client, parameters: str = "") -> None:
    client.ask("EHLO x")
    client.ask(f"MAIL FROM:<a@b.example>{parameters}")
    assert client.ask("RCPT TO:<alice@example.com>").startswith("250")


def test_starttls_is_answered_although_the_limits_must_be_asked_first(
    transactional_db: None,
    alice: User,
    memory_handoff: MemoryHandoff,
    settings: Any,
    certificate: tuple[Path, Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []

    async def soon() -> Verdict:
        await asyncio.sleep(0)
        return WITHIN

    with running_listener(CertificateSource(*certificate)) as listener, connect(listener) as client:
        monkeypatch.setattr(listener.gate, "commands", lambda _session: soon())
        client.ask("EHLO x")
        assert client.ask("STARTTLS").startswith("220 2.0.0")  # else 220 waits in _out behind the handshake
        client.start_tls()
        assert client.ask("EHLO x").startswith("250")


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200


@pytest.mark.parametrize(
    ("octets", "rule"),
    [
        (HELLO, "tls_hello"),
        (HELLO + b"\nMAIL FROM:<a@b.example>\r\n", "tls_hello"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "http"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "http"),
    ],
)
def test_who_speaks_another_protocol_at_once_is_cut_off_when_the_limits_have_answered(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, monkeypatch: pytest.MonkeyPatch,
    octets: bytes, rule: str,
) -> None:  # fmt: skip
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    settings.SMTP_RATE_LIMIT_COMMANDS = 0

    async def slowly(_client_address: str) -> Verdict:
        await asyncio.sleep(0.2)
        return WITHIN

    with running_listener() as listener:
        monkeypatch.setattr(listener.gate, "connect", slowly)
        with Client(listener.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
            client.send(octets)
            assert [client.reply()[:9] for _ in range(2)] == ["220 local", "421 4.7.0"]
            assert client.is_closed()
        until(lambda: Event.objects.filter(rule=rule).exists())


def test_a_tls_hello_that_comes_octet_by_octet_is_cut_off(listener: Listener) -> None:
    with connect(listener) as client:
        client.send(HELLO[:1])
        until(lambda: any(session._buffer for session in list(listener._connections)))
        client.send(HELLO[1:])
        assert client.reply().startswith("421 4.7.0")
        assert client.is_closed()


def test_an_answer_that_took_its_time_begins_the_clients_time_anew(listener: Listener) -> None:
    with connect(listener) as client:
        assert send_mail(client).startswith("250")
        client.ask("MAIL FROM:<a@b.example>")
        (session,) = list(listener._connections)
        session.deadline = listener.loop.time() + 60  # as if the last synchronous command were 240 s ago
        client.ask("RCPT TO:<alice+new@example.com>")  # looked up in a thread
        assert session.deadline - listener.loop.time() > 200
    with connect(listener) as client:
        assert send_mail(client).startswith("250")
        session = [s for s in list(listener._connections) if not s.is_in_transaction][-1]
        assert session.deadline - listener.loop.time() > 200  # 60: the grace of DATA


def test_content_behind_many_pipelined_commands_is_read(listener: Listener) -> None:
    listener.timeout = 30
    big = MAIL + (b"y" * 78 + b"\r\n") * 5000
    with connect(listener) as client:
        begin(client)
        wire = b"RCPT TO:<alice@example.com>\r\n" * 120 + b"BDAT %d LAST\r\n" % len(big) + big
        go = threading.Event()
        listener.loop.call_soon_threadsafe(go.wait)  # the loop is busy elsewhere, so that all of this is there at once
        client.send(wire[:150_000])
        go.set()
        client.send(wire[150_000:])
        assert [client.reply() for _ in range(121)][-1].startswith("250 2.0.0 OK")


@pytest.mark.parametrize("kib", [100, 300])
@pytest.mark.parametrize("first", [b"From: alice@example.com\r\n", b""])
def test_a_large_submission_bears_no_name_that_its_account_does_not_hold(
    listener: Listener, first: bytes, kib: int
) -> None:
    pad = b"".join(b"X-Pad: %s\r\n" % (b"y" * 1000) for _ in range(kib))
    octets = first + pad + b"From: boss@elsewhere.example\r\n\r\n" + (b"z" * 70 + b"\r\n") * 20000
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask("AUTH PLAIN " + plain("alice", "correct horse")).startswith("235")
        for command in ("MAIL FROM:<alice@example.com>", "RCPT TO:<alice@example.com>", "DATA"):
            client.ask(command)
        client.send(octets + b".\r\n")
        assert client.reply()[:3] in ("550", "554")


def test_content_that_begins_like_a_tls_hello_is_content(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    settings.SMTP_RATE_LIMIT_COMMANDS = 0
    settings.SMTP_TARPIT_SECONDS = 0.3
    with running_listener() as listener, connect(listener) as client:
        begin(client, " BODY=BINARYMIME")
        for _ in range(5):
            client.ask("EXPN x")
        client.send(b"EXPN x\r\nBDAT 8 LAST\r\n")  # answered late
        until(lambda: any(session.is_busy for session in list(listener._connections)))
        client.send(b"\x16\x03binary")
        assert client.reply().startswith("502")
        assert client.reply().startswith("250 2.0.0 OK")


def test_a_trickle_of_chunks_is_cut_off(listener: Listener) -> None:
    listener.data_grace = 0.2
    with connect(listener) as client:
        begin(client)
        replies: list[str] = []
        while not replies or replies[-1].startswith("250"):
            client.send(b"BDAT 1\r\nx")
            replies.append(client.reply())
            if select.select([client.socket], [], [], 0.1)[0]:
                replies.append(client.reply())
        assert replies[-1].startswith("421 4.4.2")
        assert len(replies) < 50


@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 10\r\n"])
def test_content_that_never_comes_is_cut_off_although_the_limits_had_to_be_asked(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, monkeypatch: pytest.MonkeyPatch,
    command: bytes,
) -> None:  # fmt: skip
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []

    async def soon() -> Verdict:
        await asyncio.sleep(0)
        return WITHIN

    with running_listener() as listener, connect(listener) as client:
        monkeypatch.setattr(listener.gate, "commands", lambda _session: soon())
        begin(client)
        listener.data_grace = 0.3
        client.send(command)
        if command == b"DATA\r\n":
            assert client.reply().startswith("354")
        assert client.reply().startswith("421 4.4.2")


def test_empty_chunks_are_chatter(listener: Listener) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(b"BDAT 0\r\n" * 5000)
        assert any(client.reply().startswith("421") for _ in range(5000))


@pytest.mark.parametrize("together", [40])
def test_no_more_passwords_are_looked_at_than_the_limit_says(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, together: int
) -> None:
    settings.PASSWORD_HASHERS = ["accounts.hashers.Argon2idHasher"]
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    settings.SMTP_TARPIT_SECONDS = settings.SMTP_MAX_CONNECTIONS_PER_ADDRESS = 0
    for name in RATES:
        setattr(settings, f"SMTP_RATE_LIMIT_{name}", 0)
    with running_listener() as listener:
        clients = [connect(listener) for _ in range(together)]
        for client in clients:
            client.ask("EHLO x")
        for client in clients:
            client.send(b"AUTH PLAIN " + plain("alice", "wrong").encode() + b"\r\n")
        codes = Counter(client.reply()[:3] for client in clients)
        for client in clients:
            client.socket.close()
        assert codes["535"] <= settings.SMTP_RATE_LIMIT_AUTH_FAILURES, codes


def test_a_message_refused_for_want_of_room_leaves_an_event(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(intake, "SpoolFile", no_room)
    with connect(listener) as client:
        assert send_mail(client, MAIL + b"x" * 3_000_000 + b"\r\n").startswith("452")
        client.ask("MAIL FROM:<a@b.example>")
        client.ask("RCPT TO:<alice@example.com>")
        client.ask("DATA")
        client.send(MAIL + b".\r\n")
        client.reply()  # its commit carries the notes along
    assert Event.objects.filter(kind="refused", reply__startswith="452").exists()


def test_no_reply_line_is_longer_than_512_octets(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        assert len(client.ask("MAIL FROM:<> " + "A" * 1900 + "=1")) <= 510


@given(st.text("\r\nx", max_size=30).map(str.encode))
def test_mended_line_ends_are_those_of_the_plain_rule(octets: bytes) -> None:
    assert with_whole_line_ends(octets) == re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
