"""Reading From and Sender (RFC 5322 §3.6.2, §3.4), above all what is meant to mislead or to hold us up."""

from __future__ import annotations

import re
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.message import originators
from mailflow.message.originators import MAX_ADDRESSES, MAX_FIELD_OCTETS, Originators, scan


def read(value: str) -> Originators:
    return scan(f"To: x@y.example\r\nFrom: {value}\r\nSubject: x\r\n\r\nFrom: body@x.example\r\n".encode())


def addresses(value: str) -> list[str]:
    found = read(value)
    assert found.is_well_formed, found.flaw
    return [str(address) for address in found.from_addresses]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 5322 appendix A
        ("John Doe <jdoe@machine.example>", ["jdoe@machine.example"]),
        ('"Joe Q. Public" <john.q.public@example.com>', ["john.q.public@example.com"]),
        ("Mary <mary@x.test>, jdoe@example.org, Who? <1@y.test>", ["mary@x.test", "jdoe@example.org", "1@y.test"]),
        ('<boss@nil.test>, "Giant; \\"Big\\" Box" <sys@example.net>', ["boss@nil.test", "sys@example.net"]),
        ("Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", ["pete@silly.test"]),
        ("A Group(Some)\r\n :C <c@(Chris's host.)a.example>,\r\n joe@b.example;", ["c@a.example", "joe@b.example"]),
        ("Joe Q. Public <john . q . public@example.com>", ["john.q.public@example.com"]),
        ("Mary Smith\r\n <mary@x.test>\r\n ,, , jdoe@test . example", ["mary@x.test", "jdoe@test.example"]),
        # RFC 6854
        ("Managing Partners:ben@example.com,carol@example.com;", ["ben@example.com", "carol@example.com"]),
        ("Team: a@b.example, <c@d.example>;, e@f.example", ["a@b.example", "c@d.example", "e@f.example"]),
        # encoded words, quoted local parts, literals, folds
        ("=?utf-8?q?J=C3=B6rg?= <j@x.example>", ["j@x.example"]),
        ("J\u00f6rg \u200b <j@x.example>", ["j@x.example"]),
        ("j@b\u00fccher.example", ["j@xn--bcher-kva.example"]),
        ("J\u00f6rg <j\u00f6rg@b\u00fccher.example>", ["j\u00f6rg@xn--bcher-kva.example"]),
        ('"john doe"@x.example', ['"john doe"@x.example']),
        ('"a\\"b"."c"@x.example', ['"a\\"b.c"@x.example']),
        ('"john\r\n doe"@x.example', ['"john doe"@x.example']),
        ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", ["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"]),
        ("\r\n a@x.example", ["a@x.example"]),
        # a display name that is an address: whichever a reader shows, both are known
        ("ceo@bank.example <a@x.example>", ["ceo@bank.example", "a@x.example"]),
    ],
)  # fmt: skip
def test_the_addresses_of_a_field_are_found(value: str, expected: list[str]) -> None:
    assert addresses(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "alice", "<>", "<alice>", "@x.example", "a@", "a@b@c.example", "a..b@x.example", ".a@x.example",
        "a@x..example", "a b@x.example", "a@x.example b@y.example", "<a@x.example> <b@y.example>",
        "<a@x.example> b", "boss ceo@bank.example <a@x.example>", "<<a@x.example>>", "<a@x.example", "a@x.example>",
        "<@bank.example:a@x.example>", "<@bank.example,@y.example:a@x.example>", "<a@x.example,b@y.example>",
        '"a@x.example', 'a"b@x.example', "(a@x.example", "a@x.example)", "a@x.example;", ":a@x.example;",
        "g: h: a@x.example;;", "a@x.example: b@y.example;", "g: a@x.example", "nobody:;", "a\\b@x.example",
        "a@x.example\0", "\0a@x.example", "a@x.example\0@bank.example", "a\x07@x.example", "a@x.example\x7f",
        "a@x.example\r,b@y.example", "a@[192.0.2.1]x", "a\u202eb@x.example", "a\u200b@x.example",
        "a@[300.0.0.1]", 'a@"x.example"', "a@-x.example",
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_or_not_at_all_is_a_flaw(value: str) -> None:
    found = read(value)
    assert found.from_count == 1
    assert not found.is_well_formed


@pytest.mark.parametrize("second", ["From", "FROM", "from \t", "fRoM"])
def test_a_second_from_field_is_counted_wherever_it_stands(second: str) -> None:
    content = f"From: a@x.example\r\nX: {'y' * 300_000}\r\n{second}: ceo@bank.example\r\n\r\n".encode()
    assert scan(content).from_count == 2
    many = b"X: y\r\n" * 50_000 + content
    assert scan(many).from_count == 2
    assert scan(b"From: a@x.example\r\n" * 50_000).from_count == 2


def test_a_field_that_begins_at_any_place_of_a_slice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originators, "_SLICE_OCTETS", 16)
    for filler in range(40):
        found = scan(b"X" * filler + b": y\r\nSender: a@x.example\r\nfrom\t: b@x.example,\r\n\tc@x.example\r\n\r\n")
        assert [str(address) for address in found.addresses] == ["b@x.example", "c@x.example", "a@x.example"]


def test_only_fields_of_that_name_in_the_header_section_count() -> None:
    content = (
        b"X-From: a\r\nResent-From: b\r\nFromage: c\r\nSubject: x\r\n From: d\r\n\tFrom: e\r\nFrom f\r\n"
        b"Comments: From: g\r\n\r\nFrom: h@x.example\r\n"
    )
    assert scan(content) == Originators()
    assert scan(b"") == scan(b"\r\n") == scan(b"\r\nFrom: a@x.example\r\n") == Originators()


def test_the_last_line_may_be_without_an_end() -> None:
    assert [str(address) for address in scan(b"From: a@x.example").from_addresses] == ["a@x.example"]


@pytest.mark.parametrize(
    "content",
    [
        b" From: ceo@bank.example\r\n\r\n",  # no field to us, one to some readers
        b"\tX: y\r\nFrom: a@x.example\r\n\r\n",
        b"From\0: a@x.example\r\n\r\n",
        b"From \x0b: a@x.example\r\n\r\n",
        b"From\r: a@x.example\r\n\r\n",
    ],
)
def test_a_header_section_that_hides_a_field_is_a_flaw(content: bytes) -> None:
    assert scan(content).flaw


@pytest.mark.parametrize("value", ["", "a@x.example, b@x.example", "g: a@x.example, b@x.example;", "nobody:;"])
def test_a_sender_field_holds_one_address(value: str) -> None:
    found = scan(f"From: a@x.example\r\nSender: {value}\r\n\r\n".encode())
    assert (found.from_count, found.sender_count, bool(found.flaw)) == (1, 1, True)


def test_an_old_character_set_in_a_display_name_is_survived() -> None:
    assert [str(a) for a in scan(b"From: J\xf6rg <j@x.example>\r\n\r\n").from_addresses] == ["j@x.example"]
    assert scan(b"From: J\xf6rg@x.example\r\n\r\n").flaw


def test_more_addresses_than_anybody_needs_are_not_read_to_the_end() -> None:
    assert len(read(", ".join(f"a{number}@x.example" for number in range(MAX_ADDRESSES))).from_addresses) == 50
    too_many = read(", ".join(f"a{number}@x.example" for number in range(MAX_ADDRESSES + 1)))
    assert (len(too_many.from_addresses), too_many.has_too_many, too_many.flaw) == (51, True, "")
    assert read(", ".join(["a@x.example"] * 600)).has_too_many


@pytest.mark.parametrize(
    "value",
    [
        "(" * 10_000 + "a@x.example",
        "(" * 10_000 + ")" * 10_000 + "a@x.example",
        "a@x.example," * 100_000,
        "a," * 100_000,
        '"' * 9_999,
        '"\\' * 100_000,
        "<" * 100_000,
        "g:" * 100_000,
        "x" * 200_000 + "@x.example",
        "=?utf-8?q?" * 20_000,
        "\r\n " * 70_000 + "a@x.example",
        "a@" + "\u00fc" * 4_000,
        "\u00fc" * 4_000 + "@x.example",
        "a." * 4_000 + "b@x.example",
    ],
)
def test_hostile_values_are_flaws(value: str) -> None:
    assert read(value).flaw
    short = read(value[: MAX_FIELD_OCTETS // 2])
    assert short.flaw or short.has_too_many


_PIECES = st.sampled_from(
    ["a", "b.c", "@", "x.example", "<", ">", ",", ";", ":", '"', "\\", "(", ")", "[", "]", " ", "\r\n ", ".", "\0",
     "\u00f6", "=?utf-8?q?x?=", "From:", "\r\nFrom: z@z.example", "[192.0.2.1]"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=40).map("".join))
def test_any_value_is_read_or_is_a_flaw(value: str) -> None:
    found = scan(f"From: {value}\r\n\r\n".encode())
    assert found.from_count >= 1
    assert found.flaw or found.from_addresses
    assert all(re.fullmatch(r"[^\r\n\0]+", str(address)) for address in found.addresses)


_NAME = st.from_regex(r"[A-Za-z]{1,8}( [A-Za-z]{1,8})?", fullmatch=True)
_ADDRESS = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8})?@[a-z]{1,8}\.example", fullmatch=True)


@given(st.lists(st.tuples(_NAME, _ADDRESS), min_size=1, max_size=20))
def test_an_ordinary_field_is_read_as_the_standard_library_reads_it(pairs: list[tuple[str, str]]) -> None:
    value = ",\r\n ".join(f'"{name}" <{address}>' for name, address in pairs)
    assert addresses(value) == [address for _, address in getaddresses([value.replace("\r\n", "")])]


@given(st.binary(max_size=300))
def test_any_octets_are_survived(octets: bytes) -> None:
    scan(octets)
    scan(b"From: " + octets)
    scan(b"Sender:" + octets + b"\r\n\r\n")
