"""The SMTP dialogue over a real socket (RFC 5321 §4.1, contract §2)."""

from __future__ import annotations

import base64
import socket
from typing import Any

import pytest

from accounts.models import User
from mailflow import content
from mailflow.handoff import MemoryHandoff
from mailflow.listener.server import Listener
from mailflow.models import Event, Message
from mailflow.tests.wire import Client, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)

MAIL = b"Subject: Test\r\nFrom: s@other.example\r\n\r\nHello\r\n"


def connect(listener: Listener) -> Client:
    return Client(listener.ports[0])  # type: ignore[attr-defined]


def send_mail(client: Client, octets: bytes = MAIL, to: str = "alice@example.com") -> str:
    assert client.ask("EHLO peer.example").startswith("250")
    assert client.ask("MAIL FROM:<s@other.example>").startswith("250 2.1.0")
    assert client.ask(f"RCPT TO:<{to}>").startswith("250 2.1.5")
    assert client.ask("DATA").startswith("354 ")
    client.send(octets.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return client.reply()


def plain(username: str, password: str) -> str:
    return base64.b64encode(f"\0{username}\0{password}".encode()).decode()


def test_the_conversation_of_the_reference_works_as_printed(listener: Listener) -> None:
    with connect(listener) as client:
        assert client.greeting.startswith("220 localhost")
        assert client.ask("EHLO test.example.com").startswith("250-localhost")
        assert client.ask("MAIL FROM:<sender@example.com>").startswith("250")
        assert client.ask("RCPT TO:<alice@example.com>").startswith("250")
        assert client.ask("DATA").startswith("354")
        client.send(
            b"Subject: Test Email\r\nFrom: sender@example.com\r\nTo: alice@example.com\r\n\r\nThis is a test email.\r\n"
        )
        assert client.ask(".").startswith("250 2.0.0 OK queued as msg_")
        assert client.ask("QUIT").startswith("221")
        assert client.is_closed()


def test_what_was_answered_250_is_stored_whole_with_one_received_header(listener: Listener) -> None:
    octets = b"Subject: =?utf-8?q?caf=C3=A9?=\r\nMessage-ID: <1@x>\r\n\r\n.\r\n..two\r\n\xff\x00raw 8 bit\r\n"
    with connect(listener) as client:
        answer = send_mail(client, octets)
    message = Message.objects.get()
    assert answer == f"250 2.0.0 OK queued as {message.pk}"
    stored = content.read(message.pk)
    assert stored.endswith(b"\r\n" + octets)
    top = stored[: -len(octets)]
    assert top.count(b"Received:") == 1
    assert message.pk.encode() in top
    assert b"from peer.example ([127.0.0.1])" in top
    assert (message.subject, message.internet_message_id) == ("café", "<1@x>")
    assert (message.reverse_path, message.recipients) == ("s@other.example", ["alice@example.com"])
    assert message.size_octets == len(stored)


def test_acceptance_leaves_one_event_with_all_its_decisions(listener: Listener, memory_handoff: MemoryHandoff) -> None:
    with connect(listener) as client:
        send_mail(client)
    event = Event.objects.get()
    assert event.kind == "accepted"
    assert event.message_id == Message.objects.get().pk == memory_handoff.accepted[0].message_id
    assert [decision["rule"] for decision in event.decisions] == ["reception", "mailbox", "size", "line_ends", "loop"]
    assert memory_handoff.rung


def test_pipelined_commands_are_answered_in_order(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO peer.example")
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<nobody@example.com>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n")
        assert [client.reply()[:3] for _ in range(4)] == ["250", "550", "250", "354"]
        client.send(MAIL + b".\r\nMAIL FROM:<b@other.example>\r\nRSET\r\nNOOP\r\nQUIT\r\n")
        assert [client.reply()[:3] for _ in range(5)] == ["250", "250", "250", "250", "221"]
    assert Message.objects.get().reverse_path == ""


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (["MAIL FROM:<a@b.example>"], "503 5.5.1"),
        (["EHLO x", "RCPT TO:<alice@example.com>"], "503 5.5.1"),
        (["EHLO x", "DATA"], "503 5.5.1"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "DATA"], "554 5.5.1"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "MAIL FROM:<a@b.example>"], "503 5.5.1"),
        (["EHLO x", "MAIL FROM:a@b.example"], "501 5.5.4"),
        (["EHLO x", "MAIL TO:<a@b.example>"], "501 5.5.4"),
        (["EHLO x", "MAIL FROM:<a b@c.example>"], "553 5.1.7"),
        (["EHLO x", "MAIL FROM:<a@b.example> SIZE=abc"], "501 5.5.4"),
        (["EHLO x", "MAIL FROM:<a@b.example> SIZE=999999999"], "552 5.3.4"),
        (["EHLO x", "MAIL FROM:<a@b.example> BODY=9BIT"], "501 5.5.4"),
        (["EHLO x", "MAIL FROM:<a@b.example> FOO=1"], "555 5.5.4"),
        (["HELO x", "MAIL FROM:<a@b.example> SIZE=1"], "555 5.5.4"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<>"], "501 5.1.3"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<nobody@example.com>"], "550 5.1.1"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<someone@foreign.example>"], "550 5.7.1"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<alice@example.com> FOO=1"], "555 5.5.4"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<alice@example.com> NOTIFY=NEVER,DELAY"], "501 5.5.4"),
        (
            ["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<alice@example.com> NOTIFY=NEVER ORCPT=rfc822;x@y"],
            "250 2.1.5",
        ),
        (["EHLO x", "MAIL FROM:<a@b.example> RET=HDRS ENVID=QQ314159"], "250 2.1.0"),
        (["EHLO x", "MAIL FROM:<@relay.example:a@b.example>"], "250 2.1.0"),
        (["EHLO x", 'MAIL FROM:<"quoted part"@b.example>'], "250 2.1.0"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<Alice+tag@EXAMPLE.com>"], "250 2.1.5"),
        (["EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.com>"], "250 2.1.5"),
        (["EHLO"], "501 5.5.4"),
        (["EHLO bad_host!"], "501 5.5.2"),
        (["VRFY alice"], "252 2.5.0"),
        (["EXPN list"], "502 5.5.1"),
        (["STARTTLS"], "502 5.5.1"),
        (["NOSUCH thing"], "500 5.5.1"),
        (["EHLO x", "AUTH CRAM-MD5"], "504 5.5.4"),
        (["EHLO x", "AUTH PLAIN !!!"], "501 5.5.2"),
        (["EHLO x", "AUTH PLAIN " + plain("alice", "wrong")], "535 5.7.8"),
        (["EHLO x", "AUTH PLAIN " + plain("nobody", "wrong")], "535 5.7.8"),
        (["EHLO x", "AUTH PLAIN", "*"], "501 5.7.0"),
        (["EHLO x", "AUTH LOGIN", " YWxpY2U="], "501 5.5.2"),
        (["EHLO x", "AUTH LOGIN", "YWxpY2U=\t"], "501 5.5.2"),
        (["EHLO x", "AUTH LOGIN", "YWxp Y2U="], "501 5.5.2"),
        (["EHLO x", "AUTH PLAIN  " + plain("alice", "correct horse")], "501 5.5.2"),
        (["EHLO x", "AUTH PLAIN " + plain("alice", "correct horse")], "235 2.7.0"),
        (["EHLO x", "AUTH LOGIN", "YWxpY2U=", "Y29ycmVjdCBob3JzZQ=="], "235 2.7.0"),
        (["EHLO x", "AUTH LOGIN YWxpY2U=", "Y29ycmVjdCBob3JzZQ=="], "235 2.7.0"),
        (["RSET now"], "501 5.5.4"),
        (["HELP"], "214 2.0.0"),
        (["NOOP whatever"], "250 2.0.0"),
    ],
)
def test_each_command_gets_its_reply(listener: Listener, dialogue: list[str], expected: str) -> None:
    with connect(listener) as client:
        for command in dialogue[:-1]:
            client.ask(command)
        assert client.ask(dialogue[-1]).startswith(expected)
        assert client.ask("NOOP").startswith("250")  # the session goes on


def test_an_authenticated_user_may_send_anywhere_but_only_as_itself(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask("AUTH PLAIN " + plain("alice", "correct horse")).startswith("235")
        assert client.ask("MAIL FROM:<boss@elsewhere.example>").startswith("553 5.7.1")
        assert client.ask("MAIL FROM:<alice@example.com>").startswith("250")
        assert client.ask("RCPT TO:<friend@foreign.example>").startswith("250")
        client.ask("DATA")
        client.send(b"Subject: no date\r\n\r\nx\r\n.\r\n")
        assert client.reply().startswith("250")
    message = Message.objects.get()
    stored = content.read(message.pk)
    assert (message.source, message.protocol) == ("submission", "ESMTPA")
    assert b"\r\nDate: " in stored  # the client left them out
    assert f"Message-ID: <{message.pk}@localhost>".encode() in stored


def test_a_message_id_that_is_empty_gets_no_second_one(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("AUTH PLAIN " + plain("alice", "correct horse"))
        for command in ("MAIL FROM:<alice@example.com>", "RCPT TO:<friend@foreign.example>", "DATA"):
            client.ask(command)
        client.send(b"From: alice@example.com\r\nMessage-ID:\r\n\r\nx\r\n.\r\n")
        assert client.reply().startswith("250")
    assert content.read(Message.objects.get().pk).lower().count(b"\r\nmessage-id:") == 1


def test_three_failed_authentications_end_the_session(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        for _ in range(3):
            assert client.ask("AUTH PLAIN " + plain("alice", "guess")).startswith("535")
        assert client.reply().startswith("421 4.7.0")
        assert client.is_closed()
    until(lambda: Event.objects.filter(stage="auth", rule="conduct", reply__startswith="421 4.7.0").count() == 1)


def test_refusals_leave_events_although_no_message_exists(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("AUTH PLAIN " + plain("alice", "guess"))
        client.ask("MAIL FROM:<a@b.example>")
        client.ask("RCPT TO:<nobody@example.com>")
        client.ask("RCPT TO:<alice@example.com>")
        client.ask("DATA")
        client.send(MAIL + b".\r\n")  # its commit carries the notes along
        client.reply()
    refused = Event.objects.get(kind="refused")
    assert refused.recipient == "nobody@example.com"
    assert refused.reply.startswith("550 5.1.1")
    assert refused.client_address == "127.0.0.1"
    assert refused.message_id == ""
    assert Event.objects.get(kind="auth_failed").actor == "alice"
    assert len(set(Event.objects.values_list("trace_id", flat=True))) == 1


@pytest.mark.parametrize("ending", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n"])
def test_only_crlf_dot_crlf_ends_the_data_and_bare_line_ends_are_refused(listener: Listener, ending: bytes) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        client.ask("RCPT TO:<alice@example.com>")
        client.ask("DATA")
        client.send(b"Subject: x\r\n\r\nfirst" + ending + b"MAIL FROM:<smuggled@b.example>\r\n.\r\n")
        assert client.reply().startswith("554 5.6.0")
        assert client.ask("NOOP").startswith("250")
    assert not Message.objects.exists()


@pytest.mark.parametrize("line", [b"NOOP\n", b"NO\rOP\r\n", b"NOOP \0\r\n", b"MAIL FROM:<a\rb@c.example>\r\n"])
def test_bare_line_ends_and_nul_in_commands_are_refused(listener: Listener, line: bytes) -> None:
    with connect(listener) as client:
        client.send(line)
        assert client.reply().startswith("500 5.5.2")
        assert client.ask("NOOP").startswith("250")


def test_a_line_of_a_megabyte_is_answered_once_and_the_session_goes_on(listener: Listener) -> None:
    with connect(listener) as client:
        client.send(b"NOOP " + b"x" * (1 << 20) + b"\r\n")
        assert client.reply().startswith("500 5.5.2")
        assert client.ask("NOOP").startswith("250")
        assert client.ask("NOOP " + "x" * 600).startswith("500")


def test_an_http_request_is_cut_off(listener: Listener) -> None:
    with connect(listener) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b.example>\r\n")
        assert client.reply().startswith("421 4.7.0")
        assert client.is_closed()


def test_too_many_bad_commands_end_the_session(listener: Listener) -> None:
    with connect(listener) as client:
        client.send(b"FOO\r\n" * 50)
        replies = [client.reply() for _ in range(11)]
        assert replies[-1].startswith("421 4.7.0")
        assert client.is_closed()


def test_endless_noops_end_the_session(listener: Listener) -> None:
    with connect(listener) as client:
        client.send(b"NOOP\r\n" * 150)
        assert "421 4.7.0" in [client.reply()[:9] for _ in range(102)]
        assert client.is_closed()


def test_more_recipients_than_allowed_are_deferred(listener: Listener) -> None:
    listener.max_recipients = 2
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        for tag in ("1", "2"):
            assert client.ask(f"RCPT TO:<alice+{tag}@example.com>").startswith("250")
        assert client.ask("RCPT TO:<alice+3@example.com>").startswith("452 4.5.3")


def test_what_is_too_large_or_no_address_is_told_too(listener: Listener) -> None:
    listener.max_recipients = 1
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask("MAIL FROM:<a@b.example> SIZE=999999999").startswith("552")
        assert client.ask("MAIL FROM:<a@b.example>").startswith("250")
        assert client.ask("RCPT TO:<no domain>").startswith("553")
        assert client.ask("RCPT TO:<alice@example.com>").startswith("250")
        for tag in "12":
            assert client.ask(f"RCPT TO:<alice+{tag}@example.com>").startswith("452")
        client.ask("DATA")
        client.send(MAIL + b".\r\n")  # its commit carries the notes along
        assert client.reply().startswith("250")
    refused = Event.objects.filter(kind="refused").order_by("pk").values_list("reply", flat=True)
    assert [reply[:3] for reply in refused] == ["552", "553", "452"]


def test_a_message_over_the_limit_is_refused_and_the_session_goes_on(listener: Listener) -> None:
    listener.max_message_octets = 100_000
    with connect(listener) as client:
        assert send_mail(
            client, b"Subject: x\r\n\r\n" + b"y" * 70 + b"\r\n" + (b"z" * 998 + b"\r\n") * 1000
        ).startswith("552 5.3.4")
        assert send_mail(client).startswith("250")
    assert Message.objects.count() == 1


def test_a_message_that_went_round_too_often_is_refused(listener: Listener) -> None:
    with connect(listener) as client:
        assert send_mail(client, b"Received: from x\r\n" * 51 + MAIL).startswith("554 5.4.6")
        assert send_mail(client).startswith("250")  # its commit carries the note along
    assert "looping" in Event.objects.get(kind="refused").summary


def test_a_large_message_is_stored_in_chunks_bit_for_bit(listener: Listener) -> None:
    octets = MAIL + b"".join(b"%090d\r\n" % number for number in range(40_000))
    with connect(listener) as client:
        assert send_mail(client, octets).startswith("250")
    assert content.read(Message.objects.get().pk).endswith(octets)


def test_a_line_of_a_thousand_octets_and_more_is_taken(listener: Listener) -> None:
    with connect(listener) as client:
        assert send_mail(client, MAIL + b"x" * 5000 + b"\r\n").startswith("250")


def test_connections_over_the_cap_are_told_so(listener: Listener) -> None:
    listener.max_connections = 1
    with connect(listener) as first:
        with connect(listener) as second:
            assert second.greeting.startswith("421 4.3.2")
            assert second.is_closed()
        assert first.ask("NOOP").startswith("250")


def test_a_half_closed_peer_still_gets_its_answers(listener: Listener) -> None:
    with connect(listener) as client:
        client.send(b"EHLO x\r\nNOOP\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.reply().startswith("250")
        assert client.reply().startswith("250")


def test_a_peer_that_leaves_in_the_middle_of_data_leaves_nothing_behind(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        client.ask("RCPT TO:<alice@example.com>")
        client.ask("DATA")
        client.send(b"Subject: x\r\n\r\nhalf")
    with connect(listener) as other:
        assert send_mail(other).startswith("250")
    assert Message.objects.count() == 1


def test_silence_is_ended_with_421(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_TIMEOUT = 0.2
    with running_listener() as running, connect(running) as client:
        assert client.reply().startswith("421 4.4.2")
        assert client.is_closed()


def test_a_message_without_a_declared_size_that_fits_nobodys_mailbox_is_refused_and_not_reported_later(
    listener: Listener, alice: User
) -> None:
    User.objects.filter(pk=alice.pk).update(quota_mb=1, used_octets=1_000_000)
    with connect(listener) as client:
        for lines, expected in ((1_000, "452 4.2.2"), (20_000, "552 5.2.2")):
            assert send_mail(client, MAIL + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * lines).startswith(expected)
        assert send_mail(client, MAIL).startswith("250")
    until(lambda: Event.objects.filter(kind="refused").count() == 2)
    first = Event.objects.filter(kind="refused").order_by("pk")[0]
    assert (first.stage, first.rule) == ("content", "quota.over") and Message.objects.count() == 1
