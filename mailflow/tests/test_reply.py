"""Replies as they go on the wire (RFC 5321 §4.2, RFC 2034 §4, RFC 6531 §3.7.4)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.reply import Reply


def test_each_line_of_a_reply_bears_both_codes() -> None:
    assert Reply(250, "1.5", "one\ntwo").encode() == b"250-2.1.5 one\r\n250 2.1.5 two\r\n"
    assert Reply(354, "", "go on").encode() == b"354 go on\r\n"


def test_what_is_beyond_ascii_is_sent_only_where_the_reply_says_that_it_may_be() -> None:
    text = "User not local; please try <jörg@xn--bcher-kva.example>"
    assert Reply(551, "1.6", text).encode().isascii()
    assert Reply(551, "1.6", text, is_utf8=True).encode().decode() == f"551 5.1.6 {text}\r\n"


@given(st.text(), st.booleans())
def test_no_text_makes_a_second_line_or_a_broken_one(text: str, is_utf8: bool) -> None:
    octets = Reply(550, "0.0", text, is_utf8=is_utf8).encode()
    lines = octets.decode().split("\r\n")
    assert lines.pop() == ""
    assert len(lines) == text.count("\n") + 1
    for line in lines:
        assert line.startswith("550") and not any(ord(character) < 0x20 for character in line)
