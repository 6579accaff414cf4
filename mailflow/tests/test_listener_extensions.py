"""SMTPUTF8, DSN, DELIVERBY, the PROXY protocol and more at the listener, over real sockets (contract §2)."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Domain, Organization, User
from mailflow import content
from mailflow.handoff import MemoryHandoff
from mailflow.listener import door, ports, refusal_events
from mailflow.listener.server import Listener
from mailflow.listener.session import Session
from mailflow.models import Event, Message
from mailflow.tests.test_listener import MAIL, connect, plain, send_mail
from mailflow.tests.wire import Client, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)

AUTH = "AUTH PLAIN " + plain("alice", "correct horse")


def test_all_that_works_is_announced(listener: Listener) -> None:
    with connect(listener) as client:
        offered = {line[4:].partition(" ")[0] for line in client.ask("EHLO x").split("\n")[1:]}
    assert offered == {
        "PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "DELIVERBY", "ENHANCEDSTATUSCODES",
        "ETRN", "SIZE", "AUTH", "HELP",
    }  # fmt: skip


class Pieces(asyncio.Transport):
    """Keeps what is written apart, as no socket does."""

    def can_write_eof(self) -> bool:
        return False

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written: list[bytes] = []
        self.has_more = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        self.has_more.set()

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass


def pieces(listener: Listener, octets: bytes) -> list[list[str]]:
    """Return the codes of the replies to what comes in one packet after EHLO and RCPT, by the piece they leave in."""

    async def talk() -> list[bytes]:
        session, transport = Session(listener, ports.SMTP), Pieces()
        session.connection_made(transport)
        session.data_received(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.com>\r\n")
        while b"2.1.5" not in transport.written[-1]:
            transport.has_more.clear()
            await transport.has_more.wait()
        transport.written.clear()
        session.data_received(octets)
        session.connection_lost(None)
        return transport.written

    written = asyncio.run_coroutine_threadsafe(talk(), listener.loop).result(60)
    return [[line[:3] for line in piece.decode().splitlines() if line[3] == " "] for piece in written]


def test_replies_to_one_group_of_commands_leave_in_one_piece(listener: Listener) -> None:
    group = b"RCPT TO:<alice@example.com>\r\nRCPT TO:<>\r\nRSET\r\nMAIL FROM:<>\r\nRSET\r\n"
    assert pieces(listener, group) == [["250", "501", "250", "250", "250"]]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"EHLO x", "250"), (b"DATA", "354"), (b"VRFY alice", "252"), (b"EXPN list", "502"), (b"QUIT", "221"),
        (b"NOOP", "250"), (b"NOSUCH", "500"), (b"\0", "500"), (b"HELP", "214"), (b"AUTH PLAIN", "503"),
    ],
)  # fmt: skip
def test_other_replies_wait_for_no_command_that_follows(listener: Listener, command: bytes, code: str) -> None:
    """RFC 2920 §3.2 (5), (6)."""
    first, *rest = pieces(listener, b"RCPT TO:<alice@example.com>\r\n" + command + b"\r\nMAIL FROM:<>\r\n")
    assert first == ["250", code]
    assert len(rest) == (0 if command in (b"DATA", b"QUIT") else 1)


# --- SMTPUTF8 ---------------------------------------------------------------------------------------------------------


def test_mail_in_any_script_comes_from_the_wire_into_the_store(
    listener: Listener, alice: User, memory_handoff: MemoryHandoff
) -> None:
    User.objects.create_user("用户", "用户@example.com", "x" * 12, organization=alice.organization)
    octets = "Subject: 你好\r\nFrom: 发件人 <发件人@例え.jp>\r\n\r\n你好\r\n".encode()
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask("MAIL FROM:<发件人@例え.jp> SMTPUTF8 BODY=8BITMIME").startswith("250 2.1.0")
        assert client.ask("RCPT TO:<用户@example.com>").startswith("250 2.1.5")
        assert client.ask("RCPT TO:<没有@example.com>").startswith("550 5.1.1")
        client.ask("DATA")
        client.send(octets + b".\r\n")
        assert client.reply().startswith("250")
    message = Message.objects.get()
    assert (message.is_smtputf8, message.protocol, message.subject) == (True, "UTF8SMTP", "你好")
    assert message.reverse_path == "发件人@xn--r8jz45g.jp"
    stored = content.read(message.pk)
    assert "for <用户@example.com>".encode() in stored
    assert stored.endswith(octets)


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (["MAIL FROM:<用户@例え.jp>"], "550 5.6.7"),
        (["MAIL FROM:<a@例え.jp>"], "550 5.6.7"),
        (["MAIL FROM:<a@b.example> SMTPUTF8=yes"], "501 5.5.4"),
        (["MAIL FROM:<a@b.example>", "RCPT TO:<用户@example.com>"], "553 5.6.7"),
        (["MAIL FROM:<a@b.example> SMTPUTF8", "RCPT TO:<alice@example.com>"], "250 2.1.5"),
    ],
)
def test_addresses_beyond_ascii_need_smtputf8(listener: Listener, dialogue: list[str], expected: str) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        assert [client.ask(command) for command in dialogue][-1].startswith(expected)


def test_octets_that_are_no_utf8_are_a_syntax_error(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.send(b"MAIL FROM:<\xff\xfe@b.example> SMTPUTF8\r\n")
        assert client.reply().startswith("501 5.5.2")
        client.send("NOOP é\r\n".encode())
        assert client.reply().startswith("501 5.5.2")


# --- what a delivery must later honour --------------------------------------------------------------------------------


def test_dsn_and_deliverby_are_kept_with_the_message(listener: Listener, memory_handoff: MemoryHandoff) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        before = timezone.now()
        client.ask("MAIL FROM:<a@b.example> RET=HDRS ENVID=a+2Bb BY=120;NT SIZE=10 BODY=8BITMIME AUTH=<>")
        client.ask("RCPT TO:<alice@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Old+2Bx@b.example")
        behind_mail = timezone.now()
        client.ask("DATA")
        client.send(MAIL + b".\r\n")
        assert client.reply().startswith("250")
    envelope = memory_handoff.accepted[0].envelope
    assert (envelope.dsn_return, envelope.envelope_id, envelope.body_type) == ("HDRS", "a+b", "8BITMIME")
    assert envelope.deliver_by is not None
    assert (envelope.deliver_by.seconds, envelope.deliver_by.mode) == (120, "NT")
    # RFC 2852 §4: the time runs from MAIL, however long the content takes
    two_minutes = dt.timedelta(minutes=2)
    assert before + two_minutes <= envelope.deliver_by.due_at(timezone.now()) <= behind_mail + two_minutes
    assert envelope.recipients[0].notify == "SUCCESS,DELAY"
    assert envelope.recipients[0].original_recipient == "rfc822;Old+x@b.example"


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ("BY=3600;R", "250 2.1.0"),
        ("BY=+3600;rt", "250 2.1.0"),
        ("BY=-60;N", "250 2.1.0"),
        ("BY=0;N", "250 2.1.0"),
        ("BY=0;R", "501 5.5.4"),
        ("BY=-1;R", "501 5.5.4"),
        ("BY=1234567890;N", "501 5.5.4"),
        ("BY=60", "501 5.5.4"),
        ("BY=60;X", "501 5.5.4"),
        ("RET=ALL", "501 5.5.4"),
        ("ENVID=" + "x" * 101, "501 5.5.4"),
        ("BODY=BINARYMIME", "250 2.1.0"),
        ("AUTH=e+3Dmc2@example.com", "250 2.1.0"),
        ("AUTH=<>", "250 2.1.0"),
        ("AUTH=+3C+3E", "250 2.1.0"),
        ("AUTH=+zz", "501 5.5.4"),
        ("AUTH=", "501 5.5.4"),
        ("AUTH", "501 5.5.4"),
        ("AUTH=nonsense", "501 5.5.4"),
        ("SMTPUTF8=", "501 5.5.4"),
        ("BODY=", "501 5.5.4"),
        ("SIZE=1 SIZE=2", "501 5.5.4"),
    ],
)
def test_parameters_of_mail(listener: Listener, parameter: str, expected: str) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask(f"MAIL FROM:<a@b.example> {parameter}").startswith(expected)


@pytest.mark.parametrize("given", ["{0}=1", "SIZE=1 {0}=1 {0}=1"])
def test_a_reply_names_no_more_of_a_parameter_than_a_line_has_room_for(listener: Listener, given: str) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        reply = client.ask(f"MAIL FROM:<a@b.example> {given.format('X' * 600)}")
    assert reply[:3] in ("501", "555")
    assert len(reply) + 2 <= 512  # RFC 5321 §4.5.3.1.5


# --- submission -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header_from", "expected", "rule"),
    [
        (b"alice@example.com", "250", ""),
        (b"Alice <alice@example.com>", "250", ""),
        (b"boss@elsewhere.example", "550 5.7.1", "from_not_owned"),
        (b"alice@example.com, boss@elsewhere.example", "550 5.7.1", "from_not_owned"),
        (b"boss@elsewhere.example\r\nFrom: alice@example.com", "554 5.6.0", "from_twice"),
    ],
)
def test_a_submission_bears_no_name_that_its_account_does_not_hold(
    listener: Listener, header_from: bytes, expected: str, rule: str
) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask(AUTH)
        for command in ("MAIL FROM:<alice@example.com>", "RCPT TO:<a@foreign.example>", "DATA"):
            assert client.ask(command)[0] in "23"
        client.send(b"From: " + header_from + b"\r\nSubject: x\r\n\r\nx\r\n.\r\n")
        assert client.reply().startswith(expected)
        assert client.ask("NOOP").startswith("250")
    until(lambda: Event.objects.filter(rule=rule).exists() if rule else Message.objects.exists())
    if rule:
        event = Event.objects.get(rule=rule)
        assert (event.actor, event.sender, event.recipient) == ("alice", "alice@example.com", "a@foreign.example")
        assert event.organization_id is not None


# --- strangers --------------------------------------------------------------------------------------------------------


def test_a_tls_hello_on_a_port_that_begins_in_clear_is_cut_off(listener: Listener) -> None:
    with connect(listener) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200)
        assert client.reply().startswith("421 4.7.0")
        assert client.is_closed()
    until(lambda: Event.objects.filter(rule="tls_hello").exists())


def test_every_refusal_is_searchable_by_who_what_rule_and_reply(listener: Listener) -> None:
    with connect(listener) as client:
        for command in (
            "EHLO bad_host!", "EHLO x", "AUTH CRAM-MD5", "MAIL FROM:a@b.example", "MAIL FROM:<a@b.example>",
            "RCPT TO:<nobody@example.com>", "DATA",
        ):  # fmt: skip
            client.ask(command)
        client.ask("RSET")
        assert send_mail(client).startswith("250")  # its commit carries the notes along
    found = Event.objects.filter(kind="refused").order_by("pk").values_list("stage", "rule", "sender", "reply")
    assert [(stage, rule, sender, reply[:3]) for stage, rule, sender, reply in found] == [
        ("greeting", "syntax", "", "501"),
        ("auth", "mechanism", "", "504"),
        ("sender", "syntax", "a@b.example", "501"),
        ("recipient", "unknown_user", "a@b.example", "550"),
        ("content", "no_recipients", "a@b.example", "554"),
    ]


@pytest.mark.parametrize(
    ("before", "line", "reply", "expected"),
    [
        ([], b"MAIL FROM:<a\rb@c.example>\r\n", "500 5.5.2", ("sender", "syntax")),
        ([], b"rcpt TO:<a@b.example>\n", "500 5.5.2", ("recipient", "syntax")),
        ([], b"AUTH PLAIN \0\r\n", "500 5.5.2", ("auth", "syntax")),
        ([], b"RCPT TO:<" + b"x" * 100_000 + b"\r\n", "500 5.5.2", ("recipient", "line_too_long")),
        ([], b"AUTH PLAIN " + b"x" * 100_000 + b"\r\n", "500 5.5.6", ("auth", "line_too_long")),
        (["AUTH LOGIN"], b"x" * 100_000 + b"\r\n", "500 5.5.6", ("auth", "line_too_long")),
        (["AUTH LOGIN"], b"eHg=\n", "500 5.5.2", ("auth", "syntax")),
        ([], b"NOOP\n", "500 5.5.2", None),
        ([], b"\n", "500 5.5.2", None),
    ],
)
def test_a_line_that_is_none_leaves_the_event_of_the_command_that_it_was_to_be(
    listener: Listener, before: list[str], line: bytes, reply: str, expected: tuple[str, str] | None
) -> None:
    with connect(listener) as client:
        for command in ["EHLO x", *before]:
            client.ask(command)
        client.send(line)
        assert client.reply().startswith(reply)
        assert send_mail(client).startswith("250")  # its commit carries the notes along
    found = list(Event.objects.filter(kind="refused").values_list("stage", "rule"))
    assert found == ([expected] if expected else [])


def test_a_message_refused_for_its_content_is_found_by_each_recipient_and_its_organization(listener: Listener) -> None:
    other = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.example", organization=other, is_trusted=True)
    User.objects.create_user("bob", "bob@other.example", "x", organization=other)
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        for to in ("alice@example.com", "bob@other.example", "alice+2@example.com"):
            assert client.ask(f"RCPT TO:<{to}>").startswith("250")
        client.ask("DATA")
        client.send(b"a bare line end\n\r\n.\r\n")
        assert client.reply().startswith("554")
        assert send_mail(client).startswith("250")  # its commit carries the notes along
    events = {event.recipient: event for event in Event.objects.filter(rule="bare_line_end")}
    assert set(events) == {"alice@example.com", "bob@other.example", "alice+2@example.com"}
    assert events["bob@other.example"].organization_id == other.pk
    assert events["alice@example.com"].organization_id == User.objects.get(username="alice").organization_id
    assert {(event.stage, event.sender) for event in events.values()} == {("content", "a@b.example")}


def test_what_an_account_sends_is_its_organizations_business(listener: Listener) -> None:
    other = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.example", organization=other, is_trusted=True)
    User.objects.create_user("bob", "bob@other.example", "x", organization=other)
    with connect(listener) as client:
        for command in ("EHLO x", AUTH, "MAIL FROM:<alice@example.com>", "RCPT TO:<bob@other.example>", "DATA"):
            client.ask(command)
        client.send(b"From: boss@elsewhere.example\r\n\r\n.\r\n")
        assert client.reply()[:3] in ("550", "554")
    until(lambda: Event.objects.filter(kind="refused").exists())
    event = Event.objects.get(kind="refused")
    assert (event.recipient, event.actor) == ("bob@other.example", "alice")
    assert event.organization_id == User.objects.get(username="alice").organization_id


def test_the_events_of_one_message_are_bounded_and_come_once(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_events, "EVENT_RECIPIENTS", 3)
    listener.max_message_octets = 1000
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        for number in range(8):
            client.ask(f"RCPT TO:<alice+{number}@example.com>")
        assert client.ask("DATA now").startswith("501")  # the message may still come
        client.send(b"BDAT 1001\r\n" + b"x" * 1001 + b"BDAT 1 LAST\r\nx")
        assert [client.reply()[:3] for _ in range(2)] == ["552", "503"]
        client.ask("RSET")
        assert send_mail(client).startswith("250")
    found = Event.objects.filter(kind="refused").order_by("pk").values_list("rule", "recipient")
    named = ", ".join(f"alice+{number}@example.com" for number in range(5))
    assert list(found) == [
        ("syntax", named),
        *[("size.over_limit", f"alice+{number}@example.com") for number in range(3)],
        ("sequence", named),
    ]


# --- behind a load balancer -------------------------------------------------------------------------------------------


@pytest.fixture
def behind(transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any) -> Iterator[Listener]:
    """A listener that takes the PROXY protocol from loopback."""
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_PROXY_NETWORKS = settings.SMTP_RATE_LIMIT_EXEMPT
    with running_listener() as running:
        yield running


V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::9")
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.9")
V2 = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL = V2 + b"\x20\x00\x00\x00"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n", "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 25\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (V2 + b"\x21\x11\x00\x0c" + socket.inet_aton("192.0.2.8") * 2 + struct.pack("!HH", 1, 25), "192.0.2.8"),
        (LOCAL, "127.0.0.1"),
        (V2 + b"\x20\x11\x00\x00", "127.0.0.1"),  # of LOCAL nothing else counts
        (V2 + b"\x21\x00\x00\x00", "127.0.0.1"),
        (V2 + b"\x21\x31\x00\xd8" + b"/".ljust(216, b"\0"), "127.0.0.1"),
        (V2 + b"\x21\x21\x00\x24" + V6 * 2 + struct.pack("!HH", 1, 25), "2001:db8::9"),
        (V2 + b"\x21\x21\x00\x29" + V6 * 2 + struct.pack("!HH", 1, 25) + b"\x04\x00\x02xx", "2001:db8::9"),
        (V2 + b"\x21\x21\x00\x24" + MAPPED * 2 + struct.pack("!HH", 1, 25), "192.0.2.9"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:198.51.100.1 56324 25\r\n", "192.0.2.9"),
    ],
)
def test_the_client_behind_the_proxy_is_the_client(behind: Listener, header: bytes, expected: str) -> None:
    with Client(behind.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
        client.send(header + b"EHLO x\r\n")
        assert client.reply().startswith("220")
        assert client.reply().startswith("250")
        assert send_mail(client).startswith("250")
    assert Message.objects.get().client_address == expected


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"EHLO x\r\n", "unrecognized signature"),
        (b"PROXY TCP4 nonsense\r\n", "address malformed"),
        (b"PROXY TCP4 192.0.2.7\r\n", "malformed PROXY header"),
        (b"PROXY\r\n", "malformed PROXY header"),
        (b"PROXY " + b"x" * 200 + b"\r\n", "too long"),
        (V2[:7] + b"x" * 9, "wrong signature"),
        (V2 + b"\x21\x11\x00\x0c\xc0\x00", "ended within its PROXY header"),
        (V2 + b"\x21\x11\x00\x04\xc0\x00\x02\x07", "truncated address"),
        (V2 + b"\x22\x11\x00\x00", "unsupported command"),
        (V2 + b"\x31\x11\x00\x00", "illegal version"),
        (V2 + b"\x21\x51\x00\x00", "unsupported family"),
        (V2 + b"\x21\x11\xff\xff", "a PROXY header of 65535 octets"),
        (V2 + b"\x20\x00\xff\xff", "a PROXY header of 65535 octets"),
    ],
)
def test_without_its_header_a_proxy_is_not_talked_to(behind: Listener, header: bytes, reason: str) -> None:
    with Client(behind.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
        client.send(header)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()
    until(lambda: Event.objects.filter(rule="proxy_header").exists())
    assert reason in Event.objects.get().summary


def test_a_balancers_health_checks_have_no_rate(behind: Listener, settings: Any) -> None:
    behind.gate.limits.is_exempt = lambda client_address: False  # type: ignore[method-assign]
    for _ in range(2 * settings.SMTP_RATE_LIMIT_CONNECTIONS):
        with Client(behind.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
            client.send(LOCAL)
            assert client.reply().startswith("220")


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", V2 + b"\x21\x31\x00\xd8" + b"/".ljust(216, b"\0")])
def test_a_client_whom_its_proxy_does_not_name_is_nobody_we_know(
    behind: Listener, settings: Any, header: bytes
) -> None:
    settings.SMTP_TRUSTED_NETWORKS = settings.SMTP_RATE_LIMIT_EXEMPT  # loopback, as the balancer
    for _ in range(settings.SMTP_RATE_LIMIT_CONNECTIONS):
        with Client(behind.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
            client.send(header)
            assert client.reply().startswith("220")
            assert "AUTH" not in client.ask("EHLO x")
            client.ask("MAIL FROM:<a@b.example>")
            assert client.ask("RCPT TO:<a@foreign.example>").startswith("550")
    with Client(behind.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
        client.send(header)
        assert client.reply().startswith("421 4.7.0")
    with Client(behind.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
        client.send(LOCAL)  # loopback itself is what it was
        assert client.reply().startswith("220")
        assert "AUTH" in client.ask("EHLO x")


def test_more_connections_without_their_header_than_are_waited_for_are_closed(
    behind: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_HEADERS", 1)
    port = behind.ports[0]  # type: ignore[attr-defined]
    with Client(port, greeting=False) as waiting:
        until(lambda: len(behind._doors[0]._entering) == 1)
        with Client(port, greeting=False) as client:
            assert client.is_closed()
        until(lambda: Event.objects.filter(rule="proxy_headers").exists())
        waiting.send(b"PROXY UNKNOWN\r\n")
        assert waiting.reply().startswith("220")


def test_a_proxy_header_from_elsewhere_is_just_a_wrong_command(listener: Listener) -> None:
    with connect(listener) as client:
        assert client.ask("PROXY TCP4 192.0.2.7 198.51.100.1 56324 25").startswith("500 5.5.1")


def test_what_a_refused_mail_or_rcpt_named_is_found_by_it(listener: Listener) -> None:
    with connect(listener) as client:
        for command in (
            "EHLO x", "MAIL FROM:<big@c.example> SIZE=99999999999", "MAIL FROM:<p@c.example> FOO=1",
            "MAIL FROM:<ok@c.example>", "RCPT TO:<alice@example.com> FOO=1", "RCPT TO:<us..er@example.com>",
            "RCPT nonsense",
        ):  # fmt: skip
            client.ask(command)
        client.ask("RSET")
        assert send_mail(client).startswith("250")
    found = Event.objects.filter(kind="refused").order_by("pk").values_list("sender", "recipient")
    assert list(found) == [
        ("big@c.example", ""), ("p@c.example", ""), ("ok@c.example", "alice@example.com"),
        ("ok@c.example", "us..er@example.com"), ("ok@c.example", ""),
    ]  # fmt: skip


def test_the_event_has_the_reply_as_the_client_read_it(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        replies = []
        for parameter in ("", " SMTPUTF8"):
            client.ask(f"MAIL FROM:<a@b.example>{parameter}")
            client.send("RCPT TO:<jörg@example.com>\r\n".encode())
            replies.append(client.reply())
            client.ask("RSET")
        assert send_mail(client).startswith("250")
    assert replies[1] == "550 5.1.1 <jörg@example.com> is unknown here"  # RFC 6531 §3.7.4.1
    events = Event.objects.filter(kind="refused").order_by("pk").values_list("reply", flat=True)
    assert list(events) == replies


def test_one_mailbox_in_two_spellings_gets_one_copy(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        for spelling in ("alice@example.com", "ALICE@Example.com", "alice+a@example.com", "Alice+A@example.com"):
            assert client.ask(f"RCPT TO:<{spelling}>").startswith("250 2.1.5")
        client.ask("DATA")
        client.send(MAIL + b".\r\n")
        assert client.reply().startswith("250")
    assert Message.objects.get().recipients == ["alice@example.com", "alice+a@example.com"]


def test_a_literal_of_the_address_that_the_client_connected_to_is_this_host(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        assert client.ask("RCPT TO:<alice@[127.0.0.1]>").startswith("550 5.")
        assert client.ask("RCPT TO:<postmaster@[127.0.0.2]>").startswith("550 5.7.1 Relaying")
        User.objects.create_superuser("root", "root@example.com", "x")
        assert client.ask("RCPT TO:<postmaster@[127.0.0.1]>").startswith("250 2.1.5")
