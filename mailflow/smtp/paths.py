"""Arguments of MAIL and RCPT: the path and its parameters (RFC 5321 §4.1.2, §4.1.1.11, RFC 6531 §3.3); pure.

Whether a path may hold more than ASCII is said behind it, by MAIL's parameter SMTPUTF8: so everything is parsed first,
and then judged by `check_smtputf8`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from accounts.names import Address, InvalidName, parse_address
from mailflow.errors import Refused
from mailflow.smtp.reply import Reply

# Only ASCII separates: what else Unicode calls a space is part of a word, and refused there.
_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_PATH = re.compile(r"[ \t\r\n\f\v]*<((?:[^<>\"\\]|\"(?:[^\"\\]|\\.)*\")*)>(?:[ \t\r\n\f\v]+(.*))?\Z", re.DOTALL)
_SOURCE_ROUTE = re.compile(r"@(?:\[[^\]]*\]|[^:\[\]])*:")  # an address literal in it may have colons
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\x80-\U0010ffff]+))?\Z")
_IN_UTF8 = frozenset(["ORCPT"])  # parameters whose values may be beyond ASCII (RFC 6533 §3)
_XTEXT_HEX = re.compile(r"\+([0-9A-F]{2})")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}\Z")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_XTEXT_SPECIALS = frozenset(" +=\\")

SYNTAX = Reply(501, "5.4", "Syntax error in parameters")
# RFC 6531 §3.5 has one code for MAIL and another for RCPT.
SENDER_NEEDS_SMTPUTF8 = Reply(550, "6.7", "A sender address beyond ASCII needs SMTPUTF8 at MAIL")
RECIPIENT_NEEDS_SMTPUTF8 = Reply(553, "6.7", "A recipient address beyond ASCII needs SMTPUTF8 at MAIL")


@dataclass(frozen=True, slots=True)
class PathArgument:
    """`address` is None for the null path; parameter names are in upper case, values as they came ("" without `=`).

    `needs_smtputf8`: the path was not written in ASCII, in its local part or, with U-labels, in its domain.
    """

    address: Address | None
    parameters: Mapping[str, str]
    needs_smtputf8: bool = False


def parse_path(argument: str, keyword: str, *, null_allowed: bool, bare_postmaster_domain: str = "") -> PathArgument:
    """Parse what follows MAIL or RCPT, such as `FROM:<a@b.example> SIZE=10`; raises `Refused` with 501 or 553.

    Source routes are stripped (RFC 5321 §4.1.1.3, appendix C). `<postmaster>` gets `bare_postmaster_domain`, where
    given.
    """
    head, colon, rest = argument.partition(":")
    if not colon or head.strip(" \t").upper() != keyword:
        raise Refused(Reply(501, "5.4", f"Syntax: {'MAIL' if keyword == 'FROM' else 'RCPT'} {keyword}:<address>"))
    match = _PATH.match(rest)
    if match is None:
        raise Refused(Reply(501, "5.4", f"Syntax: {keyword}:<address>, with the angle brackets"))
    path = _SOURCE_ROUTE.sub("", match[1], count=1) if match[1].startswith("@") else match[1]
    parameters = _parse_parameters(match[2] or "")
    if not path:
        if not null_allowed:
            raise Refused(Reply(501, "1.3", "A recipient is needed, the null path is none"))
        return PathArgument(None, parameters)
    if bare_postmaster_domain and path.lower() == "postmaster":
        return PathArgument(Address("postmaster", bare_postmaster_domain), parameters)
    try:
        return PathArgument(parse_address(path), parameters, needs_smtputf8=not path.isascii())
    except InvalidName as error:
        detail = "1.7" if keyword == "FROM" else "1.3"
        raise Refused(Reply(553, detail, f"Invalid address: {error}")) from None


def check_smtputf8(parsed: PathArgument, keyword: str, *, declared: bool) -> None:
    """Raise `Refused` where the path needs SMTPUTF8 and MAIL did not declare it (RFC 6531 §3.5)."""
    if parsed.needs_smtputf8 and not declared:
        raise Refused(SENDER_NEEDS_SMTPUTF8 if keyword == "FROM" else RECIPIENT_NEEDS_SMTPUTF8)


def _parse_parameters(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for word in filter(None, _SPACES.split(text)):
        match = _PARAMETER.match(word)
        if match is None:
            raise Refused(SYNTAX)
        name = match[1].upper()
        if match[2] and not match[2].isascii() and name not in _IN_UTF8:
            raise Refused(SYNTAX)
        if name in parameters:
            raise Refused(Reply(501, "5.4", f"Parameter {name[:40]} is given twice"))
        parameters[name] = match[2] or ""
    return parameters


def decode_xtext(text: str) -> str:
    """Decode xtext (RFC 3461 §4); raises `Refused` where a + is not followed by two hex digits.

    What it stands for must be printable ASCII (RFC 3461 §4.2, §4.4): no NUL or line end gets to a database or a header.
    """
    if re.search(r"\+(?![0-9A-F]{2})", text):
        raise Refused(SYNTAX)
    decoded = _XTEXT_HEX.sub(lambda match: chr(int(match[1], 16)), text)
    if not (decoded.isascii() and decoded.isprintable()):
        raise Refused(Reply(501, "5.4", "What xtext stands for must be printable ASCII"))
    return decoded


def decode_orcpt(value: str, *, declared: bool = True) -> str:
    """Return ORCPT as `type;address`, the address decoded (RFC 3461 §4.2, RFC 6533 §3); raises `Refused`.

    Beyond ASCII it needs SMTPUTF8, `declared` at MAIL (RFC 6533 §3). What is labelled `utf-8` but is not encoded
    as that asks is kept as it came: so it must be reported.
    """
    if not (declared or value.isascii()):
        raise Refused(Reply(501, "5.4", "ORCPT beyond ASCII needs SMTPUTF8 at MAIL"))
    kind, semicolon, encoded = value.partition(";")
    if not (semicolon and encoded and _ADDRESS_TYPE.match(kind)):
        raise Refused(Reply(501, "5.4", "ORCPT is a type, a semicolon and an encoded address"))
    if kind.lower() != "utf-8":
        return f"{kind};{decode_xtext(encoded)}"
    if not _is_readable(encoded):
        raise Refused(Reply(501, "5.4", "ORCPT must be printable"))
    return f"{kind};{_decode_unitext(encoded)}"


def _decode_unitext(text: str) -> str:
    """Decode utf-8-addr-xtext and -unitext; a control stays in its escape, so that no line end gets to a header."""
    parts = _EMBEDDED.split(text)  # texts and code points by turns
    if "\\" in "".join(parts[::2]) or "+" in "".join(parts[::2]):
        return text
    characters = [_embedded(code) for code in parts[1::2]]
    if not all(characters):
        return text
    parts[1::2] = characters
    return "".join(parts)


def _embedded(code: str) -> str:
    """Return the character that an escape stands for; empty where it may not be escaped or is not printable."""
    number = int(code, 16)
    if number > 0x10FFFF:
        return ""
    character = chr(number)
    is_allowed = character in _XTEXT_SPECIALS if character.isascii() else _is_readable(character)
    return character if is_allowed else ""


def _is_readable(text: str) -> bool:
    """Printable, or one of the two joiners that some scripts need."""
    return text.replace("\u200c", "").replace("\u200d", "").isprintable()
