"""Every reply code of R4's table over a real socket, each with its enhanced code (contract §2, RFC 2034, RFC 3463)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection as database

from accounts.models import Alias, Domain, User
from accounts.tests.ports import free_port
from mailflow.handoff import MemoryHandoff
from mailflow.listener.server import Listener
from mailflow.tests.test_listener import MAIL, connect, plain
from mailflow.tests.wire import Client, running_listener

pytestmark = pytest.mark.django_db(transaction=True)

AUTH = "AUTH PLAIN " + plain("alice", "correct horse")
TO_ALICE = ["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<alice@example.com>"]


@pytest.fixture
def cast(alice: User) -> None:
    """Whom the table's cases are about, all at example.com but for the domain that only sends."""
    domain = Domain.objects.get()
    Alias.objects.create(domain=domain, local_part="told", targets=["new@far.example"], announcement="told")
    Alias.objects.create(domain=domain, local_part="moved", targets=["new@far.example"], announcement="moved")
    Domain.objects.create(name="sends.example", organization=domain.organization, is_trusted=True, accepts_mail=False)
    mib = 1 << 20
    for name, used in (("off", 0), ("full", mib + 1), ("flooded", 20 * mib)):
        User.objects.create_user(
            name, f"{name}@example.com", "x" * 12, organization=domain.organization,
            is_active=name != "off", quota_mb=1, used_octets=used,
        )  # fmt: skip


@pytest.fixture
def served(cast: None, listener: Listener) -> Listener:
    return listener


# --- what a dialogue comes to -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (["QUIT"], "221 2.0.0"),
        (["EHLO x", AUTH], "235 2.7.0"),
        (["NOOP"], "250 2.0.0"),
        (["HELP"], "214 2.0.0"),
        ([*TO_ALICE[:2], "RCPT TO:<told@example.com>"], "251 2.1.5"),
        (["VRFY alice"], "252 2.5.0"),
        ([*TO_ALICE, "DATA"], "354 "),
        ([*TO_ALICE[:2], "RCPT TO:<off@example.com>"], "450 4.2.1"),
        ([*TO_ALICE[:2], "RCPT TO:<full@example.com>"], "452 4.2.2"),
        (["NOSUCH"], "500 5.5.1"),
        (["NOOP " + "x" * 600], "500 5.5.2"),
        (["NOOP " + "x" * 13_000], "500 5.5.2"),
        (["EHLO x", "AUTH PLAIN " + "x" * 12_280], "500 5.5.6"),
        (["EHLO x", "auth plain " + "x" * 13_000], "500 5.5.6"),
        (["EHLO x", "AUTH PLAIN", "x" * 13_000], "500 5.5.6"),
        (["EHLO x", "AUTH PLAIN", "QUFB" * 3_000], "500 5.5.6"),
        (["EHLO"], "501 5.5.4"),
        (["EXPN list"], "502 5.5.1"),
        (["ATRN example.com"], "502 5.5.1"),
        (["EHLO x", "DATA"], "503 5.5.1"),
        (["EHLO x", "AUTH CRAM-MD5"], "504 5.5.4"),
        (["EHLO x", "ETRN example.com"], "530 5.7.0"),
        (["EHLO x", "AUTH PLAIN " + plain("alice", "wrong")], "535 5.7.8"),
        ([*TO_ALICE[:2], "RCPT TO:<nobody@example.com>"], "550 5.1.1"),
        ([*TO_ALICE[:2], "RCPT TO:<a@foreign.example>"], "550 5.7.1"),
        (["EHLO x", "MAIL FROM:<é@b.example>"], "550 5.6.7"),
        ([*TO_ALICE[:2], "RCPT TO:<moved@example.com>"], "551 5.1.6"),
        ([*TO_ALICE[:2], "RCPT TO:<flooded@example.com>"], "552 5.2.2"),
        (["EHLO x", "MAIL FROM:<a@b.example> SIZE=99999999999"], "552 5.3.4"),
        (["EHLO x", "MAIL FROM:<a b@c.example>"], "553 5.1.7"),
        (["EHLO x", AUTH, "MAIL FROM:<boss@elsewhere.example>"], "553 5.7.1"),
        ([*TO_ALICE[:2], "RCPT TO:<é@example.com>"], "553 5.6.7"),
        ([*TO_ALICE[:2], "DATA"], "554 5.5.1"),
        (["EHLO x", AUTH, "MAIL FROM:<alice@example.com>", "RCPT TO:<a@sales>"], "554 5.1.2"),
        (["EHLO x", "MAIL FROM:<a@b.example> FOO=1"], "555 5.5.4"),
        ([*TO_ALICE[:2], "RCPT TO:<a@sends.example>"], "556 5.1.10"),
    ],
)
def test_a_code_is_given_where_the_table_says(served: Listener, dialogue: list[str], expected: str) -> None:
    with connect(served) as client:
        assert client.greeting.startswith("220 ")
        for command in dialogue[:-1]:
            assert client.ask(command)[0] in "23", command
        assert client.ask(dialogue[-1]).startswith(expected)


def test_251_and_551_name_the_new_address(served: Listener) -> None:
    with connect(served) as client:
        for command in TO_ALICE[:2]:
            client.ask(command)
        assert "<new@far.example>" in client.ask("RCPT TO:<told@example.com>")
        assert "<new@far.example>" in client.ask("RCPT TO:<moved@example.com>")


def test_251_and_551_name_an_address_beyond_ascii_where_smtputf8_was_declared(served: Listener) -> None:
    for name in ("told", "moved"):
        Alias.objects.filter(local_part=name).update(targets=["jörg@bücher.example"])
    with connect(served) as client:
        for command, codes in (("MAIL FROM:<a@b.example> SMTPUTF8", "251 551"), (TO_ALICE[1], "250 550")):
            client.ask("EHLO x")
            client.ask(command)
            answers = [client.ask(f"RCPT TO:<{name}@example.com>") for name in ("told", "moved")]
            assert [answer[:3] for answer in answers] == codes.split()
            for answer in answers:
                assert answer.endswith("<jörg@xn--bcher-kva.example>") == ("SMTPUTF8" in command)
                assert answer.isascii() != ("SMTPUTF8" in command)


# --- what the state of the house comes to -----------------------------------------------------------------------------


def _sent(client: Client, octets: bytes = MAIL) -> str:
    for command in TO_ALICE:
        assert client.ask(command).startswith("250"), command
    assert client.ask("DATA").startswith("354")
    client.send(octets + b".\r\n")
    return client.reply()


def test_421_at_the_cap_of_connections(served: Listener) -> None:
    served.max_connections = 0
    with connect(served) as client:
        assert client.greeting.startswith("421 4.3.2")


def test_421_at_the_cap_of_one_address(served: Listener, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    served.max_connections_per_address = 1
    with connect(served), connect(served) as second:
        assert second.greeting.startswith("421 4.7.0")


def test_421_while_reception_is_switched_off(served: Listener) -> None:
    with connect(served) as client:
        client.ask("EHLO x")
        served.is_enabled = False
        assert client.ask("MAIL FROM:<a@b.example>").startswith("421 4.3.2")
        assert client.is_closed()


def test_450_over_a_limit_of_messages(cast: None, memory_handoff: MemoryHandoff, settings: Any) -> None:
    with _limited(settings, SMTP_RATE_LIMIT_MESSAGES=1) as listener, connect(listener) as client:
        assert _sent(client).startswith("250")
        assert client.ask("MAIL FROM:<a@b.example>").startswith("450 4.7.1")


def test_451_while_the_database_is_away(served: Listener) -> None:
    with connect(served) as client:
        for command in TO_ALICE:
            client.ask(command)
        _rename("mailflow_message", "mailflow_message_away")
        try:
            client.ask("DATA")
            client.send(MAIL + b".\r\n")
            assert client.reply().startswith("451 4.3.0")
        finally:
            _rename("mailflow_message_away", "mailflow_message")


def _rename(old: str, new: str) -> None:
    with database.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


def test_454_where_too_many_passwords_wait(served: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.listener.directory.MAX_WAITING_AUTH", 0)
    with connect(served) as client:
        client.ask("EHLO x")
        assert client.ask(AUTH).startswith("454 4.7.0")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("QUIT", "221 2.0.0"),
        ("QUIT now", "521 5.3.2"),
        ("EHLO x", "521 5.3.2"),
        ("NOSUCH", "521 5.3.2"),
        ("bare\rreturn", "521 5.3.2"),
        ("x" * 13_000, "521 5.3.2"),
        ("GET / HTTP/1.1", "521 5.3.2"),
    ],
)
def test_521_from_a_host_that_takes_no_mail(served: Listener, command: str, expected: str) -> None:
    """RFC 7504 §3, RFC 5321 §3.1: it stays for the client's QUIT."""
    served.accepts_mail = False
    with connect(served) as client:
        assert client.greeting.startswith("521 5.3.2")
        assert client.ask(command).startswith(expected)
        assert client.is_closed()


def test_who_was_told_521_and_stays_silent_is_not_waited_for(served: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.listener.session.QUIT_SECONDS", 0.1)
    served.accepts_mail = False
    with connect(served) as client:
        assert client.greeting.startswith("521 5.3.2")
        client.send(b"QUI")
        assert client.reply().startswith("421 4.4.2")
        assert client.is_closed()


def test_538_for_a_password_in_clear(served: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "is_loopback", lambda _address: False)
    with connect(served) as client:
        client.ask("EHLO x")
        assert client.ask(AUTH).startswith("538 5.7.11")


def test_552_and_554_for_content(served: Listener) -> None:
    served.max_message_octets = 1000
    with connect(served) as client:
        assert _sent(client, MAIL + b"x" * 990 + b"\r\n").startswith("552 5.3.4")
        assert _sent(client, MAIL + b"bare\nline end\r\n").startswith("554 5.6.0")
        assert _sent(client, b"Received: from x\r\n" * 51 + b"\r\n")[:9] == "554 5.4.6"


def _limited(settings: Any, **limits: int) -> Any:
    """A listener whose client is not exempt from the limits, these among them."""
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    settings.SMTP_TARPIT_SECONDS = 0
    for name, limit in {"SMTP_RATE_LIMIT_CONNECTIONS": 0, "SMTP_RATE_LIMIT_COMMANDS": 0, **limits}.items():
        setattr(settings, name, limit)
    return running_listener()


# --- submission, and the port for dial-up hosts -----------------------------------------------------------------------


@pytest.fixture
def ask_odmr(cast: None, memory_handoff: MemoryHandoff, settings: Any) -> Iterator[Callable[..., str]]:
    """Ask the ODMR port; return the last reply."""
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.ODMR_PORT = free_port()
    with running_listener():

        def ask(*commands: str) -> str:
            with Client(settings.ODMR_PORT) as client:
                return [client.ask(command) for command in commands][-1]

        yield ask


def test_the_odmr_port_announces_atrn_and_has_nothing_else_to_do_with_mail(ask_odmr: Callable[..., str]) -> None:
    offered = {line[4:].partition(" ")[0] for line in ask_odmr("EHLO x").split("\n")[1:]}
    assert offered == {"PIPELINING", "ENHANCEDSTATUSCODES", "ATRN", "AUTH", "HELP"}
    assert ask_odmr("EHLO x", "MAIL FROM:<a@b.example>").startswith("502 5.5.1")


def test_atrn_is_answered_as_its_rfc_says(ask_odmr: Callable[..., str], memory_handoff: MemoryHandoff) -> None:
    assert ask_odmr("EHLO x", "ATRN example.com").startswith("530 5.7.0")
    assert ask_odmr("EHLO x", AUTH, "ATRN").startswith("453 ")
    assert ask_odmr("EHLO x", AUTH, "ATRN example.com,foreign.example").startswith("450 4.7.1")
    assert ask_odmr("EHLO x", AUTH, "ATRN not..a..name").startswith("501 5.5.4")
    memory_handoff.waiting["example.com"] = 3
    assert ask_odmr("EHLO x", AUTH, "ATRN example.com").startswith("451 4.3.0")


def test_etrn_is_answered_as_its_rfc_says(served: Listener, memory_handoff: MemoryHandoff) -> None:
    with connect(served) as client:
        client.ask("EHLO x")
        client.ask(AUTH)
        assert client.ask("ETRN example.com").startswith("251 2.0.0")
        memory_handoff.waiting["example.com"] = 3
        assert client.ask("ETRN Example.COM") == "250 2.0.0 Queuing started for example.com"
        assert client.ask("ETRN foreign.example").startswith("459 4.7.1")
        assert client.ask("ETRN @example.com").startswith("458 4.5.4")
        assert client.ask("ETRN").startswith("501 5.5.4")
        client.ask("MAIL FROM:<alice@example.com>")
        assert client.ask("ETRN example.com").startswith("503 5.5.1")
    assert memory_handoff.started == [("example.com", "alice (ETRN)")] * 2


@pytest.fixture
def submission(cast: None, memory_handoff: MemoryHandoff, settings: Any) -> Iterator[Client]:
    """A client at the submission port."""
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SUBMISSION_PORT = free_port()
    with running_listener(), Client(settings.SUBMISSION_PORT) as client:
        yield client


def test_the_submission_port_starts_no_queues(submission: Client) -> None:
    """RFC 6409 §7."""
    assert "ETRN" not in submission.ask("EHLO x")
    submission.ask(AUTH)
    for command in ("ETRN example.com", "ATRN example.com"):
        assert submission.ask(command).startswith("502 5.5.1")
    assert "ETRN" not in submission.ask("HELP")


def test_nobody_sends_on_the_submission_port_without_auth(submission: Client) -> None:
    submission.ask("EHLO x")
    assert submission.ask("MAIL FROM:<alice@example.com>").startswith("530 5.7.0")
    assert submission.ask(AUTH).startswith("235")
    assert submission.ask("MAIL FROM:<alice@example.com>").startswith("250")
