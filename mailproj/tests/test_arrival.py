"""When a request is whole, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproj.arrival import KEPT_IN_MEMORY, MAX_HEAD, Arrival

LARGEST = 1 << 20
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"


def arrived(*pieces: bytes) -> tuple[Arrival, bytes]:
    """Feed all, as a server does until it need not wait; return the arrival and what is behind it."""
    arrival, behind = Arrival(lambda: LARGEST), b""
    for piece in pieces:
        if arrival.is_whole or arrival.is_open:
            behind += piece
        else:
            behind += arrival.feed(piece)
    return arrival, behind


def whole(arrival: Arrival) -> bytes:
    head, body = arrival.taken()
    octets = head + (body.read() if body is not None else b"")
    arrival.close()
    return octets


@given(body=st.binary(max_size=200), behind=st.binary(max_size=40), cuts=st.lists(st.integers(1, 60), max_size=12))
def test_a_request_ends_where_its_length_says_however_it_is_cut(body: bytes, behind: bytes, cuts: list[int]) -> None:
    request = POST + b"content-LENGTH:  %d \r\n\r\n" % len(body) + body
    wire, pieces = request + behind, []
    for cut in [*cuts, len(wire)]:
        pieces.append(wire[:cut])
        wire = wire[cut:]
    arrival, rest = arrived(*[piece for piece in pieces if piece])
    assert arrival.is_whole and not arrival.is_open and arrival.missing == 0
    assert (whole(arrival), rest) == (request, behind)


@pytest.mark.parametrize(
    ("wire", "is_whole", "is_open"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False, False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True, False),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", True, False),
        (b"\r\n\r\n", False, False),
        (b"GET / HTTP/1.0\n\n", True, False),  # the server refuses it
        (POST + b"Content-Length: 0\r\n\r\n", True, False),
        (POST + b"Content-Length: 3\r\n\r\nab", False, False),
        (POST + b"Content-Length: 3\r\n\r\nabc", True, False),
        (POST + b"Content-Length: 1048577\r\n\r\n", False, True),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", False, True),
        (POST + b"Content-Length: -3\r\n\r\n", True, False),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", False, True),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", False, True),
        (POST + b"X-Content-Length: 3\r\n\r\n", True, False),
    ],
)
def test_what_is_waited_for(wire: bytes, is_whole: bool, is_open: bool) -> None:
    arrival, _ = arrived(wire)
    assert (arrival.is_whole, arrival.is_open, arrival.is_too_long) == (is_whole, is_open, False)
    arrival.close()


def test_a_head_without_an_end_is_not_collected_for_ever() -> None:
    arrival, _ = arrived(b"GET / HTTP/1.1\r\n", b"X: " + b"x" * MAX_HEAD)
    assert arrival.is_too_long


def test_a_large_body_is_kept_in_a_file_and_whole() -> None:
    body = bytes(range(256)) * (KEPT_IN_MEMORY // 128)
    arrival, behind = arrived(
        POST + b"Content-Length: %d\r\n\r\n" % len(body),
        *[body[i : i + 999] for i in range(0, len(body), 999)],
        b"next",
    )
    assert arrival.is_whole and behind == b"next"
    _, file = arrival.taken()
    assert file is not None and file.read() == body
    arrival.close()


@pytest.mark.parametrize(
    ("head", "body", "is_wanted"),
    [
        (POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", b"", True),
        (POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", b"a", False),
        (POST + b"Content-Length: 3\r\n\r\n", b"", False),
        (b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", b"", False),
    ],
)
def test_who_waits_for_a_word_before_the_body_hears_it_once(head: bytes, body: bytes, is_wanted: bool) -> None:
    arrival, _ = arrived(head + body)
    assert arrival.wants_continue is is_wanted
    arrival.feed(b"abc"[len(body) :])
    assert b"Expect" not in whole(arrival) or b"HTTP/1.0" in head
