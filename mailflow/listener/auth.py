"""AUTH PLAIN and LOGIN as an exchange of lines (RFC 4954 §4, RFC 4616); pure: the check is `accounts.credentials`."""

from __future__ import annotations

import base64
import binascii
import enum
from dataclasses import dataclass

from mailflow.errors import Refused
from mailflow.smtp.reply import Reply

MECHANISMS = ("PLAIN", "LOGIN")
MAX_CREDENTIAL_OCTETS = 1024

_USERNAME = Reply(334, "", "VXNlcm5hbWU6")
_PASSWORD = Reply(334, "", "UGFzc3dvcmQ6")
_GO_AHEAD = Reply(334, "", "")


@dataclass(frozen=True, slots=True)
class Account:
    """Who a session authenticated as."""

    user_id: int
    username: str
    organization_id: int | None
    is_superuser: bool


class Standing(enum.Enum):
    """What an authenticated account may do with a reverse path, at this moment."""

    OWNS = "owns"
    OWNS_NOT = "owns not"
    OFF = "off"  # the user or its organization was switched off, or is gone


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client says it knows. Never written anywhere."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"


class Exchange:
    """One AUTH command: `begin`, then `go_on` with each further line, until it is `Credentials` and no challenge.

    Both raise `Refused` for what is malformed, cancelled or not offered; the exchange is over then.
    """

    def __init__(self) -> None:
        self._is_plain = True
        self._username: str | None = None

    def begin(self, argument: str) -> Reply | Credentials:
        """Take what stood behind AUTH: the mechanism, and perhaps an initial response."""
        mechanism, _, initial = argument.partition(" ")
        if not mechanism:
            raise Refused(Reply(501, "5.4", "Syntax: AUTH mechanism"), rule="syntax")
        if mechanism.upper() not in MECHANISMS:
            reply = Reply(504, "5.4", f"Mechanism is not offered; use {' or '.join(MECHANISMS)}")
            raise Refused(reply, f"the mechanism {mechanism[:20]} is not offered", rule="mechanism")
        self._is_plain = mechanism.upper() == "PLAIN"
        if initial:
            return self._take(_decode(initial))
        return _GO_AHEAD if self._is_plain else _USERNAME

    def go_on(self, line: bytes) -> Reply | Credentials:
        """Take the answer to a challenge."""
        if line == b"*":
            raise Refused(Reply(501, "7.0", "Authentication cancelled"), rule="cancelled")
        return self._take(_decode(line.decode("ascii", "replace")))

    def _take(self, octets: bytes) -> Reply | Credentials:
        if self._is_plain:
            return _plain(octets)
        if self._username is None:
            self._username = _text(octets)
            return _PASSWORD
        return Credentials(self._username, _text(octets))


def _plain(octets: bytes) -> Credentials:
    parts = octets.split(b"\0")
    if len(parts) != 3:
        raise Refused(Reply(501, "5.2", "PLAIN is: identity, NUL, user name, NUL, password"), rule="syntax")
    identity, username, password = (_text(part) for part in parts)
    if identity and identity != username:
        reason = f"{username[:100]} asked to act as {identity[:100]}"
        raise Refused(Reply(535, "7.8", "Authentication credentials invalid"), reason, rule="other_identity")
    return Credentials(username, password)


def _decode(text: str) -> bytes:
    if text == "=":  # RFC 4954 §4: an empty initial response
        return b""
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(Reply(501, "5.2", "Not valid base64"), rule="syntax") from None
    if len(octets) > MAX_CREDENTIAL_OCTETS:
        raise Refused(Reply(500, "5.6", "Credentials are too long"), rule="syntax")
    return octets


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(Reply(501, "5.2", "Credentials are not UTF-8"), rule="syntax") from None
