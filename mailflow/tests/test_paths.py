"""Arguments of MAIL and RCPT (RFC 5321 §4.1.1.2, §4.1.1.3, RFC 6531 §3.3, RFC 6533 §3)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accounts.names import Address, InvalidName, parse_address
from mailflow.errors import Refused
from mailflow.smtp.paths import PathArgument, check_smtputf8, decode_orcpt, decode_xtext, parse_path


def mail(argument: str) -> PathArgument:
    return parse_path(argument, "FROM", null_allowed=True)


def rcpt(argument: str) -> PathArgument:
    return parse_path(argument, "TO", null_allowed=False, bare_postmaster_domain="mx.example.com")


def code_of(refusal: pytest.ExceptionInfo[Refused]) -> str:
    reply = refusal.value.reply
    assert reply.encode().isascii()
    return f"{reply.code} {reply.enhanced_code}"


@pytest.mark.parametrize(
    ("argument", "address", "parameters"),
    [
        ("FROM:<a@b.example>", "a@b.example", {}),
        ("from: <a@b.example> size=10  BODY=8BITMIME", "a@b.example", {"SIZE": "10", "BODY": "8BITMIME"}),
        ("FROM:<> SMTPUTF8", None, {"SMTPUTF8": ""}),
        ("FROM:<@x.example,@y.example:a@b.example>", "a@b.example", {}),
        ("FROM:<@[IPv6:2001:db8::1],@y.example,@[192.0.2.1]:a@[IPv6:::1]>", "a@[IPv6:::1]", {}),
        ('FROM:<"a > b"@b.example>', '"a > b"@b.example', {}),
        ("FROM:<用户@例え.jp> SMTPUTF8", "用户@xn--r8jz45g.jp", {"SMTPUTF8": ""}),
        ('FROM:<"> ü"@b.example>', '"> ü"@b.example', {}),
        ("FROM:<@例え.jp:a@b.example>", "a@b.example", {}),
    ],
)
def test_a_path_and_its_parameters_are_read(argument: str, address: str | None, parameters: dict[str, str]) -> None:
    parsed = mail(argument)
    assert (str(parsed.address) if parsed.address else None, parsed.parameters) == (address, parameters)


def test_the_bare_postmaster_gets_a_domain() -> None:
    assert rcpt("TO:<Postmaster>").address == Address("postmaster", "mx.example.com")


@pytest.mark.parametrize(
    ("argument", "needed"),
    [
        ("TO:<a@b.example>", False),
        ("TO:<a@xn--r8jz45g.jp>", False),
        ("TO:<a@b.example> ORCPT=utf-8;ü@b.example", False),
        ("TO:<ü@b.example>", True),
        ("TO:<a@例え.jp>", True),
        ("TO:<\u212a@b.example>", True),  # a K in normal form C, but not on the wire
    ],
)
def test_a_path_beyond_ascii_needs_smtputf8_and_each_command_has_its_code(argument: str, needed: bool) -> None:
    parsed = rcpt(argument)
    assert parsed.needs_smtputf8 is needed
    check_smtputf8(parsed, "TO", declared=True)
    if not needed:
        check_smtputf8(parsed, "TO", declared=False)
        return
    with pytest.raises(Refused) as refusal:
        check_smtputf8(parsed, "TO", declared=False)
    assert code_of(refusal) == "553 5.6.7"
    with pytest.raises(Refused) as refusal:
        check_smtputf8(mail(argument.replace("TO:", "FROM:")), "FROM", declared=False)
    assert code_of(refusal) == "550 5.6.7"


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ("", "501 5.5.4"), ("FROM", "501 5.5.4"), ("TO:<a@b.example>", "501 5.5.4"), ("FROM:a@b.example", "501 5.5.4"),
        ("FROM:<a@b.example", "501 5.5.4"), ("FROM:<a@b.example>SIZE=1", "501 5.5.4"),
        ("FROM:<a@b.example>\u00a0SIZE=1", "501 5.5.4"), ("\u3000FROM:<a@b.example>", "501 5.5.4"),
        ("FROM:\u2003<a@b.example>", "501 5.5.4"), ("FROM:<a@b.example> SIZE=1 SIZE=1", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=1\u3000BODY=7BIT", "501 5.5.4"), ("FROM:<a@b.example> SIZE=\u0663", "501 5.5.4"),
        ("FROM:<a@b.example> ENVID=ü", "501 5.5.4"), ("FROM:<a@b.example> ſIZE=1", "501 5.5.4"),
        ("FROM:<a@b.example> A=b=c", "501 5.5.4"), ("FROM:<a@b.example> SMTPUTF8=", "501 5.5.4"),
        ("FROM:<a>", "553 5.1.7"), ("FROM:<ü\u202e@b.example>", "553 5.1.7"), ("FROM:<ü\0@b.example>", "553 5.1.7"),
        ("FROM:<ü@💩.la>", "553 5.1.7"), ("FROM:<" + "ü" * 33 + "@b.example>", "553 5.1.7"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_the_code_for_it(argument: str, code: str) -> None:
    with pytest.raises(Refused) as refusal:
        mail(argument)
    assert code_of(refusal) == code


def test_a_recipient_is_no_null_path() -> None:
    with pytest.raises(Refused) as refusal:
        rcpt("TO:<>")
    assert code_of(refusal) == "501 5.1.3"


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        ("rfc822;bob@b.example", "rfc822;bob@b.example"),
        ("RFC822;a+2Bb+40c@b.example", "RFC822;a+b@c@b.example"),
        ("utf-8;用户@例え.jp", "utf-8;用户@例え.jp"),
        ("UTF-8;\\x{7528}\\x{6237}@xn--r8jz45g.jp", "UTF-8;用户@xn--r8jz45g.jp"),
        ("utf-8;a\\x{2B}ü\\x{3d}@b.example", "utf-8;a+ü=@b.example"),
        ("utf-8;\\x{1F600}@b.example", "utf-8;😀@b.example"),
        ("utf-8;सम्\u200dप\\x{930}\\x{94D}\\x{200D}क@b.example", "utf-8;सम्\u200dपर्\u200dक@b.example"),
        ('utf-8;"a\\x{5C}"b"@b.example', 'utf-8;"a\\"b"@b.example'),
        # not as RFC 6533 asks: kept as it came
        ("utf-8;\\x{41}@b.example", "utf-8;\\x{41}@b.example"),
        ("utf-8;\\x{D800}@b.example", "utf-8;\\x{D800}@b.example"),
        ("utf-8;\\x{110000}@b.example", "utf-8;\\x{110000}@b.example"),
        ("utf-8;\\x{FC}\\y@b.example", "utf-8;\\x{FC}\\y@b.example"),
        ("utf-8;a+40b@b.example", "utf-8;a+40b@b.example"),
        # a line end or a direction mark gets nowhere
        ("utf-8;a\\x{0D}\\x{0A}b@b.example", "utf-8;a\\x{0D}\\x{0A}b@b.example"),
        ("utf-8;a\\x{202E}b@b.example", "utf-8;a\\x{202E}b@b.example"),
    ],
)
def test_an_original_recipient_is_decoded_by_its_type(value: str, decoded: str) -> None:
    assert rcpt(f"TO:<a@b.example> ORCPT={value}".replace("=@", "\\x{3D}@")).address
    assert decode_orcpt(value) == decoded


@pytest.mark.parametrize(
    "value",
    [
        "",
        ";",
        "rfc822",
        "rfc822;",
        ";a@b",
        "ü;a@b",
        "a b;c",
        "rfc822;ü@b",
        "rfc822;a+0D+0Ab@c",
        "rfc822;a+4",
        "utf-8;a\u202eb",
    ],
)
def test_an_original_recipient_without_sense_is_refused(value: str) -> None:
    with pytest.raises(Refused) as refusal:
        decode_orcpt(value)
    assert code_of(refusal) == "501 5.5.4"


def test_an_original_recipient_beyond_ascii_needs_smtputf8() -> None:
    assert decode_orcpt("utf-8;\\x{FC}@b.example", declared=False) == "utf-8;ü@b.example"
    with pytest.raises(Refused) as refusal:
        decode_orcpt("utf-8;ü@b.example", declared=False)
    assert code_of(refusal) == "501 5.5.4"


@pytest.mark.parametrize("text", ["a+0D+0Ab", "+00", "a+4", "+g1", "+FF"])
def test_xtext_stands_for_printable_ascii_alone(text: str) -> None:
    with pytest.raises(Refused):
        decode_xtext(text)


def assert_harmless(parsed: PathArgument) -> None:
    for name, value in parsed.parameters.items():
        assert name.isascii() and not set(value) & set(" =\r\n\0")
    if parsed.address is not None:
        assert parse_address(str(parsed.address)) == parsed.address


@example('<"ü\\">"@例え.jp> ORCPT=utf-8;\\x{FC}')
@given(st.text(st.characters() | st.sampled_from('<>"\\ @:=;\r\n\0ü'), max_size=60))
def test_any_argument_is_understood_or_refused_with_a_code(argument: str) -> None:
    for keyword, text in (("FROM", f"FROM:{argument}"), ("FROM", f"FROM:<a@b.example> {argument}")):
        try:
            parsed = parse_path(text, keyword, null_allowed=True)
        except Refused as refusal:
            code, octets = refusal.reply.code, refusal.reply.encode()
        else:
            code, octets = 0, b""
            assert_harmless(parsed)
        assert code in (0, 501, 553) and octets.isascii()


@given(st.text(st.characters(exclude_characters="+"), max_size=40))
def test_a_decoded_original_recipient_is_one_printable_line(text: str) -> None:
    with suppress(Refused):
        decoded = decode_orcpt(f"utf-8;{text}")
        assert all(character.isprintable() or character in "\u200c\u200d" for character in decoded)


@given(st.text(st.characters(min_codepoint=0x21), min_size=1, max_size=20))
def test_every_address_survives_the_ascii_form_of_rfc_6533(local_part: str) -> None:
    try:
        address = parse_address(f"{local_part}@例え.jp")
    except InvalidName:
        return
    specials = set(" +=\\")
    encoded = "".join(
        char if char.isascii() and char not in specials else f"\\x{{{ord(char):02X}}}" for char in address.unicode
    )
    assert decode_orcpt(f"utf-8;{encoded}") == f"utf-8;{address.unicode}"
