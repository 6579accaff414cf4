"""Peers that mean no good, or are merely odd: what they may cost, and that nobody else pays for it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from accounts.models import Organization, User
from mailflow import content, receiver
from mailflow.handoff import MemoryHandoff
from mailflow.limits.rules import WITHIN, Verdict
from mailflow.listener import conduct, connection, intake, session
from mailflow.listener.server import LOOK_SECONDS, Listener
from mailflow.listener.session import Session
from mailflow.models import Event, Message
from mailflow.spool.large import SpoolFile
from mailflow.tests.test_listener import MAIL, connect, plain, send_mail
from mailflow.tests.wire import Client, has_room, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def hasty(transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any) -> Iterator[Listener]:
    """A listener with one place. `hurry` it, and it waits for a client no longer than a moment."""
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    with running_listener() as running:
        running.max_connections = 1
        yield running


def hurry(listener: Listener) -> None:
    listener.timeout = listener.idle_timeout = 0.2


def begin_data(client: Client) -> None:
    client.ask("EHLO x")
    client.ask("MAIL FROM:<a@b.example>")
    client.ask("RCPT TO:<alice@example.com>")
    assert client.ask("DATA").startswith("354")


# --- time -------------------------------------------------------------------------------------------------------------


def test_silence_in_the_middle_of_auth_is_ended(hasty: Listener) -> None:
    with connect(hasty) as client:
        client.ask("EHLO x")
        hurry(hasty)
        assert client.ask("AUTH LOGIN").startswith("334")
        assert client.reply().startswith("421 4.4.2")
        assert client.is_closed()
    until(lambda: has_room(hasty))


def test_a_peer_that_asks_and_never_reads_is_cut_off(hasty: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "MAX_IDLE_COMMANDS", 1_000_000)
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)
    hurry(hasty)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", hasty.ports[0]))  # type: ignore[attr-defined]
        client.settimeout(0.2)
        with suppress(OSError):
            while True:  # until the listener has stopped reading
                client.sendall((b"EHLO " + b"x" * 250 + b"\r\n") * 1000)
        until(lambda: has_room(hasty))


def test_a_trickle_of_data_is_cut_off(listener: Listener) -> None:
    listener.data_grace = 0.2
    with connect(listener) as client:
        begin_data(client)
        trickled = 0
        while not select.select([client.socket], [], [], 0.02)[0]:
            client.send(b"x")
            trickled += 1
            assert trickled < 1000
        assert client.reply().startswith("421 4.4.2")
        assert client.is_closed()


def test_who_sends_steadily_may_take_longer(listener: Listener) -> None:
    block = (b"x" * 78 + b"\r\n") * 100
    with connect(listener) as client:
        began = listener.loop.time()
        begin_data(client)
        client.send(MAIL + block)
        sent = len(MAIL + block)
        until(lambda: arrived(listener) >= sent)
        listener.data_grace = 0.5
        while listener.loop.time() < began + 2:  # a coarse timer looks once a second
            client.send(block)
            sent += len(block)
            until(lambda sent=sent: arrived(listener) >= sent)  # type: ignore[misc]
        client.send(b".\r\n")
        assert client.reply().startswith("250")


def arrived(listener: Listener) -> int:
    """Octets of all messages that are on their way in."""
    sessions = [session for session in list(listener._connections) if isinstance(session, Session)]
    transactions = [session.transaction for session in sessions if session.transaction is not None]
    return sum(transaction.intake.octets for transaction in transactions if transaction.intake is not None)


# --- the time of a session --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["RCPT TO:<alice+{}@example.com>", "RSET", "EHLO x"])
def test_an_envelope_that_takes_too_long_is_cut_off_whatever_is_said_meanwhile(
    listener: Listener, command: str
) -> None:
    listener.envelope_timeout = 0.8
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask("MAIL FROM:<a@b.example>").startswith("250")
        for number in range(100):
            client.send(command.format(number).encode() + b"\r\n")
            reply = client.reply()
            if reply.startswith("421"):
                break
            assert reply.startswith("250")
            select.select([client.socket], [], [], 0.05)
        assert reply.startswith("421 4.4.2")
        assert client.is_closed()
    until(lambda: Event.objects.filter(rule="envelope_timeout").exists())


def only_session(listener: Listener) -> Session:
    (session,) = list(listener._connections)
    assert isinstance(session, Session)
    return session


def test_the_time_of_an_envelope_begins_anew_with_each_message(listener: Listener) -> None:
    with connect(listener) as client:
        session = only_session(listener)
        for _ in range(3):
            session.begin_by = listener.loop.time() + 60  # as if the most of it were over
            assert send_mail(client).startswith("250")
            assert session.begin_by > listener.loop.time() + 100


def test_the_time_of_content_is_no_time_of_the_envelope(listener: Listener) -> None:
    with connect(listener) as client:
        session = only_session(listener)

        def an_hour_of_content_passes() -> None:
            assert session.transaction is not None
            session.transaction.began_at -= 3600
            session.begin_by -= 3600
            assert not select.select([client.socket], [], [], 3 * LOOK_SECONDS)[0]

        begin_data(client)
        an_hour_of_content_passes()
        client.send(b"a bare line end\n\r\n.\r\n")
        assert client.reply().startswith("554")
        assert session.begin_by > listener.loop.time() + 100
        assert send_mail(client).startswith("250")
        client.ask("MAIL FROM:<a@b.example>")
        client.ask("RCPT TO:<alice@example.com>")
        client.send(b"BDAT 200\r\n" + b"x" * 200)
        assert client.reply().startswith("250")
        an_hour_of_content_passes()
        assert client.ask("RSET").startswith("250")
        assert client.ask("NOOP").startswith("250")
        assert session.begin_by > listener.loop.time() + 100


def test_the_idle_make_room_while_the_listener_is_nearly_full(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CROWDED_IDLE_SECONDS", 0.5)
    listener.max_connections = 4
    with connect(listener) as idle, connect(listener) as slow, connect(listener) as sending:
        begin_data(sending)
        slow.ask("EHLO x")
        slow.send(b"MAIL FROM:<a@")
        assert not select.select([idle.socket, slow.socket], [], [], 1.2)[0]  # there is room
        with connect(listener) as fourth:
            for client in (idle, slow):
                assert client.reply().startswith("421 4.3.2")
                assert client.is_closed()
            assert fourth.greeting.startswith("220")
            sending.send(MAIL + b".\r\n")
            assert sending.reply().startswith("250")
    assert Event.objects.filter(rule="crowded").count() >= 2


# --- the end of the input, the end of the service ---------------------------------------------------------------------


def test_a_whole_conversation_in_one_packet_is_answered_to_its_end(listener: Listener) -> None:
    commands = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n"
    with connect(listener) as client:
        client.send(commands + MAIL + b".\r\nNOOP\r\nQUIT\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.reply()[:3] for _ in range(7)] == ["250", "250", "250", "354", "250", "250", "221"]
        assert client.is_closed()
    assert content.read(Message.objects.get().pk).endswith(MAIL)


def test_at_shutdown_a_message_on_its_way_is_taken_and_the_idle_are_sent_home(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_DRAIN_SECONDS = 60
    with ExitStack() as stack:
        running = stack.enter_context(running_listener())
        idle, sending = stack.enter_context(connect(running)), stack.enter_context(connect(running))
        begin_data(sending)
        stopping = threading.Thread(target=_stop, args=[running])
        stopping.start()
        assert idle.reply().startswith("421 4.3.2")
        assert idle.is_closed()
        sending.send(MAIL + b".\r\n")
        assert sending.reply().startswith("250")
        assert sending.reply().startswith("421 4.3.2")
        stopping.join(60)
    assert Message.objects.count() == 1


def test_no_transaction_begins_behind_the_last_one_of_a_listener_that_stops(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_DRAIN_SECONDS = 60
    with running_listener() as running, connect(running) as client:
        begin_data(client)
        stopping = threading.Thread(target=_stop, args=[running])
        stopping.start()
        until(lambda: running.is_stopping)
        client.send(MAIL + b".\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n")
        assert [client.reply()[:9] for _ in range(2)] == ["250 2.0.0", "421 4.3.2"]
        assert client.is_closed()
        client.socket.close()
        stopping.join(60)
    assert Event.objects.get(kind="refused").rule == "shutting_down"


def test_a_sender_that_is_asked_about_while_the_listener_stops_begins_no_transaction(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    settings.SMTP_DRAIN_SECONDS = 60
    answered = threading.Event()

    async def late(*_: object) -> Verdict:
        await asyncio.to_thread(answered.wait)
        return WITHIN

    with running_listener() as running, connect(running) as client:
        client.ask("EHLO x")
        monkeypatch.setattr(running.gate, "message", late)
        client.send(b"MAIL FROM:<a@b.example>\r\n")
        until(lambda: any(session.is_busy for session in list(running._connections)))
        stopping = threading.Thread(target=_stop, args=[running])
        stopping.start()
        until(lambda: running.is_stopping)
        answered.set()
        assert client.reply().startswith("421 4.3.2")
        client.socket.close()
        stopping.join(60)


def test_at_the_end_of_the_drain_data_is_ended_with_421_although_the_client_still_sends(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_DRAIN_SECONDS = 0.1
    with running_listener() as running:
        client = connect(running)
        begin_data(client)
        stopping = threading.Thread(target=_stop, args=[running])
        stopping.start()
        while not select.select([client.socket], [], [], 0)[0]:
            client.send(b"x" * 78 + b"\r\n")
        assert client.reply().startswith("421 4.3.2")
        assert client.is_closed()
        client.socket.close()
        stopping.join(60)
    assert not Message.objects.exists()


def test_a_transaction_under_way_has_the_time_of_the_setting_and_the_idle_hold_nothing_up(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_DRAIN_SECONDS = 120
    with running_listener() as running, connect(running) as silent, connect(running) as sending:
        begin_data(sending)
        stopping = threading.Thread(target=_stop, args=[running])
        began = running.loop.time()
        stopping.start()
        until(lambda: running.is_stopping)
        while running.loop.time() < began + 2.5:  # more than the two seconds of before
            sending.send(b"X-Slow: yes\r\n")
            select.select([], [], [], 0.1)
        sending.send(b"\r\n.\r\n")
        assert [sending.reply()[:3] for _ in range(2)] == ["250", "421"]
        sending.socket.close()
        stopping.join(60)  # `silent` has neither read nor closed
        assert not stopping.is_alive()
        assert running.loop.time() < began + 60
        assert silent.reply().startswith("421")
    assert Message.objects.count() == 1


def test_a_message_that_is_complete_is_answered_although_its_commit_outlasts_the_drain(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_DRAIN_SECONDS = 0.1
    put = receiver.accept_soon

    def late(submission: receiver.Submission, done: Any) -> None:
        done.loop.call_later(0.6, put, submission, done)

    monkeypatch.setattr(receiver, "accept_soon", late)
    with running_listener() as running, connect(running) as client:
        begin_data(client)
        client.send(MAIL + b".\r\n")
        until(lambda: any(session.is_committing for session in list(running._connections)))
        stopping = threading.Thread(target=_stop, args=[running])
        stopping.start()
        assert [client.reply()[:3] for _ in range(2)] == ["250", "421"]
        client.socket.close()
        stopping.join(60)
    assert Message.objects.count() == 1


def _stop(listener: Listener) -> None:
    asyncio.run_coroutine_threadsafe(listener.stop(), listener.loop).result(60)


# --- chatter ----------------------------------------------------------------------------------------------------------


def test_harvesting_addresses_ends_the_session(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        client.send(b"".join(b"RCPT TO:<guess%d@example.com>\r\n" % number for number in range(200)))
        replies = [client.reply()[:9] for _ in range(conduct.MAX_REFUSED_COMMANDS + 1)]
        assert set(replies[:-1]) == {"550 5.1.1"}
        assert replies[-1] == "421 4.7.0"
        assert client.is_closed()


def test_an_honest_list_with_many_dead_addresses_gets_through(listener: Listener) -> None:
    dead = conduct.MAX_REFUSED_COMMANDS - 1
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        client.send(b"".join(b"RCPT TO:<dead%d@example.com>\r\n" % number for number in range(dead)))
        assert {client.reply()[:3] for _ in range(dead)} == {"550"}
        assert client.ask("RCPT TO:<alice@example.com>").startswith("250")
        assert client.ask("DATA").startswith("354")
        client.send(MAIL + b".\r\n")
        assert client.reply().startswith("250")


@pytest.mark.parametrize(
    "chatter",
    [b"EHLO x\r\n", b"MAIL FROM:<a@b.example>\r\nRSET\r\n", b"DATA\r\n", b"RCPT TO:<a\r\n", b"VRFY a\r\n", b"HELP\r\n"],
)
def test_chatter_that_sends_no_mail_ends_the_session(listener: Listener, chatter: bytes) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.send(chatter * 200)
        replies = []
        while reply := client.reply():
            replies.append(reply)
    assert replies[-1].startswith("421 4.7.0")
    assert len(replies) < 300


def test_a_client_that_sends_mail_may_be_as_chatty_as_it_likes(listener: Listener) -> None:
    with connect(listener) as client:
        for _ in range(3):
            client.send(b"NOOP\r\n" * (conduct.MAX_IDLE_COMMANDS - 10))
            assert {client.reply()[:3] for _ in range(conduct.MAX_IDLE_COMMANDS - 10)} == {"250"}
            assert send_mail(client).startswith("250")


def test_a_recipient_named_again_changes_nothing(listener: Listener, memory_handoff: MemoryHandoff) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        for command in ["<alice@example.com> NOTIFY=NEVER", "<alice+1@example.com>", "<alice@example.com>"] * 50:
            assert client.ask(f"RCPT TO:{command}").startswith("250 2.1.5")
        client.ask("DATA")
        client.send(MAIL + b".\r\n")
        assert client.reply().startswith("250")
    recipients = memory_handoff.accepted[0].envelope.recipients
    assert [(str(one.address), one.notify) for one in recipients] == [
        ("alice@example.com", "NEVER"),
        ("alice+1@example.com", ""),
    ]
    rules = [decision["rule"] for decision in Event.objects.get(kind="accepted").decisions]
    assert rules == ["reception", "mailbox", "mailbox", "size", "line_ends", "loop"]


def test_recipients_named_again_without_end_end_the_session(listener: Listener) -> None:
    listener.max_recipients = 3
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        client.send(b"RCPT TO:<alice@example.com>\r\n" * 20)
        assert [client.reply()[:3] for _ in range(9)] == ["250"] * 8 + ["421"]
        assert client.is_closed()


def test_a_list_longer_than_the_limit_is_taken_in_part(listener: Listener) -> None:
    listener.max_recipients = limit = 120
    with connect(listener) as client:
        client.ask("EHLO x")
        client.ask("MAIL FROM:<a@b.example>")
        client.send(b"".join(b"RCPT TO:<alice+%d@example.com>\r\n" % number for number in range(2 * limit)))
        assert [client.reply()[:3] for _ in range(2 * limit)] == ["250"] * limit + ["452"] * limit
        client.ask("DATA")
        client.send(MAIL + b".\r\n")
        assert client.reply().startswith("250")
    assert len(Message.objects.get().recipients) == limit


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("MAIL FROM:<a@b.example> ENVID=+00", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a+0D+0Ab", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=+E9", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a+2Bb+20c", "250 2.1.0"),
        ("RCPT TO:<alice@example.com> ORCPT=rfc822;a+00@b.example", "501 5.5.4"),
        ("RCPT TO:<alice@example.com> ORCPT=rfc822;a+2Bx@b.example", "250 2.1.5"),
    ],
)
def test_what_xtext_hides_must_be_printable(listener: Listener, command: str, expected: str) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        if command.startswith("RCPT"):
            client.ask("MAIL FROM:<a@b.example>")
        assert client.ask(command).startswith(expected)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_what_is_too_much_for_memory_goes_to_files_and_leaves_none(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "SHARED_OCTETS", 0)  # as if a great many were sending: 64 KiB each
    lines = b"".join(b"%076d\r\n" % number for number in range(6000))
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(listener)) for _ in range(5)]
        for client in clients:
            begin_data(client)
            client.send(MAIL + lines)
        until(lambda: arrived(listener) >= 5 * len(lines))
        assert listener.rooms.open == 5
        for client in clients[1:]:
            client.send(b".\r\n")
            assert client.reply().startswith("250")
        clients[0].socket.close()
        until(lambda: listener.rooms.open == 0)
    assert Message.objects.count() == 4
    for message in Message.objects.all():
        assert content.read(message.pk).endswith(MAIL + lines)
        assert message.digest == hashlib.sha256(content.read(message.pk)).hexdigest()
    assert list(listener.rooms.folder.iterdir()) == []


def test_a_large_message_is_refused_whole_where_the_disk_has_no_room(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (b"x" * 78 + b"\r\n") * 20_000

    def full(_file: SpoolFile, _piece: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with connect(listener) as client:
        with monkeypatch.context() as patch:
            patch.setattr(SpoolFile, "append", full)
            assert send_mail(client, MAIL + lines).startswith("452 4.3.1")
        assert send_mail(client, MAIL + lines).startswith("250")
    assert Message.objects.count() == 1
    assert listener.rooms.open == 0


def test_a_large_message_full_of_dots_is_stored_bit_for_bit(listener: Listener) -> None:
    octets = b"Subject: dots\r\n\r\n" + b".\r\n..\r\n.%s\r\n" % (b"x" * 61) * 60_000
    with connect(listener) as client:
        assert send_mail(client, octets).startswith("250")
    assert content.read(Message.objects.get().pk).endswith(b"\r\n" + octets)


# --- accounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_superuser", [False, True])
@pytest.mark.parametrize("path", ["<>", "<alice@example.com>"])
def test_switching_an_organization_off_reaches_open_sessions(
    listener: Listener, alice: User, path: str, is_superuser: bool
) -> None:
    User.objects.filter(pk=alice.pk).update(is_superuser=is_superuser)
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask("AUTH PLAIN " + plain("alice", "correct horse")).startswith("235")
        assert client.ask(f"MAIL FROM:{path}").startswith("250")
        client.ask("RSET")
        Organization.objects.update(is_active=False)
        assert client.ask(f"MAIL FROM:{path}").startswith("550 5.7.1")
    with connect(listener) as other:
        assert send_mail(other).startswith("250")  # its commit carries the note along
    assert "switched off" in Event.objects.get(kind="refused").summary


def test_help_names_what_is_offered(listener: Listener) -> None:
    with connect(listener) as client:
        assert (
            client.ask("HELP") == "214 2.0.0 Commands: AUTH BDAT DATA EHLO ETRN HELO HELP MAIL NOOP QUIT RCPT RSET VRFY"
        )
        listener.auth_enabled = False
        assert "AUTH" not in client.ask("HELP")
