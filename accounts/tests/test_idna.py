"""Internationalised labels (RFC 5891, RFC 5892, RFC 5893)."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import idna
from accounts.names import InvalidName, parse_domain, unicode_domain


@pytest.mark.parametrize(
    ("u_labels", "a_labels"),
    [
        ("例え.jp", "xn--r8jz45g.jp"),
        ("παράδειγμα.δοκιμή", "xn--hxajbheg2az3al.xn--jxalpdlp"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("straße.de", "xn--strae-oqa.de"),  # strasse.de in the IDNA of 2003
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("نامه\u200cای.com", "xn--mgba3gch31f060k.com"),
        ("ශ්\u200dරී.com", "xn--10cl1a0b660p.com"),
        ("א1.co.il", "xn--1-zhc.co.il"),
        ("l·l.cat", "xn--ll-0ea.cat"),
        ("ーカ・.jp", "xn--lckyib.jp"),
    ],
)
def test_u_labels_become_a_labels_and_come_back(u_labels: str, a_labels: str) -> None:
    assert parse_domain(u_labels) == a_labels
    assert unicode_domain(a_labels) == u_labels
    assert parse_domain(a_labels) == parse_domain(a_labels.upper()) == a_labels


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("BÜCHER.Example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("例え。jp", "xn--r8jz45g.jp"),
        ("例え｡ｊｐ。", "xn--r8jz45g.jp"),
        ("ｅｘａｍｐｌｅ．com", "example.com"),
        ("\u212aelvin.example", "kelvin.example"),
    ],
)
def test_a_name_is_read_as_a_person_means_it(typed: str, meant: str) -> None:
    assert parse_domain(typed) == meant


@pytest.mark.parametrize(
    "name",
    [
        "💩.la",  # a symbol
        "a\u200db.example", "ab\u200c.example",  # joiners that join nothing
        "\u0301a.example",  # a leading mark
        "a\u0301\u200b.example",  # a zero-width space
        "ü\u202e.example",  # a direction override
        "ab--ü.example", "-ü.example", "ü-.example",
        "a·b.example", "·l.example", "a・b.example", "a״.example", "\u0375a.example",
        "1א.example", "aא.example", "א٠1.example",  # mixed directions
        "٠۰.example", "\u0378.example", "ﬁ.example", "⒈.example",
        "ü_x.example", "ü x.example", "ü@x.example", "\ud800.example",
        "ü" * 60 + ".example", ("ü" * 40 + ".") * 9 + "example", "ü" * 10_000,
        "例え..jp", "。", ".例え",
    ],
)  # fmt: skip
def test_what_no_internationalised_name_may_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        parse_domain(name)
    assert str(caught.value).isascii()  # the input is not quoted


@pytest.mark.parametrize("label", ["xn--ls8h", "xn--abc-", "xn--a", "xn--99999999", "xn--bcher-KVA", "xn--"])
def test_an_a_label_that_stands_for_no_u_label_is_shown_as_it_is(label: str) -> None:
    assert idna.to_u_label(label) == label


def test_an_a_label_that_would_pass_for_other_text_is_shown_as_it_is() -> None:
    deceptive = idna.A_LABEL_PREFIX + "paypal\u202e\u200b".encode("punycode").decode()
    assert idna.to_u_label(deceptive) == deceptive


@given(st.text(st.characters(categories=["L", "N", "Mn", "Cf", "Po"]), min_size=1, max_size=30))
def test_whatever_is_accepted_is_one_name_in_both_forms(label: str) -> None:
    try:
        domain = parse_domain(f"{label}.example")
    except InvalidName:
        return
    assert domain.isascii() and domain == domain.lower() and parse_domain(domain) == domain
    shown = unicode_domain(domain)
    assert parse_domain(shown) == domain
    assert unicodedata.normalize("NFC", shown) == shown
