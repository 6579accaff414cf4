"""AUTH PLAIN and LOGIN as an exchange of lines (RFC 4954 §4, RFC 4616); the check itself is `accounts.credentials`."""

from __future__ import annotations

import base64
import binascii
import enum
from dataclasses import dataclass
from typing import Protocol

from mailflow.errors import Refused
from mailflow.smtp.reply import Reply

MALFORMED = Reply(501, "5.2", "Not valid base64")
CANCELLED = Reply(501, "7.0", "Authentication cancelled")
MAX_CREDENTIAL_OCTETS = 1024


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


class AnsweredAlready(Exception):
    """A line of the exchange broke the rules and got its reply; the exchange is over without another."""


class Line(Protocol):
    """What the exchange needs of a session."""

    async def say(self, reply: Reply) -> None: ...

    async def read_line(self) -> bytes | None: ...


async def read_credentials(line: Line, argument: str) -> tuple[str, str]:
    """Return user name and password; raises `Refused` for what is malformed, cancelled or not offered."""
    mechanism, _, initial = argument.partition(" ")
    match mechanism.upper():
        case "PLAIN":
            return await _plain(line, initial)
        case "LOGIN":
            return await _login(line, initial)
        case "":
            raise Refused(Reply(501, "5.4", "Syntax: AUTH mechanism"))
        case _:
            raise Refused(Reply(504, "5.4", "Mechanism is not offered; use PLAIN or LOGIN"))


async def _plain(line: Line, initial: str) -> tuple[str, str]:
    octets = _decode(initial) if initial else await _challenge(line, "")
    parts = octets.split(b"\0")
    if len(parts) != 3:
        raise Refused(Reply(501, "5.2", "PLAIN is: identity, NUL, user name, NUL, password"))
    identity, username, password = (_text(part) for part in parts)
    if identity and identity != username:
        raise Refused(Reply(535, "7.8", "Authentication credentials invalid"))
    return username, password


async def _login(line: Line, initial: str) -> tuple[str, str]:
    username = _decode(initial) if initial else await _challenge(line, "VXNlcm5hbWU6")
    password = await _challenge(line, "UGFzc3dvcmQ6")
    return _text(username), _text(password)


async def _challenge(line: Line, prompt: str) -> bytes:
    await line.say(Reply(334, "", prompt))
    answer = await line.read_line()
    if answer is None:
        raise AnsweredAlready
    if answer == b"*":
        raise Refused(CANCELLED)
    return _decode(answer.decode("ascii", "replace"))


def _decode(text: str) -> bytes:
    if text == "=":  # RFC 4954 §4: an empty initial response
        return b""
    try:
        octets = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(MALFORMED) from None
    if len(octets) > MAX_CREDENTIAL_OCTETS:
        raise Refused(Reply(500, "5.6", "Credentials are too long"))
    return octets


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(Reply(501, "5.2", "Credentials are not UTF-8")) from None
