"""Delivery status notifications: the report that we write to a sender (RFC 3464, RFC 6522, RFC 6533).

Pure but for reading a template: equal facts give equal octets, so a report written again has the same Message-ID.
Everything that came from a remote system or from the message is made harmless here, once (`dsn_text`). The report is
7bit throughout, so any relay takes it; but for one whose own recipient is beyond ASCII: that needs SMTPUTF8 anyway.
Addresses beyond ASCII, and header sections in UTF-8, have parts of their own types (RFC 6533 §4). Its parts: for people
(`dsn_words`), for programs (`dsn_status`), the message or its header section (`dsn_original`).
"""

from __future__ import annotations

import email.header
import email.utils
import hashlib
import re

from queue.dsn_facts import Action, DsnFacts
from queue.dsn_original import is_whole, original_part
from queue.dsn_status import delivery_status, shown
from queue.dsn_text import clean, field_text, fields
from queue.dsn_words import MAX_SUBJECT, text_part

_WIDTH = 76
_MESSAGE_ID = re.compile(r"<[!-;=?-~]+@[!-;=?-~]+>\Z")
_MAX_MESSAGE_ID = 900
_SUBJECTS = {
    Action.FAILED: "Not delivered",
    Action.DELAYED: "Delayed",
    Action.DELIVERED: "Delivered",
    Action.RELAYED: "Passed on",
    Action.EXPANDED: "Passed on to several recipients",
}


def compose(facts: DsnFacts) -> bytes:
    """Return the report as a whole message with CRLF line ends; raise `ValueError` for a null reverse path.

    The whole message is given back only with a failure (RFC 3461 §4.3).
    """
    if not facts.reverse_path:
        raise ValueError("a message from the null path gets no report (RFC 5321 §6.1)")
    allow_8bit = facts.needs_smtputf8
    original = original_part(
        facts.content,
        wants_full=facts.dsn_return == "FULL" and facts.action is Action.FAILED,
        is_smtputf8=facts.is_internationalised,
        allow_8bit=allow_8bit,
    )
    described = (
        ("Notification", text_part(facts, full=is_whole(original))),
        ("Delivery report", delivery_status(facts, allow_8bit=allow_8bit)),
        ("Undelivered message" if facts.action is Action.FAILED else "Message header", original),
    )
    is_8bit = any(part.transfer_encoding == "8bit" for _, part in described)
    digest = _digest(facts)
    boundary = f"=_{digest}"
    head = fields(
        f"From: Mail Delivery System <MAILER-DAEMON@{field_text(facts.hostname)}>",
        f"To: <{_address(facts.reverse_path)}>",
        _subject(facts),
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
            fields(
                f"Content-Description: {description}",
                f"Content-Type: {part.content_type}",
                f"Content-Transfer-Encoding: {part.transfer_encoding}",
            ),
            part.octets,
        )
        for description, part in described
    )
    return head + b"\r\n" + body + b"--%s--\r\n" % boundary.encode("ascii")


def _address(text: str) -> str:
    return field_text(text) if text.isascii() else shown(text)


def _subject(facts: DsnFacts) -> str:
    subject = f"{_SUBJECTS[facts.action]}: {clean(facts.subject, MAX_SUBJECT) or 'your message'}"
    charset = "us-ascii" if subject.isascii() else "utf-8"
    return "Subject: " + email.header.Header(subject, charset, _WIDTH, "Subject").encode(linesep="\r\n")


def _threading(internet_message_id: str) -> list[str]:
    if len(internet_message_id) > _MAX_MESSAGE_ID or not _MESSAGE_ID.match(internet_message_id):
        return []
    return [f"In-Reply-To: {internet_message_id}", f"References: {internet_message_id}"]


def _digest(facts: DsnFacts) -> str:
    """Name the report, unguessably: our id was made after the last octet of the message had come."""
    told = [facts.message_id, facts.now.isoformat(), facts.action, *(one.recipient for one in facts.recipients)]
    return hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest()[:32]
