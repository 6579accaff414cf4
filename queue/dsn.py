"""Delivery status notifications: the report that we write to a sender (RFC 3464, RFC 6522).

Pure but for reading a template: equal facts give equal octets, so a report written again has the same Message-ID.
Everything that came from a remote system or from the message is made harmless here, once: no control character passes,
non-ASCII becomes quoted-printable in the text and `\\x{…}` in fields (RFC 6533 §3), lengths are bounded.
The report is 7bit throughout, so any relay takes it.
"""

from __future__ import annotations

import datetime as dt
import email.header
import email.utils
import hashlib
import quopri
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from django.template.loader import render_to_string

from queue.dsn_causes import cause_of
from queue.outcome import Kind, Outcome

MAX_HEADER_OCTETS = 64 * 1024
MAX_FULL_OCTETS = 1024 * 1024
MAX_LINE_OCTETS = 998  # RFC 5322 §2.1.1, without CRLF
_MAX_ANSWER = 900  # a field of one word must still fit one line
_MAX_ANSWER_LINES = 12
_MAX_SUBJECT = 150
_MAX_NAME = 320
_WIDTH = 76

_MESSAGE_ID = re.compile(r"<[!-;=?-~]+@[!-;=?-~]+>\Z")
_MAX_MESSAGE_ID = 900
_NEXT_HOP_HOST = re.compile(r"([A-Za-z0-9_.-]{1,255})\[")
_NEXT_HOP_ADDRESS = re.compile(r"([0-9A-Fa-f.:]{2,45}):\d+\Z")
_PERMANENT = re.compile(r"5\.(?:0|[1-9]\d{0,2})\.(?:0|[1-9]\d{0,2})\Z")
_TEMPORARY = re.compile(r"4\.((?:0|[1-9]\d{0,2})\.(?:0|[1-9]\d{0,2}))\Z")
_UNSPECIFIC = "5.0.0"
_EXPIRED = "5.4.7"


@dataclass(frozen=True, slots=True)
class RecipientFacts:
    """One recipient's last attempt. `expired`: the time allowed has passed, whatever that attempt said."""

    recipient: str
    outcome: Outcome
    attempted_at: dt.datetime
    expired: bool = False


@dataclass(frozen=True, slots=True)
class DsnFacts:
    """All that a report tells. `content` is the message as it was accepted; times are aware."""

    hostname: str
    message_id: str
    reverse_path: str
    accepted_at: dt.datetime
    recipients: Sequence[RecipientFacts]
    content: bytes
    now: dt.datetime
    subject: str = ""
    internet_message_id: str = ""
    envelope_id: str = ""  # as the sender meant it: decoded from xtext
    dsn_return: str = ""


def failure_dsn(facts: DsnFacts) -> bytes:
    """Return the report as a whole message with CRLF line ends; raise `ValueError` for a null reverse path."""
    if not facts.reverse_path:
        raise ValueError("a message from the null path gets no report (RFC 5321 §6.1)")
    original_type, original_encoding, original = _original(facts)
    text_encoding, charset, text = _encode_text(_readable(facts, full=original_type == "message/rfc822"))
    digest = _digest(facts)
    boundary = f"=_{digest}"
    parts = (
        (f"text/plain; charset={charset}", text_encoding, "Notification", text),
        ("message/delivery-status", "7bit", "Delivery report", _delivery_status(facts, action="failed")),
        (original_type, original_encoding, "Undelivered message", original),
    )
    head = _fields(
        f"From: Mail Delivery System <MAILER-DAEMON@{_field_text(facts.hostname)}>",
        f"To: <{_field_text(facts.reverse_path)}>",
        _subject(facts.subject),
        f"Date: {email.utils.format_datetime(facts.now)}",
        f"Message-ID: <dsn.{digest}@{_field_text(facts.hostname)}>",
        *_threading(facts.internet_message_id),
        "Auto-Submitted: auto-replied",  # RFC 3834 §5; keeps vacation programs quiet
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f' boundary="{boundary}"',
        "Content-Transfer-Encoding: 7bit",
    )
    body = b"".join(
        b"--%s\r\n%s\r\n%s\r\n"
        % (
            boundary.encode("ascii"),
            _fields(
                f"Content-Description: {description}",
                f"Content-Type: {kind}",
                f"Content-Transfer-Encoding: {encoding}",
            ),
            octets,
        )
        for kind, encoding, description, octets in parts
    )
    return head + b"\r\n" + body + b"--%s--\r\n" % boundary.encode("ascii")


def status_of(recipient: RecipientFacts) -> str:
    """Return the class 5 code of a recipient that failed (RFC 3463).

    A temporary answer that became final because the attempts were used up keeps its subject and detail, which name the
    actual problem (RFC 3463 §3.5, X.4.7); only where the time ran out is that itself the cause.
    """
    enhanced_code = recipient.outcome.enhanced_code
    if recipient.outcome.kind is not Kind.DEFERRED:
        return enhanced_code if _PERMANENT.match(enhanced_code) else _UNSPECIFIC
    if recipient.expired:
        return _EXPIRED
    found = _TEMPORARY.match(enhanced_code)
    return f"5.{found[1]}" if found else _UNSPECIFIC


def _readable(facts: DsnFacts, *, full: bool) -> str:
    failures = [_failure(recipient) for recipient in facts.recipients]
    return render_to_string(
        "dsn/failure.txt",
        {
            "hostname": _clean(facts.hostname, _MAX_NAME),
            "subject": _clean(facts.subject, _MAX_SUBJECT),
            "accepted_at": email.utils.format_datetime(facts.accepted_at),
            "message_id": facts.message_id,
            "failures": failures,
            "full": full,
        },
    )


def _failure(recipient: RecipientFacts) -> dict[str, object]:
    outcome = recipient.outcome
    cause = cause_of(status_of(recipient))
    return {
        "recipient": _clean(recipient.recipient, _MAX_NAME),
        "remote_host": _remote_host(outcome),
        "has_code": outcome.code is not None,
        "answer": _quoted_answer(outcome),
        "gave_up": _gave_up(recipient),
        "meaning": textwrap.fill(cause.meaning, _WIDTH, initial_indent="  ", subsequent_indent="  "),
        "remedy": textwrap.fill(cause.remedy, _WIDTH, initial_indent="  ", subsequent_indent="  "),
    }


def _gave_up(recipient: RecipientFacts) -> str:
    if recipient.outcome.kind is not Kind.DEFERRED:
        return ""
    if recipient.expired:
        return "  The message was tried again until the time allowed had passed."
    return "  This may have been temporary, but every attempt allowed was used up."


def _quoted_answer(outcome: Outcome) -> str:
    """Return the answer in its own words and lines, indented, so that nothing in it can pass for our own words."""
    lines = [_clean(line, _MAX_ANSWER) for line in outcome.reply.splitlines()[:_MAX_ANSWER_LINES]]
    if outcome.code is not None:
        lines = [f"{outcome.code} {line}" for line in lines or [""]]
    indent = "    "
    wrapped = [
        textwrap.fill(line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        for line in lines
        if line
    ]
    return "\n".join(wrapped) or f"{indent}(no answer)"


def _delivery_status(facts: DsnFacts, *, action: str) -> bytes:
    """Return the part for programs: one group of fields for the message, one for each recipient (RFC 3464 §2.1)."""
    envelope_id = _field_text(facts.envelope_id)
    groups = [
        _fields(
            *([f"Original-Envelope-Id: {envelope_id}"] if envelope_id else []),
            f"Reporting-MTA: dns; {_field_text(facts.hostname)}",
            f"Arrival-Date: {email.utils.format_datetime(facts.accepted_at)}",
            f"X-Mailproj-Message-ID: {facts.message_id}",
        )
    ]
    for recipient in facts.recipients:
        outcome = recipient.outcome
        remote_host = _remote_host(outcome)
        groups.append(
            _fields(
                f"Final-Recipient: rfc822; {_field_text(recipient.recipient)}",
                f"Action: {action}",
                f"Status: {status_of(recipient)}",
                *([f"Remote-MTA: dns; {remote_host}"] if remote_host else []),
                _diagnostic(outcome),
                f"Last-Attempt-Date: {email.utils.format_datetime(recipient.attempted_at)}",
            )
        )
    return b"\r\n".join(groups)


def _diagnostic(outcome: Outcome) -> str:
    """Name an SMTP reply as such; words of our own go under our own type (RFC 3464 §2.1.2)."""
    answer = _field_text(outcome.reply, _MAX_ANSWER) or "no answer"
    text = f"X-Mailproj; {answer}" if outcome.code is None else f"smtp; {outcome.code} {answer}"
    folded = textwrap.wrap(text, _WIDTH - len("Diagnostic-Code: "), break_long_words=False, break_on_hyphens=False)
    return "Diagnostic-Code: " + "\r\n ".join(folded)


def _remote_host(outcome: Outcome) -> str:
    """Return who gave the reply; empty where no other system spoke (RFC 3464 §2.3.5)."""
    if outcome.code is None:
        return ""
    host = _NEXT_HOP_HOST.match(outcome.next_hop)
    if host:
        return host[1]
    address = _NEXT_HOP_ADDRESS.match(outcome.next_hop)
    if not address:
        return ""
    return f"[IPv6:{address[1]}]" if ":" in address[1] else f"[{address[1]}]"


def _original(facts: DsnFacts) -> tuple[str, str, bytes]:
    """Return content type, encoding and octets of what is given back.

    The whole message only where the sender asked for it (RET=FULL), it is not large, and it is 7bit: `message/rfc822`
    may not be encoded (RFC 2046 §5.2.1), and the sender's choice is a wish (RFC 3461 §4.3).
    """
    content = facts.content
    if facts.dsn_return == "FULL" and len(content) <= MAX_FULL_OCTETS and _is_7bit(content):
        return "message/rfc822", "7bit", content
    head = _header_section(content)
    if _is_7bit(head):
        return "text/rfc822-headers", "7bit", head
    return "text/rfc822-headers", "quoted-printable", _quoted_printable(head)


def _header_section(content: bytes) -> bytes:
    """Return the header section, cut after a whole line where it is too long; ends in CRLF."""
    window = content[:MAX_HEADER_OCTETS]
    if window.startswith(b"\r\n"):
        return b""
    head, empty_line, _ = window.partition(b"\r\n\r\n")
    if empty_line or len(content) <= MAX_HEADER_OCTETS:
        return head.removesuffix(b"\r\n") + b"\r\n"
    return head[: head.rfind(b"\r\n") + 2] if b"\r\n" in head else head + b"\r\n"


def _is_7bit(octets: bytes) -> bool:
    """RFC 2045 §2.7: ASCII without NUL, CR and LF only together, lines that fit."""
    pairs = octets.count(b"\r\n")
    return (
        octets.isascii()
        and b"\0" not in octets
        and octets.count(b"\r") == pairs == octets.count(b"\n")
        and max(map(len, octets.split(b"\r\n"))) <= MAX_LINE_OCTETS
    )


def _encode_text(text: str) -> tuple[str, str, bytes]:
    """Return transfer encoding, charset and octets of the readable part."""
    octets = re.sub(r"\n{3,}", "\n\n", text.strip() + "\n").replace("\n", "\r\n").encode("utf-8")
    if _is_7bit(octets):
        return "7bit", "us-ascii", octets
    return "quoted-printable", "utf-8", _quoted_printable(octets)


def _quoted_printable(octets: bytes) -> bytes:
    """Encode with lines of at most 76 octets; a bare CR or LF becomes a line end, as in any text part."""
    lines = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return quopri.encodestring(lines).replace(b"\n", b"\r\n")


def _subject(original: str) -> str:
    subject = "Not delivered: " + (_clean(original, _MAX_SUBJECT) or "your message")
    charset = "us-ascii" if subject.isascii() else "utf-8"
    return "Subject: " + email.header.Header(subject, charset, _WIDTH, "Subject").encode(linesep="\r\n")


def _threading(internet_message_id: str) -> list[str]:
    if len(internet_message_id) > _MAX_MESSAGE_ID or not _MESSAGE_ID.match(internet_message_id):
        return []
    return [f"In-Reply-To: {internet_message_id}", f"References: {internet_message_id}"]


def _fields(*fields: str) -> bytes:
    return b"".join(field.encode("ascii") + b"\r\n" for field in fields)


def _field_text(text: str, limit: int = _MAX_NAME) -> str:
    """Make a text fit for a structured field: one line of printable ASCII, the rest as `\\x{…}`."""
    ascii_text = "".join(char if char.isascii() else f"\\x{{{ord(char):X}}}" for char in _clean(text, limit))
    return ascii_text if len(ascii_text) <= limit else ascii_text[: limit - 3] + "..."


def _clean(text: str, limit: int) -> str:
    """Drop what is not printable (controls, line ends, direction marks, lone surrogates) and runs of space."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    one_line = " ".join(printable.split())
    return one_line if len(one_line) <= limit else one_line[: limit - 3] + "..."


def _digest(facts: DsnFacts) -> str:
    """Name the report, unguessably: our id was made after the last octet of the message had come."""
    told = [facts.message_id, facts.now.isoformat(), *(recipient.recipient for recipient in facts.recipients)]
    return hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest()[:32]
