"""The bounded scan of a header section (RFC 5322 §2.2)."""

from __future__ import annotations

import pytest

from mailflow.message import headers


def test_the_facts_of_an_ordinary_message_are_read() -> None:
    facts = headers.scan(
        b"Received: from a\r\n\tby b\r\nreceived: from c\r\nReceived-SPF: pass\r\nSUBJECT :  one\r\n two\r\n"
        b"From: =?utf-8?q?Jos=C3=A9?= <j@x.example>\r\nDate: today\r\nMessage-ID: <1@x>\r\nSubject: second\r\n\r\n"
        b"Received: in the body\r\n"
    )
    assert facts == headers.HeaderFacts(2, "one two", "José <j@x.example>", "<1@x>", has_date=True)


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\nSubject: body\r\n", b"Resent-Date: x\r\nX-Subject: y\r\n\r\n"])
def test_what_is_not_there_is_empty(content: bytes) -> None:
    assert headers.scan(content) == headers.HeaderFacts(0, "", "", "", has_date=False)


def test_a_section_without_an_end_is_read_to_the_end_of_the_content() -> None:
    assert headers.scan(b"X: y\r\nSubject: last").subject == "last"


def test_received_fields_are_counted_behind_what_is_scanned() -> None:
    filler = b"X-Filler: " + b"x" * 68 + b"\r\n"
    content = (
        filler * (2 * headers.MAX_SCANNED_OCTETS // len(filler)) + b"Received: x\r\n" * 60 + b"Subject: far\r\n\r\n"
    )
    facts = headers.scan(content)
    assert (facts.received_count, facts.subject) == (60, "")


def test_an_endless_field_is_cut() -> None:
    assert len(headers.scan(b"Subject: a" + b"\r\n b" * 100_000).subject) <= headers.MAX_DECODED_OCTETS
