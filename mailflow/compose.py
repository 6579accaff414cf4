"""Compose a message from its parts (RFC 5322 §3.6, RFC 6532 §3; its body: `mime`): pure, no Django, no I/O.

The result has CRLF line ends, no bare CR or LF, and no line over 998 octets, whatever the parts hold. It is ASCII but
for addresses whose local parts are not: nothing else can say those, so they are in UTF-8, and such a message needs
SMTPUTF8. Header lines are written here, since the e-mail package's address parser is quadratic and takes more line ends
than CRLF.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.header import Header
from email.utils import format_datetime

from accounts.names import Address, InvalidName, parse_address
from mailflow import mime
from mailflow.mime import Attachment

MAX_HEADERS = 100
MAX_HEADER_VALUE = 10_000
MAX_NAME = 200
MAX_LINE = 76  # as `Header` folds
MAX_UNBROKEN = 900  # characters without a space: such a run cannot be folded, and a line has at most 998
_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}\Z")
_NAMED = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]+)>\Z")
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # Unicode's Cc, Zl and Zp, but for the tab
_SPACES = re.compile(r"[ \t]+")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*\Z")
# A field of these that is not ASCII holds addresses, which must not be put into encoded words (RFC 2047 §5).
_ADDRESS_FIELDS = {"disposition-notification-to", "errors-to", "mail-followup-to", "mail-reply-to", "reply-to"}
_LISTED = re.compile(r'(?:[^,"<]|"(?:[^"\\]|\\.)*"|<[^>]*>)+')

OWN_FIELDS: Mapping[str, str] = {
    "from": "sender", "to": "to", "cc": "cc", "bcc": "bcc", "subject": "subject",
}  # fmt: skip
SERVER_OWNED = {
    "authentication-results", "date", "delivered-to", "dkim-signature", "domainkey-signature", "message-id",
    "mime-version", "received", "received-spf", "return-path", "sender", "x-original-to",
}  # fmt: skip
SERVER_OWNED_PREFIXES = ("arc-", "content-", "resent-")


class InvalidPart(ValueError):
    """A part that cannot be put into a message; the text says which rule, without quoting the input."""


@dataclass(frozen=True, slots=True)
class Named:
    """An address with the name shown beside it."""

    address: Address
    name: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """The parts, already checked by the functions below. At least one of `text` and `html` is not None."""

    sender: Named
    to: Sequence[Named]
    subject: str
    text: str | None = None
    html: str | None = None
    cc: Sequence[Named] = ()
    reply_to: Sequence[Named] = ()
    headers: Sequence[tuple[str, str]] = field(default=())
    attachments: Sequence[Attachment] = field(default=())


def parse_named(text: str) -> Named:
    """Parse `a@example.com` or `Name <a@example.com>`; raise `InvalidPart`."""
    found = _NAMED.match(text.strip())
    name = found["name"].strip().strip('"') if found else ""
    check_header_text(name)
    if len(name) > MAX_NAME:
        raise InvalidPart(f"the name beside an address has at most {MAX_NAME} characters")
    try:
        return Named(parse_address(found["address"].strip() if found else text.strip()), name)
    except InvalidName as error:
        raise InvalidPart(f"{error}") from None


def check_header_text(value: str) -> None:
    """Raise `InvalidPart` unless the text can stand in a header field: one line, no control characters, foldable."""
    if "\r" in value or "\n" in value:
        raise InvalidPart("a header value must not contain CR or LF")
    if _CONTROLS.search(value):
        raise InvalidPart("a header value must not contain control characters")
    check_text(value)
    if len(value) > MAX_HEADER_VALUE:
        raise InvalidPart(f"a header value has at most {MAX_HEADER_VALUE} characters")
    if max(map(len, value.split()), default=0) > MAX_UNBROKEN:
        raise InvalidPart(f"a header value must have a space at least every {MAX_UNBROKEN} characters")


def check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidPart("the text is not valid Unicode (a lone surrogate)") from None


def check_header_name(name: str) -> None:
    """Raise `InvalidPart` for what is no field name, and for the fields that are not the client's to write."""
    if not _FIELD_NAME.match(name):
        raise InvalidPart("a header name has 1 to 76 printable ASCII characters and no colon or space")
    lowered = name.lower()
    if lowered in OWN_FIELDS:
        raise InvalidPart(f"give it in the field {OWN_FIELDS[lowered]!r}")
    if lowered in SERVER_OWNED or lowered.startswith(SERVER_OWNED_PREFIXES):
        raise InvalidPart("the server writes this header itself")


def compose(draft: Draft, *, message_id: str, date: dt.datetime) -> bytes:
    """Return the whole message; `message_id` comes with its angle brackets."""
    lines = [
        f"Date: {format_datetime(date)}",
        f"Message-ID: {message_id}",
        _address_line("From", [draft.sender]),
        _address_line("To", draft.to),
        _address_line("Cc", draft.cc),
        _address_line("Reply-To", draft.reply_to),
        _text_line("Subject", draft.subject),
        *(_further_line(name, value) for name, value in draft.headers),
    ]
    head = "".join(f"{line}\r\n" for line in lines if line)
    return head.encode() + mime.body(draft.text, draft.html, draft.attachments)


def _further_line(name: str, value: str) -> str:
    if not value.isascii() and name.lower() in _ADDRESS_FIELDS:
        try:
            return _address_line(name, [parse_named(one) for one in _LISTED.findall(value)])
        except InvalidPart:
            pass  # no list of addresses, so it is carried as any other text
    return _text_line(name, value)


def _text_line(name: str, value: str) -> str:
    value = _SPACES.sub(" ", value).strip(" ")  # folding within a run of spaces could leave a line of nothing else
    if value.isascii() and len(name) + 2 + len(value) <= MAX_LINE:
        return f"{name}: {value}"
    charset = None if value.isascii() else "utf-8"
    folded = Header(value, charset, header_name=name).encode(linesep="\r\n")
    return f"{name}: {folded}"


def _address_line(name: str, addresses: Sequence[Named]) -> str:
    """One address a line, so that a thousand of them need no folding; empty for none."""
    return f"{name}: " + ",\r\n ".join(_shown(one) for one in addresses) if addresses else ""


def _shown(one: Named) -> str:
    address = one.address.unicode if one.address.needs_smtputf8 else str(one.address)
    if not one.name:
        return address
    if not one.name.isascii():
        phrase = Header(one.name, "utf-8").encode(linesep="\r\n")
    elif _ATOMS.match(one.name):
        phrase = one.name
    else:
        escaped = one.name.replace("\\", "\\\\").replace('"', '\\"')
        phrase = f'"{escaped}"'
    return f"{phrase} <{address}>"
