"""DKIM signatures: the RFCs' own examples, and dkimpy's verdict on odd, random and tampered messages."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.key_pairs import SigningKey, public_key_of
from queue import signing
from queue.signing import Unsignable, body_hash, relaxed_field, relaxed_lines, sign, signature_of
from queue.tests.dkim_oracle import are_all_good, key_pair, new_pair, record_of, verdicts

AT = 1_795_600_000
FROM = b"From: Alice <alice@example.com>\r\n"
EMPTY_HASH = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

# RFC 8463 Appendix A: keys, records and the signed message, as printed there.
SEED = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
RSA_PEM = b"""-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
-----END RSA PRIVATE KEY-----
"""
RFC_BODY_HASH = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
RFC_ED25519 = (
    " v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n"
    " q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    " subject : date : message-id : from : subject : date;\r\n"
    f" bh={RFC_BODY_HASH};\r\n b=",
    "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==",
)
RFC_RSA = (
    " v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n"
    " q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n"
    " date : message-id : from : subject : date;\r\n"
    f" bh={RFC_BODY_HASH};\r\n b=",
    "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3"
    "DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz"
    "dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=",
)
RFC_FIELDS = [
    (b"From", b" Joe SixPack <joe@football.example.com>"),
    (b"To", b" Suzie Q <suzie@shopping.example.net>"),
    (b"Subject", b" Is dinner ready?"),
    (b"Date", b" Fri, 11 Jul 2003 21:00:37 -0700 (PDT)"),
    (b"Message-ID", b" <20030712040037.46341.5F8J@football.example.com>"),
]
RFC_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n\r\n"


def hash_of(body: bytes) -> str:
    return base64.b64encode(body_hash(body, 0)).decode()


def relaxed(name: bytes, text: str) -> bytes:
    return relaxed_field(name, text.encode()).removesuffix(b"\r\n")


# --- the RFCs' examples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tags", "expected"), [RFC_ED25519, RFC_RSA], ids=["ed25519", "rsa"])
def test_the_signatures_of_rfc_8463_come_out_octet_by_octet(tags: str, expected: str) -> None:
    private_key = (
        Ed25519PrivateKey.from_private_bytes(base64.b64decode(SEED))
        if "ed25519" in tags
        else load_pem_private_key(RSA_PEM, password=None)
    )
    assert isinstance(private_key, Ed25519PrivateKey | RSAPrivateKey)
    key = SigningKey("football.example.com", "s", "a", private_key)
    header = b"".join(relaxed_field(name, value) for name, value in RFC_FIELDS)
    assert base64.b64encode(signature_of(key, header + relaxed(b"DKIM-Signature", tags))).decode() == expected


def test_the_public_key_of_rfc_8463_comes_out() -> None:
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(SEED))
    assert public_key_of(key) == "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def test_the_body_hash_of_both_rfcs_comes_out() -> None:
    assert hash_of(RFC_BODY) == RFC_BODY_HASH


def test_the_canonicalisation_example_of_rfc_6376_comes_out() -> None:
    assert relaxed_field(b"A", b" X\r") == b"a:X\r\n"
    assert relaxed_field(b"B ".strip(), b" Y\t\r\n\tZ  \r") == b"b:Y Z\r\n"
    assert relaxed_lines(b" C \r\nD \t E\r\n\r\n\r\n") == b" C\r\nD E\r\n\r\n\r\n"
    assert body_hash(b" C \r\nD \t E\r\n\r\n\r\n", 0) == hashlib.sha256(b" C\r\nD E\r\n").digest()


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n\r\n", b" \t\r\n", b" ", b" \r\n\t\r\n"])
def test_a_body_with_nothing_in_it_has_the_hash_of_nothing(body: bytes) -> None:
    assert hash_of(body) == EMPTY_HASH


@pytest.mark.parametrize(
    ("body", "canonical"),
    [
        (b"a", b"a\r\n"),
        (b"a \t", b"a\r\n"),
        (b"a\r\n\r\n \r\n", b"a\r\n"),
        (b"\r\na\r\n", b"\r\na\r\n"),
        (b"\t a\t\tb \r\n", b" a b\r\n"),
        (b"a\r\n \r\nb\r\n", b"a\r\n\r\nb\r\n"),
        (b"\xff\x00\x0b \x0c\r\n", b"\xff\x00\x0b \x0c\r\n"),
        (b"a\r\r\n\r\n", b"a\r\r\n"),
        (b"a\n\n\r\n\r\n", b"a\n\n\r\n"),
    ],
)
def test_a_body_is_reduced(body: bytes, canonical: bytes) -> None:
    assert body_hash(body, 0) == hashlib.sha256(canonical).digest()


# --- slices -----------------------------------------------------------------------------------------------------------

_BODIES = st.lists(st.sampled_from([b"a", b" ", b"\t", b"\r\n", b"xyz", b" \r\n", b"\r\n\r\n", b"\xe9"]), max_size=60)


@given(_BODIES.map(b"".join), st.integers(1, 9))
def test_where_a_body_is_cut_makes_no_difference(body: bytes, octets: int) -> None:
    whole = body_hash(body, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "SLICE_OCTETS", octets)
        assert body_hash(body, 0) == whole


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n" * 2_000_000,
        b" " * 4_000_000,
        b"a" * 4_000_000,
        b"a \t" * 1_000_000,
        b"a\r\n" + b"\r\n" * 1_000_000 + b"b",
        b" \r\n" * 1_000_000,
        b"\t\t\t\t\t\t\t\t\r\n" * 400_000,
    ],
    ids=["lines", "blanks", "one line", "words", "gap", "blank lines", "tabs"],
)
def test_a_hostile_body_takes_linear_time_and_comes_out_right(body: bytes) -> None:
    reduced = re.sub(rb" (?=\r\n)", b"", re.sub(rb"[ \t]+", b" ", body + b"\r\n")).rstrip(b"\r\n")
    assert body_hash(body, 0) == hashlib.sha256(reduced + b"\r\n" if reduced else b"").digest()


# --- dkimpy's verdict -------------------------------------------------------------------------------------------------

ODD: dict[str, bytes] = {
    "plain": FROM + b"To: b@x.example\r\nSubject: Hi\r\nDate: Thu, 26 Nov 2026 01:00:00 +0000\r\n\r\nHello.\r\n",
    "folded": FROM + b"Subject: one\r\n two\r\n\t three \t \r\nTo:\r\n b@x.example,\r\n\tc@x.example\r\n\r\nx\r\n",
    "blanks": b"From:\t  Alice   <alice@example.com> \t\r\nSubject:no blank\r\n\r\n  x  y \t z  \r\n\t\r\n",
    "a name in capitals": b"FROM: alice@example.com\r\nsUBJECT: x\r\n\r\nx\r\n",
    "an empty value": FROM + b"Subject:\r\nReply-To: \r\n\r\nx\r\n",
    "a value of folds only": FROM + b"Subject: a\r\n \r\n\t\r\nTo: b@x.example\r\n\r\nx\r\n",
    "latin-1": FROM + b"Subject: caf\xe9\r\n\r\ncaf\xe9\r\n",
    "utf-8": "From: Žofie <žofie@example.com>\r\nSubject: Příliš žluťoučký\r\n\r\nkůň\r\n".encode(),
    "two subjects": FROM + b"Subject: one\r\nTo: b@x.example\r\nSubject: two\r\nSubject: three\r\n\r\nx\r\n",
    "no body": FROM + b"Subject: x\r\n\r\n",
    "no empty line": FROM + b"Subject: x\r\n",
    "no line end": FROM + b"Subject: x",
    "no line end in the body": FROM + b"\r\nHello",
    "a blank at the end": FROM + b"\r\nHello ",
    "empty lines at the end": FROM + b"\r\nHello\r\n\r\n\r\n",
    "dots": FROM + b"\r\n.\r\n..\r\n.x\r\n",
    "a list": FROM + b"List-Id: <l.example.com>\r\nList-Unsubscribe: <https://example.com/u>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nSender: l@example.com\r\n\r\nx\r\n",
    "resent": b"Resent-From: a@example.com\r\nResent-To: b@x.example\r\nReceived: by x\r\n"
    b"Resent-From: c@example.com\r\n" + FROM + b"\r\nx\r\n",
    "signed before": b"DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s; h=from; bh=AA==; b=AA==\r\n"
    + FROM
    + b"\r\nx\r\n",
    "a long line": FROM + b"Subject: " + b"x" * 5000 + b"\r\n\r\n" + b"y" * 200_000 + b"\r\n",
    "many recipients": FROM + b"To: " + b",\r\n ".join(b"u%d@x.example" % i for i in range(2000)) + b"\r\n\r\nx\r\n",
    "a large body": FROM + b"\r\n" + b"Some  words \tand more. \r\n" * 20_000,
    "nul": FROM + b"\r\na\x00b\r\n",
}


@pytest.mark.parametrize("name", [name for name in ODD if name != "signed before"])
def test_dkimpy_finds_both_signatures_of_an_odd_message_good(name: str) -> None:
    content = ODD[name]
    assert are_all_good(sign(content, key_pair(), AT) + content, key_pair())


def test_a_signature_that_is_there_already_stays_below_ours() -> None:
    content = ODD["signed before"]
    signed = sign(content, key_pair(), AT) + content
    assert verdicts(signed, [record_of(key) for key in key_pair()]) == [True, True, False]


_BLANK = st.sampled_from([b"", b" ", b"\t", b"  ", b" \t", b"\r\n ", b"\r\n\t", b" \r\n \r\n "])
_WORD = st.binary(min_size=1, max_size=8).map(lambda octets: re.sub(rb"[\x00-\x20]", b"x", octets))
_VALUE = st.lists(st.tuples(_BLANK, _WORD), min_size=1, max_size=6).map(lambda parts: b"".join(map(b"".join, parts)))
_NAME = st.sampled_from(
    [b"Subject", b"To", b"Cc", b"Received", b"X-Odd", b"subject", b"MIME-Version", b"Sender", b"List-Id", b"resent-to"]
)
_FIELD = st.tuples(_NAME, _VALUE, _BLANK).map(lambda parts: parts[0] + b":" + parts[1] + parts[2].rstrip() + b"\r\n")
_LINE = st.lists(st.one_of(_WORD, st.sampled_from([b" ", b"\t", b"  ", b"."])), max_size=8).map(b"".join)
_BODY = st.lists(_LINE, max_size=8).map(b"\r\n".join)
_MESSAGE = st.tuples(st.lists(_FIELD, max_size=6), st.lists(_FIELD, max_size=6), _BODY).map(
    lambda parts: b"".join(parts[0]) + FROM + b"".join(parts[1]) + b"\r\n" + parts[2]
)


@settings(max_examples=150)
@given(_MESSAGE)
def test_dkimpy_finds_both_signatures_of_a_random_message_good(content: bytes) -> None:
    assert are_all_good(sign(content, key_pair(), AT) + content, key_pair())


# --- tampering --------------------------------------------------------------------------------------------------------

SIGNED_MESSAGE = ODD["plain"]
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "body": lambda octets: octets.replace(b"Hello.", b"Hallo."),
    "body appended": lambda octets: octets + b"more\r\n",
    "subject": lambda octets: octets.replace(b"Subject: Hi", b"Subject: Ho"),
    "from": lambda octets: octets.replace(b"Alice <", b"Bob <"),
    "second from": lambda octets: b"From: mallory@x.example\r\n" + octets,
    "second subject": lambda octets: b"Subject: Another\r\n" + octets,
    "reply-to added": lambda octets: b"Reply-To: mallory@x.example\r\n" + octets,
    "cc added": lambda octets: b"Cc: mallory@x.example\r\n" + octets,
    "content-type added": lambda octets: b"Content-Type: text/html\r\n" + octets,
    "time": lambda octets: octets.replace(b"t=%d" % AT, b"t=%d" % (AT + 1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_tampered_with_does_not_verify(name: str) -> None:
    signed = CHANGES[name](sign(SIGNED_MESSAGE, key_pair(), AT) + SIGNED_MESSAGE)
    assert verdicts(signed, [record_of(key) for key in key_pair()]) == [False, False]


def test_what_transit_may_do_to_blanks_and_trace_fields_does_no_harm() -> None:
    signed = sign(SIGNED_MESSAGE, key_pair(), AT) + SIGNED_MESSAGE
    changed = b"Received: by mx.x.example\r\n" + signed.replace(b"Subject: Hi", b"Subject:\r\n  Hi ") + b"\r\n\r\n"
    assert verdicts(changed, [record_of(key) for key in key_pair()]) == [True, True]


def test_the_record_of_another_key_does_not_verify() -> None:
    signed = sign(SIGNED_MESSAGE, key_pair(), AT) + SIGNED_MESSAGE
    assert verdicts(signed, [record_of(key) for key in new_pair()]) == [False, False]


# --- the field itself -------------------------------------------------------------------------------------------------


def tags_of(field: bytes) -> dict[str, str]:
    text = re.sub(r"\s", "", field.decode("ascii").partition(":")[2])
    return dict(part.split("=", 1) for part in text.split(";"))


def test_the_tags_are_those_that_the_rfcs_ask_for() -> None:
    fields = [b"DKIM-Signature:" + part for part in sign(SIGNED_MESSAGE, key_pair(), AT).split(b"DKIM-Signature:")[1:]]
    rsa, ed25519 = map(tags_of, fields)
    assert (rsa["v"], rsa["a"], rsa["c"], rsa["q"]) == ("1", "rsa-sha256", "relaxed/relaxed", "dns/txt")
    assert (rsa["d"], rsa["s"], rsa["t"]) == ("example.com", "r1", str(AT))
    assert (ed25519["a"], ed25519["s"], ed25519["bh"]) == ("ed25519-sha256", "e1", rsa["bh"])
    assert not {"l", "i", "x"} & rsa.keys()
    names = rsa["h"].lower().split(":")
    assert {name: names.count(name) for name in ("from", "to", "subject", "date")} == dict.fromkeys(
        ("from", "to", "subject", "date"), 2
    )
    for absent in ("reply-to", "cc", "message-id", "mime-version", "content-type", "in-reply-to", "references"):
        assert names.count(absent) == 1
    assert not {"received", "return-path", "dkim-signature", "sender", "list-id", "x-odd"} & set(names)


def test_fields_that_others_add_are_signed_only_where_they_are() -> None:
    names = tags_of(sign(ODD["resent"], key_pair()[:1], AT))["h"].lower().split(":")
    assert names.count("resent-from") == 2 and names.count("resent-to") == 1
    names = tags_of(sign(ODD["a list"], key_pair()[:1], AT))["h"].lower().split(":")
    assert names.count("list-id") == 1 and names.count("list-unsubscribe") == 2 and names.count("sender") == 2


@pytest.mark.parametrize("name", ODD)
def test_the_fields_are_ascii_in_short_lines(name: str) -> None:
    fields = sign(ODD[name], key_pair(), AT)
    assert fields.isascii() and fields.endswith(b"\r\n") and b"\r\n\r\n" not in fields
    assert max(map(len, fields.split(b"\r\n"))) <= 78
    assert all(line.startswith((b"\t", b"DKIM-Signature:")) for line in fields.split(b"\r\n")[:-1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Subject: x\r\n\r\nx\r\n", "no From field"),
        (b"\r\nFrom: a@example.com\r\n", "no From field"),
        (b"", "no From field"),
        (FROM + b"X: " + b"x" * (257 << 10) + b"\r\n\r\n", "header section has more than 256 KiB"),
        (FROM + b"Subject: x\r\n" * 300 + b"\r\n", "more than 200 header fields"),
    ],
)
def test_what_cannot_be_signed_is_told_in_words(content: bytes, words: str) -> None:
    with pytest.raises(Unsignable, match=words):
        sign(content, key_pair(), AT)
