"""AUTH as an exchange of lines: PLAIN, LOGIN and CRAM-MD5 (RFC 4954 §4, RFC 4616, RFC 2195).

Pure but for the challenge's clock and chance: the checks are `accounts.credentials` and `accounts.odmr`.
"""

from __future__ import annotations

import base64
import binascii
import enum
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mailflow.errors import Refused
from mailflow.smtp.reply import Reply

PASSWORD_MECHANISMS = ("PLAIN", "LOGIN")  # which show the password to whoever can read the line
CRAM_MD5 = "CRAM-MD5"
MAX_CREDENTIAL_OCTETS = 1024

_USERNAME = Reply(334, "", "VXNlcm5hbWU6")
_PASSWORD = Reply(334, "", "UGFzc3dvcmQ6")
_GO_AHEAD = Reply(334, "", "")


@dataclass(frozen=True, slots=True)
class Account:
    """Who a session authenticated as: a user, or the host of a domain, by the domain's ODMR secret.

    `domain` is empty for users; for a host it is its one domain, the mail of which is all that it may have, `username`
    is the same, and `user_id` is 0.
    """

    user_id: int
    username: str
    organization_id: int | None
    is_superuser: bool
    domain: str = ""


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


@dataclass(frozen=True, slots=True)
class ChallengeResponse:
    """The answer to a challenge: `digest` is that of the challenge under a secret, in hexadecimal (RFC 2195 §2)."""

    username: str
    challenge: bytes
    digest: str

    def __repr__(self) -> str:
        return f"ChallengeResponse({self.username!r}, …)"


Given = Credentials | ChallengeResponse


class Exchange:
    """One AUTH command: `begin`, then `go_on` with each further line, until it is `Given` and no challenge.

    `offered` are the mechanisms that the session may use now. Both raise `Refused` for what is malformed, cancelled or
    not offered; the exchange is over then.
    """

    def __init__(self, offered: Sequence[str] = PASSWORD_MECHANISMS, hostname: str = "localhost") -> None:
        self._offered = offered
        self._hostname = hostname
        self._is_plain = True
        self._username: str | None = None
        self._challenge = b""

    def begin(self, argument: str) -> Reply | Given:
        """Take what stood behind AUTH: the mechanism, and perhaps an initial response."""
        mechanism, _, initial = argument.partition(" ")
        if not mechanism:
            raise Refused(Reply(501, "5.4", "Syntax: AUTH mechanism"), rule="syntax")
        if mechanism.upper() not in self._offered:
            reply = Reply(504, "5.4", f"Mechanism is not offered; use {' or '.join(self._offered)}")
            raise Refused(reply, f"the mechanism {mechanism[:20]} is not offered", rule="mechanism")
        if mechanism.upper() == CRAM_MD5:
            if initial:  # RFC 4954 §4: here the server speaks first
                raise Refused(Reply(501, "7.0", f"{CRAM_MD5} has no initial response"), rule="syntax")
            return self._ask_challenge()
        self._is_plain = mechanism.upper() == "PLAIN"
        if initial:
            return self._take(_decode(initial))
        return _GO_AHEAD if self._is_plain else _USERNAME

    def _ask_challenge(self) -> Reply:
        """Make a text that no session was asked before: chance, a time stamp, our name (RFC 2195 §2)."""
        self._challenge = f"<{secrets.token_hex(16)}.{time.time_ns()}@{self._hostname}>".encode("ascii")
        return Reply(334, "", base64.b64encode(self._challenge).decode("ascii"))

    def go_on(self, line: bytes) -> Reply | Given:
        """Take the answer to a challenge."""
        if line == b"*":
            raise Refused(Reply(501, "7.0", "Authentication cancelled"), rule="cancelled")
        return self._take(_decode(line.decode("ascii", "replace")))

    def _take(self, octets: bytes) -> Reply | Given:
        if self._challenge:
            return _response(octets, self._challenge)
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


def _response(octets: bytes, challenge: bytes) -> ChallengeResponse:
    username, space, digest = _text(octets).rpartition(" ")
    if not (space and username):
        raise Refused(Reply(501, "5.2", f"{CRAM_MD5} is: user name, space, digest"), rule="syntax")
    return ChallengeResponse(username, challenge, digest)


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
