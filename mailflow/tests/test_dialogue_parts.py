"""The pure parts of a dialogue, on anything: parameters, AUTH, the content on its way in (RFC 3461 §4, RFC 4954 §4)."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accounts.names import Address
from mailflow.errors import Refused
from mailflow.listener.auth import (
    CRAM_MD5,
    MAX_CREDENTIAL_OCTETS,
    PASSWORD_MECHANISMS,
    ChallengeResponse,
    Credentials,
    Exchange,
)
from mailflow.listener.parameters import read_envelope, read_recipient
from mailflow.smtp.data import ChunkWindow, DataWindow, has_bare_line_end, with_whole_line_ends
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.smtp.paths import parse_path
from mailflow.smtp.reply import Reply
from mailflow.tests.dialogue_model import unstuffed
from mailflow.tests.reply_form import check_form

MAX_OCTETS = 10**6
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)


def mail(argument: str, *, extended: bool = True) -> Envelope:
    parsed = parse_path(argument, "FROM", null_allowed=True)
    return read_envelope(parsed, extended=extended, auth_offered=True, max_octets=MAX_OCTETS)


def rcpt(argument: str, *, extended: bool = True) -> Recipient:
    parsed = parse_path(argument, "TO", null_allowed=False)
    assert parsed.address is not None
    return read_recipient(parsed.address, parsed, extended=extended, is_smtputf8=True)


def check_refusal(refusal: Refused) -> None:
    """Fail where the reply does not go on the wire as SMTP has it, whatever it quotes."""
    check_form(refusal.reply.encode().decode("ascii").replace("\r\n", "\n").rstrip("\n"), is_greeting=False)


# --- parameters -------------------------------------------------------------------------------------------------------


def xtext(text: str) -> str:
    return "".join(
        character if "!" <= character <= "~" and character not in "+=" else f"+{ord(character):02X}"
        for character in text
    )


@given(printable)
def test_what_was_written_as_xtext_is_read_as_it_was(text: str) -> None:
    if len(xtext(text)) <= 100:
        assert mail(f"FROM:<> ENVID={xtext(text)}").envelope_id == text
    if len(xtext(text)) <= 490:
        assert rcpt(f"TO:<a@b.example> ORCPT=rfc822;{xtext(text)}").original_recipient == f"rfc822;{text}"


@given(st.integers(-999_999_999, 999_999_999), st.sampled_from(["R", "N", "RT", "NT", "r", "nt"]), st.booleans())
def test_a_time_by_which_to_deliver_is_read_as_it_was_written(seconds: int, mode: str, has_plus: bool) -> None:
    argument = f"FROM:<> BY={seconds:{'+' if has_plus else ''}d};{mode}"
    if seconds <= 0 and mode.upper().startswith("R"):
        with pytest.raises(Refused, match=r"^501 5\.5\.4"):
            mail(argument)
        return
    deliver_by = mail(argument).deliver_by
    assert deliver_by is not None
    assert (deliver_by.seconds, deliver_by.mode) == (seconds, mode.upper())


@given(st.integers(0, 10**20 - 1))
def test_a_size_is_read_as_it_was_written_or_is_too_large(octets: int) -> None:
    if octets > MAX_OCTETS:
        with pytest.raises(Refused, match=r"^552 5\.3\.4"):
            mail(f"FROM:<> SIZE={octets}")
    else:
        assert mail(f"FROM:<> SIZE={octets}").declared_octets == octets


words = st.sampled_from([
    "SIZE", "BODY", "SMTPUTF8", "BY", "AUTH", "RET", "ENVID", "NOTIFY", "ORCPT", "FOO", "=", "+", "+4", "+00", "+C3",
    "7BIT", "BINARYMIME", "FULL", "NEVER", "SUCCESS,FAILURE", ",", "rfc822", "utf-8", "\\x{e9}", "\\x{0}", "1",
    "\\x{110000}", "-", "99999999999999999999999", "R", ";", "<", ">", '"', " ", "\t", "\0", "é", "\u2028", "\udc80",
    "\U000e0041", "٣",
])  # fmt: skip
texts = st.one_of(st.text(), st.lists(words, max_size=12).map("".join))


@given(texts, st.sampled_from(["", "<>", "<a@b.example>", "<é@b.example>", "<@"]), st.booleans())
@example("SIZE=²", "<>", True)
@example("BY=٣;R", "<>", True)
def test_any_argument_of_mail_and_rcpt_is_read_or_refused_in_due_form(text: str, path: str, extended: bool) -> None:
    for read, keyword in ((mail, "FROM"), (rcpt, "TO")):
        try:
            found = read(f"{keyword}:{path} {text}", extended=extended)
        except Refused as refusal:
            check_refusal(refusal)
        else:
            assert isinstance(found, Envelope | Recipient)
            assert "\0" not in repr(found)


@given(texts)
def test_any_argument_at_all_is_read_or_refused(text: str) -> None:
    for keyword in ("FROM", "TO"):
        try:
            assert isinstance(parse_path(text, keyword, null_allowed=True).address, Address | None)
        except Refused as refusal:
            check_refusal(refusal)


# --- AUTH -------------------------------------------------------------------------------------------------------------

secrets = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode() or "="


@given(secrets, secrets, st.booleans(), st.booleans())
def test_plain_and_login_tell_the_same_credentials_with_an_initial_response_and_without(
    username: str, password: str, is_initial: bool, has_identity: bool
) -> None:
    response = encoded(f"{username if has_identity else ''}\0{username}\0{password}")
    dialogues = {
        True: ([f"PLAIN {response}"], [f"LOGIN {encoded(username)}", encoded(password)]),
        False: (["PLAIN", response], ["LOGIN", encoded(username), encoded(password)]),
    }
    for first, *others in dialogues[is_initial]:
        exchange = Exchange()
        result = exchange.begin(first)
        for line in others:
            assert isinstance(result, Reply)
            assert result.code == 334
            result = exchange.go_on(line.encode())
        assert result == Credentials(username, password)
        assert not password or len(password) < 4 or password in username or password not in repr(result)


@given(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(["PLAIN", "LOGIN", "login", "PLAIN =", "PLAIN !", "LOGIN /w==", "CRAM-MD5", "cram-md5 ="]),
    ),
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.binary(max_size=60).map(base64.b64encode),
            st.integers(MAX_CREDENTIAL_OCTETS - 3, MAX_CREDENTIAL_OCTETS + 3).map(lambda n: base64.b64encode(b"x" * n)),
            st.sampled_from([b"*", b"=", b"", b"*="]),
        ),
        max_size=4,
    ),
)
def test_an_exchange_of_any_lines_comes_to_an_end_in_due_form(first: str, others: list[bytes]) -> None:
    exchange = Exchange((CRAM_MD5, *PASSWORD_MECHANISMS))
    challenges = 0
    try:
        result = exchange.begin(first)
        for line in others:
            if isinstance(result, Credentials | ChallengeResponse):
                break
            assert result.code == 334
            challenges += 1
            result = exchange.go_on(line)
            assert line != b"*"
    except Refused as refusal:
        check_refusal(refusal)
    else:
        assert isinstance(result, Credentials | ChallengeResponse | Reply)
    assert challenges <= 2


# --- content ----------------------------------------------------------------------------------------------------------

# Few kinds of octets, so that dots and line ends meet in all ways.
octets_of_lines = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"x", b"xxxxxx"]), max_size=40).map(
    b"".join
)
cuts = st.lists(st.tuples(st.integers(0, 120), st.booleans()), max_size=25)


def cut(octets: bytes, at: list[tuple[int, bool]]) -> list[tuple[bytes, bool]]:
    """Return the pieces, and behind which of them a caller with little room would drain."""
    places = [(0, False), *sorted((min(place, len(octets)), drains) for place, drains in at), (len(octets), False)]
    return [(octets[start:end], drains) for (start, _), (end, drains) in pairwise(places)]


def reference(octets: bytes) -> tuple[bytes, bytes]:
    """Return the message and what stands behind it, with the end of data looked for in the plainest way."""
    lines, rest = [], octets
    while not rest.startswith(b".\r\n"):
        line, _, rest = rest.partition(b"\r\n")
        lines.append(line + b"\r\n")
    return unstuffed(b"".join(lines)), rest[3:]


@given(octets_of_lines, octets_of_lines, cuts)
def test_data_is_the_same_message_however_it_came_and_was_drained(
    octets: bytes, behind: bytes, at: list[tuple[int, bool]]
) -> None:
    wire = octets + b"\r\n.\r\n" + behind
    message, rest = reference(wire)
    window, pieces = DataWindow(), []
    found: bytes | None = None
    for piece, drains in cut(wire, at):
        if found is not None:
            found += piece
            continue
        found = window.feed(piece)
        if found is None and drains:
            pieces.append(window.drain())
    pieces.append(window.finish())
    assert found == rest
    assert b"".join(pieces) == message
    check_line_ends(pieces)


@given(octets_of_lines, cuts)
def test_chunks_are_the_same_octets_however_they_came_and_were_drained(
    octets: bytes, at: list[tuple[int, bool]]
) -> None:
    window, pieces = ChunkWindow(), []
    for piece, drains in cut(octets, at):
        window.feed(piece)
        if drains:
            pieces.append(window.drain())
    pieces.append(window.finish())
    assert b"".join(pieces) == octets
    check_line_ends(pieces)


def check_line_ends(pieces: list[bytes]) -> None:
    """The pieces are told apart, and mended, as the whole would be."""
    whole = b"".join(pieces)
    assert any(map(has_bare_line_end, pieces)) == has_bare_line_end(whole)
    mended = b"".join(map(with_whole_line_ends, pieces))
    assert mended == with_whole_line_ends(whole)
    assert not has_bare_line_end(mended)
    stripped = whole.replace(b"\r\n", b"")
    assert has_bare_line_end(whole) == (b"\r" in stripped or b"\n" in stripped)
