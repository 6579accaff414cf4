from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue.transports.replies import MalformedReply, PeerReply, ReplyReader


def read(octets: bytes, cuts: list[int] | None = None) -> list[PeerReply]:
    """Read all replies from octets that arrive in pieces cut at these places."""
    reader = ReplyReader()
    found = []
    places = [0, *sorted({cut % (len(octets) + 1) for cut in cuts or []}), len(octets)]
    for start, end in itertools.pairwise(places):
        reader.feed(octets[start:end])
        while (reply := reader.take()) is not None:
            found.append(reply)
    return found


def test_replies_are_read_one_by_one() -> None:
    found = read(b"250-peer\r\n250-SIZE 100\r\n250 HELP\r\n354\r\n550 5.1.1 no\r\n")
    assert found == [PeerReply(250, ("peer", "SIZE 100", "HELP")), PeerReply(354, ("",)), PeerReply(550, ("5.1.1 no",))]


@given(st.lists(st.integers(min_value=0), max_size=20))
def test_it_does_not_matter_how_the_octets_are_cut(cuts: list[int]) -> None:
    octets = b"250-peer\r\n250 ok\r\n250 2.1.0 ok\r\n354 go\r\n"
    assert read(octets, cuts) == read(octets)


@given(st.binary(max_size=200))
def test_any_octets_are_a_reply_or_malformed(octets: bytes) -> None:
    try:
        found = read(octets)
    except MalformedReply:
        return
    assert all(reply.text.isprintable() for reply in found)


def test_there_are_limits_to_lines_and_their_number() -> None:
    assert len(read(b"250-x\r\n" * 127 + b"250 x\r\n")[0].lines) == 128
    with pytest.raises(MalformedReply):
        read(b"250-x\r\n" * 128 + b"250 x\r\n")
    assert read(b"250 " + b"x" * 2042 + b"\r\n")
    for octets in (b"250 " + b"x" * 2043 + b"\r\n", b"x" * 2048):
        with pytest.raises(MalformedReply):
            read(octets)


def test_the_text_of_several_lines_keeps_the_enhanced_code_once() -> None:
    assert read(b"550-5.7.1 first\r\n550-5.7.1 second\r\n550 third\r\n")[0].text == "5.7.1 first second third"
