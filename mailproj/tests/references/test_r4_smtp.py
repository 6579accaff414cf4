"""R4's SMTP transcripts, each over a real socket to the running listener: what C says is said, what S says is awaited.

A reply must have the code that R4 prints; its text may say more, as the enhanced codes do. Where the contract differs
(§2: DELIVERBY is announced without a number, ATRN is on a port of its own) it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest

from mailflow.tests.wire import Client
from mailproj.tests.references.example import MESSAGE_ID, check
from mailproj.tests.references.world import DIAL_UP, World
from mailproj.tests.whole_system import wait_until
from queue.tests.peers import Peer
from queue.tests.turned import fetch_over

pytestmark = pytest.mark.slow

AUTH = "AUTH PLAIN AHVzZXJuYW1lAHBhc3N3b3Jk"
LETTER = b"Subject: In chunks\r\n\r\n" + b"x" * 76 + b"\r\n"


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with Client(world.ports[2525]) as found:
        found.ask("EHLO client.example.net")
        yield found


def converse(client: Client, transcript: str) -> None:
    """Play a transcript: lines in a row of one side are sent, or awaited, together."""
    turns = [line.partition(": ")[::2] for line in transcript.strip().splitlines()]
    said = b""
    for number, (side, text) in enumerate(turns):
        if side == "C":
            said += f"{text}\r\n".encode()
            if number + 1 == len(turns) or turns[number + 1][0] == "S":
                client.send(said)
                said = b""
        else:
            reply = client.reply()
            assert reply[:3] == text[:3], (text, reply)
            if text[:3] == "334":
                assert reply == text or not text[4:]


@pytest.mark.parametrize(
    "keyword",
    [
        "PIPELINING", "SIZE 52428800", "SMTPUTF8", "STARTTLS", "AUTH PLAIN LOGIN", "CHUNKING", "DELIVERBY", "ETRN",
        "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "BINARYMIME",
    ],
)  # fmt: skip
def test_r4_ehlo_announces(client: Client, keyword: str) -> None:
    lines = client.ask("EHLO client.example.net").split("\n")
    assert keyword in [line[4:] for line in lines]


def test_r4_atrn_is_announced_on_its_port_alone(world: World, client: Client) -> None:
    assert "ATRN" not in client.ask("EHLO x") and client.ask("ATRN example.com").startswith("502 ")
    with Client(world.ports[2366]) as odmr:
        assert "ATRN" in [line[4:] for line in odmr.ask("EHLO x").split("\n")]


def test_r4_pipelining(client: Client) -> None:
    converse(
        client,
        """\
C: MAIL FROM:<sender@example.com>
C: RCPT TO:<recipient@example.com>
C: DATA
S: 250 OK
S: 250 OK
S: 354 Start mail input""",
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("MAIL FROM:<sender@example.com> SIZE=1234567", "250"),
        ("MAIL FROM:<sender@example.com> SIZE=52428801", "552"),
        ("MAIL FROM:<用户@例え.jp> SMTPUTF8", "250"),
        ("MAIL FROM:<sender@example.com> BY=3600;R", "250"),
        ("MAIL FROM:<sender@example.com> BY=3600;N", "250"),
    ],
    ids=["SIZE", "SIZE too large", "SMTPUTF8", "DELIVERBY R", "DELIVERBY N"],
)
def test_r4_mail_parameter(client: Client, command: str, code: str) -> None:
    assert client.ask(command)[:3] == code


def test_r4_starttls(client: Client) -> None:
    converse(client, "C: STARTTLS\nS: 220 Ready to start TLS")
    client.start_tls()
    assert client.ask("EHLO client.example.net").startswith("250") and client.ask(AUTH).startswith("235")


AUTHENTICATIONS = {
    "PLAIN, initial response": """\
C: AUTH PLAIN AHVzZXJuYW1lAHBhc3N3b3Jk
S: 235 Authentication successful""",
    "PLAIN": """\
C: AUTH PLAIN
S: 334
C: AHVzZXJuYW1lAHBhc3N3b3Jk
S: 235 Authentication successful""",
    "LOGIN": """\
C: AUTH LOGIN
S: 334 VXNlcm5hbWU6
C: dXNlcm5hbWU=
S: 334 UGFzc3dvcmQ6
C: cGFzc3dvcmQ=
S: 235 Authentication successful""",
}


@pytest.mark.parametrize("mechanism", AUTHENTICATIONS)
def test_r4_auth(client: Client, mechanism: str) -> None:
    converse(client, AUTHENTICATIONS[mechanism])


def test_r4_chunking(world: World, client: Client) -> None:
    converse(client, "C: MAIL FROM:<sender@example.com>\nS: 250 OK\nC: RCPT TO:<recipient@example.com>\nS: 250 OK")
    content = LETTER.ljust(1498, b"y") + b"\r\n"
    client.send(b"BDAT 1000\r\n" + content[:1000])
    assert client.reply().startswith("250 ")
    client.send(b"BDAT 500 LAST\r\n" + content[1000:])
    accepted = client.reply()
    assert accepted.startswith("250 ")
    message_id = accepted.rpartition(" ")[2]
    check(message_id, MESSAGE_ID)
    assert wait_until(lambda: [one for one in world.system.inbox("recipient") if one["id"] == message_id])


def waiting_mail(world: World) -> str:
    """Return the id of a message that waits for the host of the dial-up domain."""
    message_id = world.send(f"someone@{DIAL_UP}")
    wait_until(lambda: "host" in str(world.ask("GET", f"/api/v1/queue/{message_id}")["waiting_for"]))
    return message_id


def test_r4_etrn(world: World, client: Client) -> None:
    assert client.ask(AUTH).startswith("235 ")
    assert client.ask("ETRN example.com").startswith("251 "), "nothing waits there, which RFC 1985 has a code for"
    waiting_mail(world)
    assert client.ask(f"ETRN {DIAL_UP}") == f"250 2.0.0 Queuing started for {DIAL_UP}"


def test_r4_atrn(world: World) -> None:
    message_id = waiting_mail(world)
    with Peer().in_thread() as home, Client(world.ports[2366]) as client:
        client.ask("EHLO host.dialup.example")
        assert client.ask(AUTH).startswith("235 ")
        assert fetch_over(client, home, f"ATRN {DIAL_UP}").startswith("250 ")
        found: Sequence[bytes] = [message.content for message in home.messages]
    assert any(re.search(rf"\b{message_id}\b".encode(), content) for content in found)
    wait_until(lambda: world.status_of(message_id) == "delivered")


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        (["AUTH PLAIN AHVzZXJuYW1lAHdyb25n"], "535 5.7.8"),
        (["AUTH PLAIN ***"], "501 5.5.2"),
        (["AUTH PLAIN", "*"], "501 5.7.0"),
        (["AUTH NTLM"], "504 5.5.4"),
        (["MAIL FROM:<sender@example.com> SIZE=many"], "501 5.5.4"),
        (["MAIL FROM:<sender@example.com> BY=3600;X"], "501 5.5.4"),
        (["MAIL FROM:<sender@example.com> COLOUR=red"], "555 5.5.4"),
        (["MAIL FROM:<用户@例え.jp>"], "550 5.6.7"),
        (["MAIL FROM:sender"], "501 5.5.4"),
        (["RCPT TO:<recipient@example.com>"], "503 5.5.1"),
        (["DATA"], "503 5.5.1"),
        (["BDAT many"], "501 5.5.4"),
        (["MAIL FROM:<sender@example.org>", "RCPT TO:<nobody@example.com>"], "550 5.1.1"),
        (["MAIL FROM:<sender@example.org>", "RCPT TO:<someone@foreign.example>"], "550 5.7.1"),
        (["ETRN example.com"], "530 5.7.0"),
        ([AUTH, "ETRN other.example"], "459 4.7.1"),
        ([AUTH, "ETRN"], "501 5.5.4"),
        ([AUTH, "STARTTLS now"], "501 5.5.4"),
        (["FROBNICATE"], "500 5.5.1"),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else value,
)
def test_r4_what_is_wrong_is_refused_by_its_code(client: Client, lines: list[str], reply: str) -> None:
    for line in lines[:-1]:
        assert client.ask(line)[0] in "23"
    assert client.ask(lines[-1]).startswith(reply)
    assert client.ask("NOOP").startswith("250")
