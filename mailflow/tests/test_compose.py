"""Composing: whatever the parts hold, the message is well-formed and says what they say."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.names import Address
from mailflow import compose
from mailflow.compose import Draft, InvalidPart, Named, parse_named

DATE = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
ALICE, BOB = Named(Address("alice", "example.com")), Named(Address("bob", "example.org"))
PLAIN = Draft(ALICE, [BOB], "Hello", text="Hello Bob")


def composed(draft: Draft) -> bytes:
    return compose.compose(draft, message_id="<1@example.com>", date=DATE)


def parsed(draft: Draft) -> EmailMessage:
    return message_from_bytes(composed(draft), policy=policy.default)


def assert_well_formed(octets: bytes) -> None:
    assert octets.isascii()
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    header_section = octets.split(b"\r\n\r\n")[0]
    assert all(line.strip() for line in header_section.split(b"\r\n"))


def test_text_alone_is_one_part() -> None:
    message = parsed(PLAIN)
    assert (message["From"], message["To"], message["Subject"]) == ("alice@example.com", "bob@example.org", "Hello")
    assert message["Message-ID"] == "<1@example.com>" and message["Date"].datetime == DATE
    assert message.get_content_type() == "text/plain" and message.get_content() == "Hello Bob\r\n"


def test_text_and_html_are_alternatives_the_richest_last() -> None:
    message = parsed(replace(PLAIN, html="<p>Ahoj Bobe, příteli</p>"))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert "příteli" in message.get_body(["html"]).get_content()  # type: ignore[union-attr]


def test_html_alone_is_html() -> None:
    assert parsed(replace(PLAIN, text=None, html="<p>Hi</p>")).get_content_type() == "text/html"


def test_names_and_subjects_may_be_in_any_script() -> None:
    draft = replace(
        PLAIN, sender=parse_named("Žofie Nováková <alice@example.com>"), subject="Příliš žluťoučký kůň " * 9
    )
    message = parsed(draft)
    assert message["From"].addresses[0].display_name == "Žofie Nováková"
    assert message["Subject"].strip() == draft.subject.strip()


@pytest.mark.parametrize("name", ["Smith, John", 'John "Jack" Smith', "a\\b", "Dr. Who", "x@y"])
def test_names_are_quoted_where_they_must_be(name: str) -> None:
    assert parsed(replace(PLAIN, to=[Named(BOB.address, name)]))["To"].addresses[0].display_name == name


def test_a_thousand_recipients_are_written_in_no_time_and_all_named() -> None:
    many = [Named(Address(f"user{number}", "example.org")) for number in range(1000)]
    octets = composed(replace(PLAIN, to=many))
    assert_well_formed(octets)
    assert octets.count(b"@example.org") == 1000


def test_further_headers_are_kept_in_order() -> None:
    message = parsed(replace(PLAIN, headers=[("X-Priority", "1"), ("X-Empty", ""), ("List-Id", "<a.example.com>")]))
    assert message["X-Priority"] == "1" and message["X-Empty"] == "" and message["List-Id"] == "<a.example.com>"


def test_a_long_line_of_the_body_is_encoded() -> None:
    draft = replace(PLAIN, text="x" * 5000)
    assert_well_formed(composed(draft))
    assert parsed(draft).get_content().rstrip("\r\n") == "x" * 5000


@given(
    subject=st.text(max_size=300), name=st.text(max_size=50), text=st.text(max_size=2000), html=st.text(max_size=300),
    value=st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"]), max_size=1500),
)  # fmt: skip
def test_whatever_passes_the_checks_makes_a_well_formed_message(
    subject: str, name: str, text: str, html: str, value: str
) -> None:
    try:
        for header in (subject, name, value):
            compose.check_header_text(header)
        for body in (text, html):
            compose.check_text(body)
    except InvalidPart:
        return
    to = [Named(BOB.address, name.strip())]
    assert_well_formed(composed(Draft(ALICE, to, subject, text=text, html=html, headers=[("X-Value", value)])))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\r\nBcc: x@example.com", "CR or LF"), ("a\nb", "CR or LF"), ("a\rb", "CR or LF"), ("a\0b", "control"),
        ("a\x85b", "control"), ("a\u2028b", "control"), ("a\x0bb", "control"), ("\ud800", "surrogate"),
        ("x" * 901, "space"), ("x " * 6000, "at most"),
    ],
)  # fmt: skip
def test_what_would_break_a_header_is_refused(value: str, words: str) -> None:
    with pytest.raises(InvalidPart, match=words):
        compose.check_header_text(value)


@pytest.mark.parametrize(
    "name",
    ["DKIM-Signature", "received", "Return-Path", "Message-ID", "Content-Type", "ARC-Seal", "Resent-To", "Sender"],
)
def test_headers_of_the_server_are_not_the_clients(name: str) -> None:
    with pytest.raises(InvalidPart, match="server"):
        compose.check_header_name(name)


@pytest.mark.parametrize("name", ["", "X Y", "X:", "Ž", "X\r\nY", "x" * 77])
def test_what_is_no_header_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidPart, match="header name"):
        compose.check_header_name(name)


@pytest.mark.parametrize("name", ["From", "to", "BCC", "Subject"])
def test_headers_with_a_field_of_their_own_point_to_it(name: str) -> None:
    with pytest.raises(InvalidPart, match="give it in the field"):
        compose.check_header_name(name)


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("bob@example.org", "", "bob@example.org"),
        (" Bob <bob@Example.org> ", "Bob", "bob@example.org"),
        ('"Smith, Bob" <bob@example.org>', "Smith, Bob", "bob@example.org"),
        ("<bob@example.org>", "", "bob@example.org"),
    ],
)
def test_addresses_are_read_with_and_without_a_name(text: str, name: str, address: str) -> None:
    found = parse_named(text)
    assert (found.name, str(found.address)) == (name, address)


@pytest.mark.parametrize(
    "text", ["", "bob", "bob@", "a@b.c, d@e.f", "Bob <bob@example.org", "B\nob <bob@example.org>", "<>"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidPart):
        parse_named(text)


def test_an_address_that_ascii_cannot_say_is_written_in_utf8_and_nothing_else_is() -> None:
    draft = replace(
        PLAIN,
        to=[parse_named("Žofie <žofie@例え.jp>"), parse_named("Bob <bob@例え.jp>")],
        subject="Příliš",
        headers=[("Reply-To", '"Ž, Ž" <ž@example.com>, Jörg <j@例え.jp>'), ("X-Word", "kůň")],
        text="kůň",
    )
    head, _, body = composed(draft).partition(b"\r\n\r\n")
    assert b"\r\nTo: =?utf-8?" in head and b"\r\nReply-To: =?utf-8?" in head
    assert "?= <žofie@例え.jp>,\r\n Bob <bob@xn--r8jz45g.jp>\r\n".encode() in head
    assert "?= <ž@example.com>,\r\n =?utf-8?".encode() in head and b"?= <j@xn--r8jz45g.jp>" in head
    others = [line for line in head.split(b"\r\n") if b"<" not in line]
    assert body.isascii() and all(line.isascii() for line in others)


def test_a_message_to_u_labels_alone_is_ascii() -> None:
    draft = replace(PLAIN, sender=parse_named("Ž <a@例え.jp>"), to=[parse_named("用户 <b@παράδειγμα.δοκιμή>")])
    assert_well_formed(composed(draft))


@pytest.mark.parametrize("value", ["Žofie", "ž@", "a@b.example; ž@b.example", "Ž <a@b.example", ",ž"])
def test_a_reply_to_that_is_no_list_of_addresses_is_carried_as_text(value: str) -> None:
    octets = composed(replace(PLAIN, headers=[("Reply-To", value)]))
    assert_well_formed(octets)
    assert message_from_bytes(octets, policy=policy.compat32)["Reply-To"].startswith("=?utf-8?")


def test_the_longest_address_fits_its_line() -> None:
    address = parse_named("Ž" * 200 + " <" + "例" * 21 + "@" + ".".join(["𐌰" * 40] * 3) + ".jp>")
    octets = composed(replace(PLAIN, to=[address] * 3))
    assert max(map(len, octets.split(b"\r\n"))) <= 998
