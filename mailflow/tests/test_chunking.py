"""BDAT over a real socket (RFC 3030): any split, failures in the middle, binary content; and bare line ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import User
from mailflow import content
from mailflow.handoff import MemoryHandoff
from mailflow.listener.server import Listener
from mailflow.models import Event, Message
from mailflow.tests.test_listener import MAIL, connect, send_mail
from mailflow.tests.wire import Client, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)


def begin(client: Client, parameters: str = "") -> None:
    client.ask("EHLO x")
    assert client.ask(f"MAIL FROM:<a@b.example>{parameters}").startswith("250")
    assert client.ask("RCPT TO:<alice@example.com>").startswith("250")


def chunk(octets: bytes, *, last: bool = False) -> bytes:
    return f"BDAT {len(octets)}{' LAST' if last else ''}\r\n".encode() + octets


def stored() -> bytes:
    return content.read(Message.objects.get().pk)


def test_chunks_are_one_message(listener: Listener) -> None:
    with connect(listener) as client:
        assert "CHUNKING" in client.ask("EHLO x")
        begin(client)
        client.send(chunk(MAIL[:10]))
        assert client.reply() == "250 2.0.0 Chunk received, 10 octets so far"
        client.send(chunk(MAIL[10:], last=True))
        assert client.reply().startswith("250 2.0.0 OK queued as msg_")
        assert client.ask("NOOP").startswith("250")
    assert stored().endswith(b"\r\n" + MAIL)


def test_the_last_chunk_may_be_empty_and_the_message_too(listener: Listener) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(chunk(MAIL) + b"BDAT 0 LAST\r\n")
        assert [client.reply()[:3] for _ in range(2)] == ["250", "250"]
        begin(client)
        assert client.ask("BDAT 0 LAST").startswith("250 2.0.0 OK queued")
    assert Message.objects.count() == 2


def test_dots_and_ends_of_data_are_content_within_a_chunk(listener: Listener) -> None:
    octets = MAIL + b".\r\n..\r\n\r\n.\r\nMAIL FROM:<smuggled@b.example>\r\n"
    with connect(listener) as client:
        begin(client)
        client.send(chunk(octets, last=True))
        assert client.reply().startswith("250")
    assert stored().endswith(octets)


@given(cuts=st.lists(st.integers(0, 400), max_size=12), packets=st.lists(st.integers(1, 500), max_size=8))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_split_into_chunks_and_packets_is_the_same_message(
    listener: Listener, cuts: list[int], packets: list[int]
) -> None:
    octets = MAIL + b"".join(b"line %d\r\n.\r\n" % number for number in range(20))
    edges = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    pieces = [octets[start:end] for start, end in pairwise(edges)]
    wire = b"".join(chunk(piece, last=place == len(pieces) - 1) for place, piece in enumerate(pieces))
    with connect(listener) as client:
        begin(client)
        for size in packets:
            client.send(wire[:size])
            wire = wire[size:]
        client.send(wire)
        replies = [client.reply() for _ in pieces]
        assert all(reply.startswith("250 2.0.0") for reply in replies)
    message_id = replies[-1].rpartition(" ")[2]
    assert content.read(message_id).endswith(b"\r\n" + octets)


def test_a_chunk_without_recipient_is_read_before_it_is_refused(listener: Listener) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        client.send(chunk(b"QUIT\r\nQUIT\r\n") + b"NOOP\r\n")
        assert [client.reply()[:9] for _ in range(2)] == ["503 5.5.1", "250 2.0.0"]
        client.ask("MAIL FROM:<a@b.example>")
        assert client.ask("RCPT TO:<nobody@example.com>").startswith("550")
        client.send(chunk(b"QUIT\r\n") + chunk(b"QUIT\r\n", last=True) + b"NOOP\r\n")
        assert [client.reply()[:9] for _ in range(3)] == ["554 5.5.1", "503 5.5.1", "250 2.0.0"]
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        (chunk(b"Subject: first half"), "554"),
        (b"BDAT 1O\r\n", "501"),
        (b"BDAT \xff\r\n", "501"),
        (b"BDAT " + b"1" * 600 + b"\r\n", "500"),
        (b"BDAT " + b"1" * 20_000 + b"\r\n", "500"),
        (b"BDAT 0\n", "500"),
        (b"bdat\n", "500"),
    ],
)
def test_behind_a_refused_chunk_nothing_is_taken_until_rset(listener: Listener, refused: bytes, code: str) -> None:
    with connect(listener) as client:
        client.ask("EHLO x")
        assert client.ask("MAIL FROM:<a@b.example>").startswith("250")
        assert client.ask("RCPT TO:<nobody@example.com>").startswith("550")
        client.send(refused)
        assert client.reply().startswith(code)
        for command in ("RCPT TO:<alice@example.com>", "DATA", "MAIL FROM:<a@b.example>"):
            assert client.ask(command).startswith("503 5.5.1")
        client.send(chunk(MAIL, last=True))
        assert client.reply().startswith("503 5.5.1")
        client.ask("RSET")
        begin(client)
        client.send(chunk(MAIL, last=True))
        assert client.reply().startswith("250")
    assert stored().endswith(MAIL)


def test_a_chunk_refused_in_the_middle_takes_the_ones_before_it_along(listener: Listener) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(chunk(MAIL) + b"BDAT x\r\n" + chunk(b"", last=True))
        assert [client.reply()[:9] for _ in range(3)] == ["250 2.0.0", "501 5.5.4", "503 5.5.1"]
        assert listener.rooms.open == 0
    assert not Message.objects.exists()


def test_after_a_chunk_that_is_too_large_only_rset_helps(listener: Listener) -> None:
    listener.max_message_octets = 1000
    with connect(listener) as client:
        begin(client)
        client.send(chunk(b"x" * 1500) + chunk(MAIL, last=True))
        assert [client.reply()[:9] for _ in range(2)] == ["552 5.3.4", "503 5.5.1"]
        assert client.ask("DATA").startswith("503")
        assert client.ask("RSET").startswith("250")
        begin(client)
        client.send(chunk(MAIL, last=True))
        assert client.reply().startswith("250")
    assert Message.objects.count() == 1
    assert listener.rooms.open == 0


def test_rset_between_chunks_forgets_them(listener: Listener) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(chunk(b"Subject: forgotten\r\n"))
        client.reply()
        client.ask("RSET")
        begin(client)
        client.send(chunk(MAIL, last=True))
        assert client.reply().startswith("250")
    assert b"forgotten" not in stored()


def test_data_rcpt_and_mail_have_no_place_between_chunks(listener: Listener) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(chunk(MAIL))
        client.reply()
        for command in ("DATA", "RCPT TO:<alice+1@example.com>", "MAIL FROM:<a@b.example>"):
            assert client.ask(command).startswith("503 5.5.1")
        assert client.ask("BDAT 0 LAST").startswith("250")


@pytest.mark.parametrize("argument", ["", "x", "-1", "1 FIRST", "1.5", "12345678901234567890", "1 LAST LAST"])
def test_a_chunk_of_no_size_is_a_syntax_error(listener: Listener, argument: str) -> None:
    with connect(listener) as client:
        begin(client)
        assert client.ask(f"BDAT {argument}").startswith("501 5.5.4")
        assert client.ask("NOOP").startswith("250")


def test_a_peer_that_leaves_between_chunks_leaves_nothing_behind(listener: Listener) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(chunk(MAIL))
        client.reply()
    until(lambda: listener.open_connections == 0 and listener.rooms.open == 0)
    assert not Message.objects.exists()


def test_large_chunks_go_through_a_file_bit_for_bit(listener: Listener) -> None:
    octets = MAIL + b"".join(b"%090d\r\n" % number for number in range(30_000))
    with connect(listener) as client:
        begin(client)
        third = len(octets) // 3 + 1
        for start in range(0, len(octets), third):
            client.send(chunk(octets[start : start + third], last=start + third >= len(octets)))
            assert client.reply().startswith("250")
    assert stored().endswith(octets)


# --- binary content, and line ends ------------------------------------------------------------------------------------

BINARY = b"Subject: b\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\x01\r\xff\n\r\r\n.\r\n"


def test_binary_content_comes_by_bdat_alone_and_is_kept_as_it_is(listener: Listener) -> None:
    with connect(listener) as client:
        assert "BINARYMIME" in client.ask("EHLO x")
        begin(client, " BODY=BINARYMIME")
        assert client.ask("DATA").startswith("503 5.5.1")
        client.send(chunk(BINARY, last=True))
        assert client.reply().startswith("250")
    assert stored().endswith(BINARY)
    assert Message.objects.get().body_type == "BINARYMIME"


@pytest.mark.parametrize("size", [0, 1 << 21])
def test_a_bare_line_end_is_refused_in_chunks_as_in_data(listener: Listener, size: int) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(chunk(MAIL + b"x" * size + b"\n") + chunk(b"more\r\n", last=True))
        assert [client.reply()[:9] for _ in range(2)] == ["250 2.0.0", "554 5.6.0"]
        assert send_mail(client).startswith("250")  # its commit carries the note along
    assert Event.objects.get(kind="refused").rule == "bare_line_end"


def test_a_line_end_cut_in_two_by_chunks_is_whole(listener: Listener) -> None:
    with connect(listener) as client:
        begin(client)
        client.send(chunk(MAIL[:-1]) + chunk(MAIL[-1:] + b"x\r") + chunk(b"\n", last=True))
        assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "250"]


@pytest.fixture
def mending(transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any) -> Iterator[Listener]:
    """A listener that makes bare line ends whole."""
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_BARE_LINE_ENDS = "normalise"
    with running_listener() as running:
        yield running


@pytest.mark.parametrize("size", [0, 1 << 21])
def test_by_setting_bare_line_ends_are_made_whole_and_still_end_nothing(mending: Listener, size: int) -> None:
    lines = b"x" * size + b"a\nb\rc\r\n" + (b"y" * 78 + b"\r\n") * (size // 80)
    with connect(mending) as client:
        assert send_mail(client, MAIL + lines + b"\n.\nMAIL FROM:<smuggled@b.example>\r\n").startswith("250")
        begin(client, " BODY=BINARYMIME")
        client.send(chunk(BINARY, last=True))
        assert client.reply().startswith("250")
    first, binary = Message.objects.order_by("pk")
    assert content.read(first.pk).endswith(
        lines.replace(b"a\nb\rc", b"a\r\nb\r\nc") + b"\r\n.\r\nMAIL FROM:<smuggled@b.example>\r\n"
    )
    assert content.read(binary.pk).endswith(BINARY)
