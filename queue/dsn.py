"""Delivery status notifications: the report that we write to a sender (RFC 3464, RFC 6522, RFC 6533).

Pure but for reading a template: equal facts give equal octets, so a report written again has the same Message-ID.
Everything that came from a remote system or from the message is made harmless here, once (`dsn_text`). The report is
7bit throughout, so any relay takes it; but for one whose own recipient is beyond ASCII: that needs SMTPUTF8 anyway.
Addresses beyond ASCII, and header sections in UTF-8, have parts of their own types (RFC 6533 §4).
"""

from __future__ import annotations

import datetime as dt
import email.header
import email.utils
import hashlib
import re
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from django.template.loader import render_to_string

from accounts.names import InvalidName, parse_address
from queue.dsn_causes import cause_of
from queue.dsn_original import is_whole, original_part
from queue.dsn_text import MAX_NAME, Part, clean, encoded, field_text
from queue.outcome import Kind, Outcome

_MAX_ANSWER = 900  # a field of one word must still fit one line
_MAX_ANSWER_LINES = 12
_MAX_SUBJECT = 150
_MAX_ORIGINAL_RECIPIENT = 500
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
    """One recipient's last attempt. `expired`: the time allowed has passed, whatever that attempt said.

    `original_recipient` is ORCPT as `type;address`, decoded (RFC 3461 §4.2, RFC 6533 §3).
    """

    recipient: str
    outcome: Outcome
    attempted_at: dt.datetime
    expired: bool = False
    original_recipient: str = ""

    @property
    def is_beyond_ascii(self) -> bool:
        return not (self.recipient.isascii() and self.original_recipient.isascii())


@dataclass(frozen=True, slots=True)
class DsnFacts:
    """All that a report tells. `content` is the message as it was accepted; times are aware.

    `is_smtputf8`: the message was declared so (RFC 6531 §3.4).
    """

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
    is_smtputf8: bool = False

    @property
    def needs_smtputf8(self) -> bool:
        """Whether the report itself needs SMTPUTF8, and 8BITMIME with it: it is written to such an address."""
        return not self.reverse_path.isascii()

    @property
    def is_internationalised(self) -> bool:
        return self.is_smtputf8 or self.needs_smtputf8 or any(one.is_beyond_ascii for one in self.recipients)


def failure_dsn(facts: DsnFacts) -> bytes:
    """Return the report as a whole message with CRLF line ends; raise `ValueError` for a null reverse path."""
    if not facts.reverse_path:
        raise ValueError("a message from the null path gets no report (RFC 5321 §6.1)")
    allow_8bit = facts.needs_smtputf8
    original = original_part(
        facts.content,
        wants_full=facts.dsn_return == "FULL",
        is_smtputf8=facts.is_internationalised,
        allow_8bit=allow_8bit,
    )
    described = (
        ("Notification", _text_part(_readable(facts, full=is_whole(original)))),
        ("Delivery report", _delivery_status(facts, action="failed", allow_8bit=allow_8bit)),
        ("Undelivered message", original),
    )
    is_8bit = any(part.transfer_encoding == "8bit" for _, part in described)
    digest = _digest(facts)
    boundary = f"=_{digest}"
    head = _fields(
        f"From: Mail Delivery System <MAILER-DAEMON@{field_text(facts.hostname)}>",
        f"To: <{_address(facts.reverse_path)}>",
        _subject(facts.subject),
        f"Date: {email.utils.format_datetime(facts.now)}",
        f"Message-ID: <dsn.{digest}@{field_text(facts.hostname)}>",
        *_threading(facts.internet_message_id),
        "Auto-Submitted: auto-replied",  # RFC 3834 §5; keeps vacation programs quiet
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f' boundary="{boundary}"',
        f"Content-Transfer-Encoding: {'8bit' if is_8bit else '7bit'}",
    )
    body = b"".join(
        b"--%s\r\n%s\r\n%s\r\n"
        % (
            boundary.encode("ascii"),
            _fields(
                f"Content-Description: {description}",
                f"Content-Type: {part.content_type}",
                f"Content-Transfer-Encoding: {part.transfer_encoding}",
            ),
            part.octets,
        )
        for description, part in described
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
            "hostname": clean(facts.hostname, MAX_NAME),
            "subject": clean(facts.subject, _MAX_SUBJECT),
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
        "recipient": _shown(recipient.recipient),
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
    lines = [clean(line, _MAX_ANSWER) for line in outcome.reply.splitlines()[:_MAX_ANSWER_LINES]]
    if outcome.code is not None:
        lines = [f"{outcome.code} {line}" for line in lines or [""]]
    indent = "    "
    wrapped = [
        textwrap.fill(line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        for line in lines
        if line
    ]
    return "\n".join(wrapped) or f"{indent}(no answer)"


def _delivery_status(facts: DsnFacts, *, action: str, allow_8bit: bool) -> Part:
    """Return the part for programs: one group of fields for the message, one for each recipient (RFC 3464 §2.1).

    It is in UTF-8, under the type for that, where an address is (RFC 6533 §4.1).
    """
    is_global = any(recipient.is_beyond_ascii for recipient in facts.recipients)
    envelope_id = field_text(facts.envelope_id)
    groups = [
        _fields(
            *([f"Original-Envelope-Id: {envelope_id}"] if envelope_id else []),
            f"Reporting-MTA: dns; {field_text(facts.hostname)}",
            f"Arrival-Date: {email.utils.format_datetime(facts.accepted_at)}",
            f"X-Mailproj-Message-ID: {facts.message_id}",
        )
    ]
    for recipient in facts.recipients:
        outcome = recipient.outcome
        remote_host = _remote_host(outcome)
        groups.append(
            _fields(
                *_original_recipient(recipient.original_recipient),
                f"Final-Recipient: {_typed(recipient.recipient)}",
                f"Action: {action}",
                f"Status: {status_of(recipient)}",
                *([f"Remote-MTA: dns; {remote_host}"] if remote_host else []),
                _diagnostic(outcome, is_global=is_global),
                f"Last-Attempt-Date: {email.utils.format_datetime(recipient.attempted_at)}",
            )
        )
    content_type = "message/global-delivery-status" if is_global else "message/delivery-status"
    return Part(content_type, *encoded(b"\r\n".join(groups), allow_8bit=allow_8bit))


def _original_recipient(original: str) -> list[str]:
    """Tell ORCPT as the sender gave it (RFC 3464 §2.3.1); no field where none was given."""
    kind, semicolon, address = original.partition(";")
    kind, address = field_text(kind, 40), clean(address, _MAX_ORIGINAL_RECIPIENT)
    return [f"Original-Recipient: {kind}; {address}"] if kind and semicolon and address else []


def _typed(recipient: str) -> str:
    return f"rfc822; {field_text(recipient)}" if recipient.isascii() else f"utf-8; {_shown(recipient)}"


def _address(text: str) -> str:
    return field_text(text) if text.isascii() else _shown(text)


def _shown(recipient: str) -> str:
    """Return an address for people: one beyond ASCII in UTF-8 throughout, its domain in U-labels (RFC 6531 §3.7)."""
    if not recipient.isascii():
        with suppress(InvalidName):
            return parse_address(recipient).unicode
    return clean(recipient, MAX_NAME)


def _diagnostic(outcome: Outcome, *, is_global: bool) -> str:
    """Name an SMTP reply as such; words of our own go under our own type (RFC 3464 §2.1.2)."""
    words = clean(outcome.reply, _MAX_ANSWER) if is_global else field_text(outcome.reply, _MAX_ANSWER)
    answer = words or "no answer"
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


def _text_part(text: str) -> Part:
    octets = re.sub(r"\n{3,}", "\n\n", text.strip() + "\n").replace("\n", "\r\n").encode("utf-8")
    charset = "us-ascii" if octets.isascii() else "utf-8"
    return Part(f"text/plain; charset={charset}", *encoded(octets, allow_8bit=False))


def _subject(original: str) -> str:
    subject = "Not delivered: " + (clean(original, _MAX_SUBJECT) or "your message")
    charset = "us-ascii" if subject.isascii() else "utf-8"
    return "Subject: " + email.header.Header(subject, charset, _WIDTH, "Subject").encode(linesep="\r\n")


def _threading(internet_message_id: str) -> list[str]:
    if len(internet_message_id) > _MAX_MESSAGE_ID or not _MESSAGE_ID.match(internet_message_id):
        return []
    return [f"In-Reply-To: {internet_message_id}", f"References: {internet_message_id}"]


def _fields(*fields: str) -> bytes:
    return b"".join(field.encode() + b"\r\n" for field in fields)


def _digest(facts: DsnFacts) -> str:
    """Name the report, unguessably: our id was made after the last octet of the message had come."""
    told = [facts.message_id, facts.now.isoformat(), *(recipient.recipient for recipient in facts.recipients)]
    return hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest()[:32]
