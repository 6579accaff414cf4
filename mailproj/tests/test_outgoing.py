"""What a client does not take of an answer."""

from __future__ import annotations

import socket

import pytest

from mailproj.outgoing import AT_ONCE, KEPT_IN_MEMORY, PIECE, Outgoing


@pytest.mark.parametrize("octets", [0, 1, AT_ONCE, KEPT_IN_MEMORY, 40 * PIECE])
@pytest.mark.parametrize("pieces", [1, 7])
def test_it_comes_whole_and_in_order_and_little_of_it_stays_in_memory(octets: int, pieces: int) -> None:
    whole = bytes(index % 251 for index in range(octets))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outgoing = Outgoing(ours)
        step = max(1, octets // pieces)
        for start in range(0, octets, step):
            outgoing.sendall(whole[start : start + step])
        is_taken = outgoing.finish()
        assert is_taken == (outgoing.kept == 0)
        assert len(outgoing._octets) <= KEPT_IN_MEMORY
        theirs.setblocking(False)
        found = bytearray()
        while len(found) < octets:
            if not is_taken:
                is_taken = outgoing.go_on()
            found += theirs.recv(1 << 20)
        assert bytes(found) == whole
        assert is_taken or outgoing.go_on()


def test_what_is_expected_before_the_answer_goes_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Outgoing(ours).send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert theirs.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
