"""The trace header fields that we put on top of a message (RFC 5321 §4.4); what lies below is never changed."""

from __future__ import annotations

import datetime as dt
import re
from email.utils import format_datetime

from mailflow.smtp.envelope import Envelope
from mailflow.spool.accepted import Origin

_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]-]")


def received_line(*, message_id: str, hostname: str, origin: Origin, envelope: Envelope, at: dt.datetime) -> bytes:
    """Return one folded `Received` field with the message id, so that a user can be told what happened by it.

    The recipient is named only where there is one: a list would show the blind copies to everyone.
    """
    helo = _UNSAFE.sub("?", origin.helo) or "unknown"
    parts = []
    if origin.client_address:
        literal = f"IPv6:{origin.client_address}" if ":" in origin.client_address else origin.client_address
        parts.append(f"from {helo} ([{literal}])")
    tls = f" ({_UNSAFE.sub(' ', origin.tls)})" if origin.tls else ""
    parts.append(f"by {hostname} (mailproj) with {origin.protocol}{tls} id {message_id}")
    if len(envelope.recipients) == 1:
        parts.append(f"for <{envelope.recipients[0].address}>")
    return ("Received: " + "\r\n\t".join(parts) + ";\r\n\t" + format_datetime(at) + "\r\n").encode("ascii", "replace")


def return_path_line(reverse_path: str) -> bytes:
    """Return the `Return-Path` field that the final delivery puts on top (RFC 5321 §4.4)."""
    return f"Return-Path: <{reverse_path}>\r\n".encode("utf-8", "replace")


def missing_fields(*, message_id: str, hostname: str, at: dt.datetime, has_date: bool, has_message_id: bool) -> bytes:
    """Return the Date and Message-ID that a submitting client left out (RFC 6409 §8.1, §8.2)."""
    lines = []
    if not has_date:
        lines.append(f"Date: {format_datetime(at)}\r\n")
    if not has_message_id:
        lines.append(f"Message-ID: <{message_id}@{hostname}>\r\n")
    return "".join(lines).encode("ascii")
