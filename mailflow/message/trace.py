"""The trace header fields that we put on top of a message (RFC 5321 §4.4, RFC 6531 §3.7.3, RFC 8314 §4.3).

What stands below them never changes.

A field is in UTF-8 where an address cannot be said in ASCII, and nowhere else: U-labels in a message that is ASCII
otherwise would shut it out from every host without SMTPUTF8.
"""

from __future__ import annotations

import datetime as dt
import re
from contextlib import suppress
from email.utils import format_datetime
from functools import lru_cache

from accounts.names import Address, InvalidName, parse_address
from mailflow.smtp.envelope import Envelope
from mailflow.spool.accepted import Origin

_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]-]")
_BY_NO_PROTOCOL = frozenset(["INTERNAL"])  # made here: nothing was transmitted that a `with` could name
_SUITE = re.compile(r"(ECDHE|DHE)-(ECDSA|RSA)-(?:AES(128|256)-(GCM-)?(SHA(?:256|384)?)|CHACHA20-POLY1305)\Z")


def received_line(*, message_id: str, hostname: str, origin: Origin, envelope: Envelope, at: dt.datetime) -> bytes:
    """Return one folded `Received` field with the message id, so that a user can be told what happened by it.

    The recipient is named only where there is one: a list would show the blind copies to everyone. One that cannot be
    said in ASCII is named only in a message that was declared SMTPUTF8.
    """
    helo = _safe(origin.helo, "?") or "unknown"
    parts = []
    if origin.client_address:
        literal = f"IPv6:{origin.client_address}" if ":" in origin.client_address else origin.client_address
        parts.append(f"from {helo} ([{literal}])")
    protocol = "" if origin.protocol in _BY_NO_PROTOCOL else f" with {origin.protocol}"
    comment, clause = _tls(origin.tls) if origin.tls else ("", "")
    parts.append(f"by {hostname} (mailproj){protocol}{comment} id {message_id}")
    if len(envelope.recipients) == 1:
        address = envelope.recipients[0].address
        if envelope.is_smtputf8 or not address.needs_smtputf8:
            parts.append(f"for <{_in_a_field(address)}>")
    if clause:
        parts.append(clause)
    return ("Received: " + "\r\n\t".join(parts) + ";\r\n\t" + _date(int(at.timestamp())) + "\r\n").encode(
        "utf-8", "replace"
    )


@lru_cache(maxsize=64)
def _tls(words: str) -> tuple[str, str]:
    """Return what a TLS connection adds: a comment, and the `tls` clause where the suite's registered name is known."""
    version, _, suite = words.partition(" ")
    name = _registered_name(suite)
    if not name:
        return f" ({_safe(words, ' ')})", ""
    return "", f"tls {name} ({_safe(version, ' ')})"


def _registered_name(suite: str) -> str:
    """Return the IANA name of a cipher suite that OpenSSL names; empty where there is no saying.

    Those of TLS 1.3 have one name. Older ones have another with OpenSSL, which leaves out what went without saying.
    """
    if suite.startswith("TLS_") and suite.replace("_", "").isalnum():
        return suite
    match = _SUITE.match(suite)
    if match is None:
        return ""
    exchange, signature, bits, gcm, digest = match.groups()
    cipher = f"AES_{bits}_{'GCM' if gcm else 'CBC'}_{digest}" if bits else "CHACHA20_POLY1305_SHA256"
    return f"TLS_{exchange}_{signature}_WITH_{cipher}"


def return_path_line(reverse_path: str) -> bytes:
    """Return the `Return-Path` field that the final delivery puts on top (RFC 5321 §4.4); equal for an equal path."""
    if not reverse_path.isascii():
        with suppress(InvalidName):
            reverse_path = _in_a_field(parse_address(reverse_path))
    return f"Return-Path: <{reverse_path}>\r\n".encode("utf-8", "replace")


def missing_fields(*, message_id: str, hostname: str, at: dt.datetime, has_date: bool, has_message_id: bool) -> bytes:
    """Return the Date and Message-ID that a submitting client left out (RFC 6409 §8.1, §8.2)."""
    lines = []
    if not has_date:
        lines.append(f"Date: {_date(int(at.timestamp()))}\r\n")
    if not has_message_id:
        lines.append(f"Message-ID: <{message_id}@{hostname}>\r\n")
    return "".join(lines).encode("ascii")


@lru_cache(maxsize=16)
def _date(seconds: int) -> str:
    """Return the date of RFC 5322 §3.3; many messages share a second."""
    return format_datetime(dt.datetime.fromtimestamp(seconds, dt.UTC))


@lru_cache(maxsize=1024)
def _safe(text: str, instead: str) -> str:
    return _UNSAFE.sub(instead, text)


def _in_a_field(address: Address) -> str:
    """An address that is not ASCII is in UTF-8 throughout, its domain in U-labels (RFC 6531 §3.7)."""
    return address.unicode if address.needs_smtputf8 else str(address)
