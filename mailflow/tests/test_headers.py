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
    assert facts == headers.HeaderFacts(2, "one two", "José <j@x.example>", "<1@x>", has_message_id=True, has_date=True)


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\nSubject: body\r\n", b"Resent-Date: x\r\nX-Subject: y\r\n\r\n"])
def test_what_is_not_there_is_empty(content: bytes) -> None:
    assert headers.scan(content) == headers.HeaderFacts(0, "", "", "", has_message_id=False, has_date=False)


def test_a_section_without_an_end_is_read_to_the_end_of_the_content() -> None:
    assert headers.scan(b"X: y\r\nSubject: last").subject == "last"


def test_fields_are_found_behind_thousands_of_addresses() -> None:
    addresses = b",\r\n ".join(b"somebody%d@example.com" % number for number in range(10_000))
    last = b"Date: x\r\nMessage-ID: <1@x>\r\nSubject: far\r\n\r\n"
    facts = headers.scan(b"To: " + addresses + b"\r\n" + b"Received: x\r\n" * 60 + last)
    assert (facts.received_count, facts.subject, facts.message_id) == (60, "far", "<1@x>")
    assert facts.has_date and facts.has_message_id


def test_a_section_too_long_to_be_scanned_may_have_a_date() -> None:
    filler = b"X-Filler: " + b"x" * 68 + b"\r\n"
    facts = headers.scan(filler * (1 + headers.MAX_SCANNED_OCTETS // len(filler)) + b"Date: x\r\n\r\n")
    assert facts.has_date and facts.has_message_id and facts.message_id == ""


def test_a_blank_before_the_colon_hides_no_received_field() -> None:
    assert headers.scan(b"Received : x\r\nRECEIVED\t: x\r\nReceived: x\r\nReceived-SPF: x\r\n\r\n").received_count == 3


def test_an_endless_field_is_cut() -> None:
    assert len(headers.scan(b"Subject: a" + b"\r\n b" * 100_000).subject) <= headers.MAX_DECODED_OCTETS


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Příliš žluťoučký kůň".encode(), "Příliš žluťoučký kůň"),  # RFC 6532 §3.2
        ("用户 <用户@例え.jp>".encode(), "用户 <用户@例え.jp>"),
        ("例え =?utf-8?q?=C5=BDofie?= =?utf-8?q?_N.?= <ž@例え.jp>".encode(), "例え Žofie N. <ž@例え.jp>"),
        (b"=?utf-8?q?=E4=BE?= =?utf-8?q?=8B?= \\u4f8b", "例 \\u4f8b"),  # one character in two words; no escape
        ("=?utf-8?q?ž?=".encode(), "=?utf-8?q?ž?="),  # no encoded word: these are ASCII
        (b"=?x-unknown?q?abc?= =?utf-8?b?!!!?=", "abc"),
        (b"Gr\xf6\xdfe =?iso-8859-1?q?=DF?=", "Gr\ufffd\ufffde ß"),
        (b"\xe4\xbe\x8b\xed\xa0\x80\xff\xc0\xaf", "例" + "\ufffd" * 6),  # surrogates and overlong forms are no UTF-8
        ("a\u202eb\u200b".encode(), "a\ufffdb\ufffd"),
    ],
)
def test_a_value_in_any_encoding_is_read_as_far_as_it_can_be(value: bytes, text: str) -> None:
    assert headers.decode_text(value) == text
    facts = headers.scan(b"Subject: " + value + b"\r\nFrom: " + value + b"\r\n\r\n")
    assert facts.subject == facts.header_from == text


@pytest.mark.parametrize("pad", range(4))
def test_a_long_value_is_cut_between_characters(pad: int) -> None:
    value = "x" * pad + "例" * headers.MAX_DECODED_OCTETS
    assert headers.decode_text(value.encode()) == value[: (headers.MAX_DECODED_OCTETS - pad) // 3 + pad]
    assert "\ufffd" not in headers.scan(f"Subject: {value}\r\n\r\n".encode()).subject


def test_thousands_of_halves_of_encoded_words_cost_nothing_much() -> None:
    for piece in ("=?utf-8?q?", "=?a?q?b?= ", "=?", "?=", "=?a?b?=?="):
        subject = headers.scan(b"Subject: " + piece.encode() * 100_000 + b"\r\n\r\n").subject
        assert len(subject) <= headers.MAX_DECODED_OCTETS
