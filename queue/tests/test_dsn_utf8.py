"""Reports about internationalised mail (RFC 6533), and what ORCPT becomes in them (RFC 3464 §2.3.1)."""

from __future__ import annotations

import email
import quopri
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accounts.names import InvalidName, parse_address
from queue.dsn import compose
from queue.dsn_facts import DsnFacts
from queue.outcome import failed, from_reply
from queue.tests.test_dsn import HOP, assert_7bit, facts, recipient

USER, USER_SHOWN = "用户@xn--r8jz45g.jp", "用户@例え.jp"
HEADER = "From: Žofie <žofie@example.com>\r\nTo: <用户@例え.jp>\r\nSubject: Příliš\r\n".encode()
CONTENT = HEADER + "\r\nŽluťoučký kůň\r\n".encode()


class Part(NamedTuple):
    content_type: str
    transfer_encoding: str
    octets: bytes

    @property
    def text(self) -> str:
        octets = quopri.decodestring(self.octets) if self.transfer_encoding == "quoted-printable" else self.octets
        return octets.decode()


def parts_of(octets: bytes) -> tuple[Any, list[Part]]:
    """Take the report apart without a parser that would look into its parts."""
    head, _, body = octets.partition(b"\r\n\r\n")
    whole = email.message_from_bytes(head + b"\r\n\r\n")
    boundary = str(whole.get_boundary()).encode()
    pieces = body.split(b"--" + boundary)
    assert pieces[0] == b"" and pieces[-1] == b"--\r\n"
    parts = []
    for piece in pieces[1:-1]:
        fields, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        named = email.message_from_bytes(fields + b"\r\n\r\n")
        parts.append(Part(named.get_content_type(), named["Content-Transfer-Encoding"], content.removesuffix(b"\r\n")))
    return whole, parts


def report(given_facts: DsnFacts) -> tuple[Any, list[Part]]:
    whole, parts = parts_of(compose(given_facts))
    assert len(parts) == 3
    return whole, parts


def to_ascii(**changes: Any) -> DsnFacts:
    """A report to an address in ASCII about a recipient who is not."""
    return facts(recipient(address=USER), **{"content": CONTENT, "is_smtputf8": True, **changes})


def to_utf8(**changes: Any) -> DsnFacts:
    return to_ascii(reverse_path="žofie@xn--r8jz45g.jp", **changes)


def fields_of(status: Part) -> list[dict[str, str]]:
    groups = []
    for group in status.text.split("\r\n\r\n"):
        lines = group.strip().replace("\r\n ", " ").split("\r\n")
        groups.append(dict(line.split(": ", 1) for line in lines))
    return groups


def test_a_report_to_ascii_goes_to_any_host_and_says_all_in_utf8_within() -> None:
    assert not to_ascii().needs_smtputf8
    assert_7bit(compose(to_ascii()))
    whole, (text, status, original) = report(to_ascii())
    assert whole["Content-Transfer-Encoding"] == "7bit"
    assert [text.content_type, status.content_type, original.content_type] == [
        "text/plain", "message/global-delivery-status", "message/global-headers",
    ]  # fmt: skip
    assert {part.transfer_encoding for part in (text, status, original)} == {"quoted-printable"}
    assert f"<{USER_SHOWN}>" in text.text
    message, bob = fields_of(status)
    assert message["Reporting-MTA"] == "dns; mx.example.com"
    assert bob["Final-Recipient"] == f"utf-8; {USER_SHOWN}"
    assert (bob["Action"], bob["Status"]) == ("failed", "5.1.1")
    assert original.text.encode() == HEADER


def test_a_report_to_an_address_beyond_ascii_is_internationalised_itself() -> None:
    assert to_utf8().needs_smtputf8
    octets = compose(to_utf8())
    assert "\r\nTo: <žofie@例え.jp>\r\n".encode() in octets
    whole, (_, status, original) = report(to_utf8())
    assert whole["Content-Transfer-Encoding"] == "8bit"
    assert (status.transfer_encoding, original.transfer_encoding) == ("8bit", "8bit")
    assert original.octets == HEADER
    head = octets.partition(b"\r\n\r\n")[0]
    assert [line for line in head.split(b"\r\n") if not line.isascii()] == ["To: <žofie@例え.jp>".encode()]


@pytest.mark.parametrize(("given_facts", "encoding"), [(to_ascii(), "quoted-printable"), (to_utf8(), "8bit")])
def test_the_whole_message_comes_back_where_it_was_asked_for(given_facts: DsnFacts, encoding: str) -> None:
    reverse_path = given_facts.reverse_path
    _, (text, _, original) = report(to_ascii(reverse_path=reverse_path, dsn_return="FULL"))
    assert (original.content_type, original.transfer_encoding) == ("message/global", encoding)
    assert original.text.encode() == CONTENT
    assert "your message are attached" in text.text


@pytest.mark.parametrize("body", [b"\0\r\n", b"bare\nline\r\n", b"x" * 999 + b"\r\n", b"x\r\n" * 400_000])
def test_a_message_that_no_part_can_hold_gives_its_header(body: bytes) -> None:
    _, (_, _, original) = report(to_utf8(content=HEADER + b"\r\n" + body, dsn_return="FULL"))
    assert (original.content_type, original.octets) == ("message/global-headers", HEADER)


def test_a_message_in_ascii_to_a_recipient_beyond_it_comes_back_under_the_usual_types() -> None:
    content = b"Subject: Lunch\r\n\r\nShall we?\r\n"
    for dsn_return, kind in (("", "text/rfc822-headers"), ("FULL", "message/rfc822")):
        _, (_, status, original) = report(to_ascii(content=content, dsn_return=dsn_return))
        assert (status.content_type, original.content_type) == ("message/global-delivery-status", kind)
        assert original.transfer_encoding == "7bit"


def test_a_header_that_is_no_utf8_is_given_back_as_before() -> None:
    head = b"Subject: Gr\xf6\xdfe\r\n"
    for given_facts in (to_ascii(content=head + b"\r\n"), to_utf8(content=head + b"\r\n")):
        _, (_, _, original) = report(given_facts)
        assert (original.content_type, original.transfer_encoding) == ("text/rfc822-headers", "quoted-printable")
        assert quopri.decodestring(original.octets).rstrip() == head.rstrip()


def test_what_was_declared_and_is_ascii_is_reported_as_ever() -> None:
    assert compose(facts(is_smtputf8=True)) == compose(facts())


def test_a_utf8_header_that_was_not_declared_is_reported_as_ever() -> None:
    _, (_, status, original) = report(facts(content=CONTENT))
    assert (status.content_type, original.content_type) == ("message/delivery-status", "text/rfc822-headers")


def test_recipients_in_ascii_keep_their_type_beside_others() -> None:
    _, (_, status, _) = report(facts(recipient(), recipient(address=USER), is_smtputf8=True))
    _, bob, user = fields_of(status)
    assert (bob["Final-Recipient"], user["Final-Recipient"]) == ("rfc822; bob@example.net", f"utf-8; {USER_SHOWN}")


def test_an_answer_in_utf8_is_told_in_utf8_where_the_part_is() -> None:
    outcome = from_reply(550, "5.1.1 Nikdo takový: žluťoučký", transport="smtp", next_hop=HOP)
    _, (_, status, _) = report(facts(recipient(outcome, USER), is_smtputf8=True))
    assert fields_of(status)[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 Nikdo takový: žluťoučký"


def test_a_host_without_smtputf8_is_named_as_the_cause_in_words() -> None:
    words = "the recipient's address holds characters beyond ASCII, which need SMTPUTF8, and the next hop has it not"
    outcome = failed(words, transport="smtp", enhanced_code="5.6.7", next_hop=HOP)
    _, (text, status, _) = report(facts(recipient(outcome, USER), is_smtputf8=True))
    told = " ".join(text.text.split())
    assert words in told and "the other mail system cannot handle such mail" in told
    assert fields_of(status)[1]["Status"] == "5.6.7"


# --- Original-Recipient ---


@pytest.mark.parametrize(
    ("original", "field", "kind"),
    [
        ("rfc822;Bob@Old.example", "rfc822; Bob@Old.example", "message/delivery-status"),
        ("x400;/C=DE/A= /P=x/S=Bob/", "x400; /C=DE/A= /P=x/S=Bob/", "message/delivery-status"),
        ("utf-8;bob@example.net", "utf-8; bob@example.net", "message/delivery-status"),
        (f"utf-8;{USER_SHOWN}", f"utf-8; {USER_SHOWN}", "message/global-delivery-status"),
        ("utf-8;a\\x{41}@b", "utf-8; a\\x{41}@b", "message/delivery-status"),  # not as it should be: unaltered
        ("", None, "message/delivery-status"),
        ("nonsense", None, "message/delivery-status"),
    ],
)
def test_the_original_recipient_is_told(original: str, field: str | None, kind: str) -> None:
    _, (_, status, _) = report(facts(recipient(original_recipient=original)))
    assert status.content_type == kind
    told = fields_of(status)[1]
    assert told.get("Original-Recipient") == field
    assert told["Final-Recipient"] == "rfc822; bob@example.net"
    if field is not None:
        assert next(iter(told)) == "Original-Recipient"  # RFC 3464 §2.3


HOSTILE = "utf-8;a\r\n\r\n--=_x\r\nFinal-Recipient: rfc822; eve@example.com\0\u202e\u2028\ud800"


@example(HOSTILE, "ü", HOSTILE)
@example("utf-8;" + "ž" * 3000, "ž" * 5000, "\ud800")
@given(st.text(st.characters(), max_size=200), st.text(st.characters(), max_size=200), st.text(max_size=100))
def test_no_text_breaks_an_internationalised_report(original: str, answer: str, address: str) -> None:
    outcome = from_reply(550, answer, transport="smtp", next_hop=HOP)
    for reverse_path in ("alice@example.com", "žofie@example.com"):
        given_facts = facts(
            recipient(outcome, f"ž{address}@example.com", original_recipient=original),
            reverse_path=reverse_path, content=CONTENT, is_smtputf8=True, subject=answer,
        )  # fmt: skip
        octets = compose(given_facts)
        assert b"\0" not in octets and octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n")
        assert max(map(len, octets.split(b"\r\n"))) <= 998
        assert octets.decode() and given_facts.needs_smtputf8 == (reverse_path[0] == "ž")
        if not given_facts.needs_smtputf8:
            assert_7bit(octets)
        _, (_, status, _) = report(given_facts)
        message, told = fields_of(status)
        assert set(message) == {"Reporting-MTA", "Arrival-Date", "X-Mailproj-Message-ID"}
        assert set(told) - {"Original-Recipient"} == {
            "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date",
        }  # fmt: skip


@given(st.text(st.characters(min_codepoint=0x80), min_size=1, max_size=20))
def test_any_address_can_be_read_out_of_the_report(local_part: str) -> None:
    try:
        address = parse_address(f"{local_part}@例え.jp")
    except InvalidName:
        return
    _, (_, status, _) = report(facts(recipient(address=str(address))))
    kind, _, told = fields_of(status)[1]["Final-Recipient"].partition("; ")
    assert parse_address(told) == address and kind == ("utf-8" if address.needs_smtputf8 else "rfc822")
