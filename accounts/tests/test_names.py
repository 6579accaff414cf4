"""Addresses as values (RFC 5321 §4.1.2, RFC 6531 §3.3)."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accounts.names import (
    MAX_LOCAL_PART_OCTETS,
    Address,
    InvalidName,
    NeedsUtf8,
    fold,
    fold_address,
    parse_address,
)

ANYTHING = st.text(st.characters(), max_size=80)
LETTERS = st.text(
    st.characters(categories=["L", "Mn", "Mc", "N", "S"], include_characters=".+"), min_size=1, max_size=30
)
DOMAINS = st.sampled_from(
    ["example.com", "例え.jp", "παράδειγμα.δοκιμή", "Straße.DE", "[192.0.2.1]", "[IPv6:2001:DB8::1]"]
)


@pytest.mark.parametrize(
    ("text", "wire", "shown"),
    [
        ("john.doe@Example.COM", "john.doe@example.com", "john.doe@example.com"),
        ('"john doe"@example.com', '"john doe"@example.com', '"john doe"@example.com'),
        ("john@例え.jp", "john@xn--r8jz45g.jp", "john@例え.jp"),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp", "用户@例え.jp"),
        ("用户@XN--R8JZ45G.jp", "用户@xn--r8jz45g.jp", "用户@例え.jp"),
        (
            "δοκιμή@παράδειγμα.δοκιμή",
            "δοκιμή@xn--hxajbheg2az3al.xn--jxalpdlp",
            "δοκιμή@παράδειγμα.δοκιμή",
        ),
        ("Pele\u0301@example.com", "Pelé@example.com", "Pelé@example.com"),
        ('"Jörg Müller"@example.com', '"Jörg Müller"@example.com', '"Jörg Müller"@example.com'),
        ("सम्\u200dपर्क@example.com", "सम्\u200dपर्क@example.com", "सम्\u200dपर्क@example.com"),
        ("❤@[192.0.2.1]", "❤@[192.0.2.1]", "❤@[192.0.2.1]"),
        ("\u212a@example.com", "K@example.com", "K@example.com"),  # the Kelvin sign is a K in normal form C
    ],
)
def test_an_address_has_a_form_for_the_wire_and_one_for_people(text: str, wire: str, shown: str) -> None:
    address = parse_address(text)
    assert (str(address), address.unicode) == (wire, shown)
    assert address.needs_smtputf8 == (not wire.isascii())


@pytest.mark.parametrize(
    "local_part",
    [
        "ü ü", "ü..ü", ".ü", "ü.", "ü@", "ü<", 'ü"', '"ü', "ü\\", "", " ", '"\\ü"',
        "a\0ü", "ü\r\n", "ü\x7f", "ü\x85", "\u00a0ü", "ü\u3000", '"ü\u2003ü"', "ü\u2028",  # controls and spaces
        "ü\u202e", "\u2066ü", "\u200eü", "ü\u200b", "\ufeffü", "ü\u00ad", "ü\u200d", "ü\u200c",  # nobody sees them
        "ü\ufe0f", "\u3164", "ü\u034f", "ü\U000e0041",
        "\u0378", "\ue000", "\ud800", "\uffff", "ü\ufffd",  # unassigned, private, surrogate, lost
        "\u0301ü", "\u0338x",  # would join what stands before it
        "\u037eü",  # a semicolon in normal form C
    ],
)  # fmt: skip
def test_a_local_part_that_nobody_can_read_or_quote_is_refused(local_part: str) -> None:
    with pytest.raises(InvalidName) as caught:
        parse_address(f"{local_part}@example.com")
    assert str(caught.value).isascii()  # the input is not quoted


def test_limits_are_counted_in_octets() -> None:
    parse_address("ü" * 32 + "@example.com")
    parse_address("u\u0308" * 32 + "@example.com")  # 96 octets, 64 in normal form C
    domain = ".".join(["d" * 46] * 4)  # with the local part and the @: 252 octets
    parse_address(f"{'ü' * 32}@{domain}.x")
    for text in ("ü" * 33 + "@example.com", "a" * 65 + "@example.com", f"{'ü' * 32}@{domain}.xx"):
        with pytest.raises(InvalidName, match="longer than"):
            parse_address(text)
    with pytest.raises(InvalidName):
        parse_address("ü" * 1_000_000 + "@example.com")


@pytest.mark.parametrize("text", ["用户@example.com", "john@例え.jp", "\u212a@example.com"])
def test_where_only_ascii_is_allowed_the_error_says_what_would_help(text: str) -> None:
    with pytest.raises(NeedsUtf8, match="SMTPUTF8"):
        parse_address(text, allow_utf8=False)
    assert parse_address("john@xn--r8jz45g.jp", allow_utf8=False).unicode == "john@例え.jp"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PELÉ@example.com", "pele\u0301@EXAMPLE.com"),
        ("ΔΟΚΙΜΉ@παράδειγμα.δοκιμή", "δοκιμή@ΠΑΡΆΔΕΙΓΜΑ.ΔΟΚΙΜΉ"),
        ("ΟΔΟΣ@example.com", "οδος@example.com"),  # the final sigma
        ("STRASSE@example.com", "straße@example.com"),
        ("用户+news@例え.jp", "用户@xn--r8jz45g.jp"),
        ('"Jörg"@example.com', "jo\u0308rg@example.com"),
    ],
)
def test_a_mailbox_is_found_in_any_case_and_normal_form(one: str, other: str) -> None:
    assert parse_address(one).lookup_key == parse_address(other).lookup_key


def test_letters_that_differ_are_not_folded_together() -> None:
    keys = {parse_address(f"{name}@example.com").lookup_key for name in ("pele", "pelé", "реlе", "ｐｅｌｅ", "pelè")}
    assert len(keys) == 5


def test_what_is_kept_is_the_folded_form() -> None:
    assert fold_address("PELE\u0301@Example.com") == "pelé@example.com"
    assert fold_address("用户@例え.jp") == "用户@xn--r8jz45g.jp"
    assert fold_address("John+X@Example.com") == "john+x@example.com"
    assert fold_address("ÜBER") == "über"  # no address


def parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except InvalidName:
        return None


@example("a", "b@example.com")
@given(ANYTHING, ANYTHING)
def test_any_text_is_an_address_or_is_refused(local_part: str, domain: str) -> None:
    address = parsed(f"{local_part}@{domain}")
    if address is not None:
        assert len(address.local_part.encode()) <= MAX_LOCAL_PART_OCTETS and address.domain.isascii()
        assert not set(str(address)) & set("\0\r\n\u2028\u2029")


@example("e\u0301", "例え.jp")
@given(LETTERS, DOMAINS)
def test_both_forms_of_an_address_parse_to_itself(local_part: str, domain: str) -> None:
    address = parsed(f"{local_part}@{domain}")
    if address is not None:
        assert parse_address(str(address)) == address == parse_address(address.unicode)
        assert unicodedata.is_normalized("NFC", str(address))
        decomposed = unicodedata.normalize("NFD", address.local_part)
        assert parse_address(f"{decomposed}@{address.domain}") == address


@example("\u0345\u0390\u1f80\u0149\u01f0İẞ")
@given(ANYTHING)
def test_folding_is_final_and_blind_to_case_and_normal_form(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded and unicodedata.is_normalized("NFC", folded)
    assert fold(unicodedata.normalize("NFD", text)) == folded == fold(unicodedata.normalize("NFC", text))
    assert fold(text.casefold()) == folded
