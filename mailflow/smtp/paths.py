"""Arguments of MAIL and RCPT: the path and its parameters (RFC 5321 §4.1.2, §4.1.1.11); pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from accounts.names import Address, InvalidName, parse_address
from mailflow.errors import Refused
from mailflow.smtp.reply import Reply

_PATH = re.compile(r"\s*<((?:[^<>\"\\]|\"(?:[^\"\\]|\\.)*\")*)>(?:\s+(.*))?\Z", re.DOTALL)
_SOURCE_ROUTE = re.compile(r"@[^:]*:")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]*))?\Z")
_XTEXT_HEX = re.compile(r"\+([0-9A-F]{2})")

SYNTAX = Reply(501, "5.4", "Syntax error in parameters")


@dataclass(frozen=True, slots=True)
class PathArgument:
    """`address` is None for the null path; parameter names are in upper case, values as they came ("" without `=`)."""

    address: Address | None
    parameters: Mapping[str, str]


def parse_path(argument: str, keyword: str, *, null_allowed: bool, bare_postmaster_domain: str = "") -> PathArgument:
    """Parse what follows MAIL or RCPT, such as `FROM:<a@b.example> SIZE=10`; raises `Refused` with 501 or 553.

    Source routes are stripped (RFC 5321 §4.1.1.3, appendix C). `<postmaster>` gets `bare_postmaster_domain`, where
    given.
    """
    head, colon, rest = argument.partition(":")
    if not colon or head.strip().upper() != keyword:
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
        return PathArgument(parse_address(path), parameters)
    except InvalidName as error:
        detail = "1.7" if keyword == "FROM" else "1.3"
        raise Refused(Reply(553, detail, f"Invalid address: {error}")) from None


def _parse_parameters(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for word in text.split():
        match = _PARAMETER.match(word)
        if match is None:
            raise Refused(SYNTAX)
        name = match[1].upper()
        if name in parameters:
            raise Refused(Reply(501, "5.4", f"Parameter {name} is given twice"))
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
