"""Mail without a sender that fails: the postmaster hears of it, once, and not of each one alone (RFC 3461 §5.2, §6.1).

Such mail is a report that cannot be given back, ours or another system's. The settlement notes it; the sweep of an
engine collects what was noted into one report, `DOUBLE_BOUNCE_INTERVAL` apart at least, so that no flood of bounces
becomes a flood of reports. A report of this kind that fails is noted nowhere: its header section says what it is, and
keeps saying so wherever an alias sends it on.
"""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from email.policy import SMTP

import structlog
from django.conf import settings
from django.db import transaction
from django.template.loader import render_to_string
from django.utils import timezone

from accounts import addresses
from accounts.addresses import POSTMASTER
from accounts.names import Address, parse_address
from mailflow import content, events, receiver
from mailflow.errors import Refused
from mailflow.ids import new_row_id, new_trace_id
from mailflow.message.headers import header_section_end
from mailflow.models import Event, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue.dsn_original import header_section
from queue.dsn_text import clean
from queue.models import DoubleBounce

logger = structlog.get_logger(__name__)

MARK = b"X-Mailproj-Report: double-bounce"
MAX_SHOWN = 50
MAX_HEADS = 5
MAX_HEAD_OCTETS = 16 << 10
MAX_TAKEN = 1000  # of which one report tells
_MAX_WORDS = 400


def is_report(head: bytes) -> bool:
    """Whether a message is a report of this kind, by its own header section; what it returns is below that."""
    section = b"\r\n" + head[: header_section_end(head)].lower()
    return b"\r\n" + MARK.lower() + b"\r\n" in section + b"\r\n"


def note(message: Message, words: str, *, head: bytes, now: dt.datetime) -> bool:
    """Note a message that failed, in the caller's transaction; say whether the postmaster will hear of it.

    Each message is told of once: what fails of it later is in its events.
    """
    if is_report(head) or _postmaster() is None:
        return False
    row = DoubleBounce(id=new_row_id(), message_id=message.pk, words=events.clean_text(words), created_at=now)
    DoubleBounce.objects.bulk_create([row], ignore_conflicts=True)
    return True


def report_due() -> list[int]:
    """Write to the postmaster if there is anything and the last time is long ago; return the new entries' ids."""
    if not DoubleBounce.objects.filter(told_at__isnull=True).exists():
        return []
    now = timezone.now()
    latest = now - dt.timedelta(seconds=settings.DOUBLE_BOUNCE_INTERVAL_SECONDS)
    if DoubleBounce.objects.filter(told_at__gt=latest).exists():
        return []
    with transaction.atomic():
        return _report(now)


def _report(now: dt.datetime) -> list[int]:
    untold = DoubleBounce.objects.filter(told_at__isnull=True).order_by("pk")
    rows = list(untold.select_for_update(skip_locked=True, no_key=True)[:MAX_TAKEN])
    postmaster = _postmaster()
    if not rows or postmaster is None:
        return []
    messages = Message.objects.in_bulk([row.message_id for row in rows])
    submission = receiver.Submission(
        source=Message.Source.DSN.value,
        envelope=Envelope(None, [Recipient(postmaster, notify="NEVER")], is_smtputf8=postmaster.needs_smtputf8),
        origin=Origin(protocol="INTERNAL", trace_id=new_trace_id()),
        content=_compose(rows, messages, postmaster, now),
    )
    DoubleBounce.objects.filter(pk__in=[row.pk for row in rows]).update(told_at=now)
    try:
        entry_ids = receiver.accept_within([submission])
    except Refused as refusal:
        logger.error("queue.report_refused", cause=refusal.reason)
        words = f"The report to the postmaster <{postmaster}> could not be sent: {refusal.reason}."
        _record(messages, Event.Kind.DSN_WITHHELD, words)
        return []
    _record(messages, Event.Kind.DSN_SENT, f"The postmaster <{postmaster}> is told that it could not be delivered.")
    return entry_ids


def _record(messages: Mapping[str, Message], kind: Event.Kind, words: str) -> None:
    events.record(
        events.NewEvent(kind=kind.value, summary=words, message_id=message.pk, trace_id=message.trace_id)
        for message in messages.values()
    )


def _postmaster() -> Address | None:
    """Return who reads such reports: the address in the settings, or our own postmaster's if there is anybody."""
    if settings.POSTMASTER_ADDRESS:
        return parse_address(settings.POSTMASTER_ADDRESS)
    own = Address(POSTMASTER, settings.SMTP_HOSTNAME.lower())
    return own if addresses.resolve(own).is_local else None


def _compose(
    rows: Sequence[DoubleBounce], messages: Mapping[str, Message], postmaster: Address, now: dt.datetime
) -> bytes:
    """Return the report as a whole message with CRLF line ends: a text, then the first header sections."""
    kept = [row for row in rows if row.message_id in messages]
    heads = {row.message_id: _head(row.message_id) for row in kept[:MAX_HEADS]}
    heads = {message_id: head for message_id, head in heads.items() if head}
    shown = [_shown(row, messages.get(row.message_id)) for row in rows[:MAX_SHOWN]]
    text = render_to_string(
        "dsn/double_bounce.txt",
        {
            "hostname": clean(settings.SMTP_HOSTNAME, 255),
            "count": len(rows),
            "shown": shown,
            "hidden": len(rows) - len(shown),
            "heads": len(heads),
            "interval": f"{settings.DOUBLE_BOUNCE_INTERVAL_SECONDS / 60:g} minutes",
        },
    )
    report = EmailMessage(policy=SMTP.clone(utf8=postmaster.needs_smtputf8))
    report["From"] = f"Mail Delivery System <MAILER-DAEMON@{settings.SMTP_HOSTNAME}>"
    report["To"] = str(postmaster)
    count = "A message" if len(rows) == 1 else f"{len(rows)} messages"
    report["Subject"] = f"{count} without a sender could not be delivered"
    report["Date"] = email.utils.format_datetime(now)
    report["Message-ID"] = f"<double.{new_trace_id()}{new_trace_id()}@{settings.SMTP_HOSTNAME}>"
    report["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5: no answer is wanted
    name, _, value = MARK.decode().partition(": ")
    report[name] = value
    report.set_content(text, cte="quoted-printable")
    for message_id, head in heads.items():
        report.add_attachment(head, "text", "rfc822-headers", cte="base64", filename=f"{message_id}.txt")
    return report.as_bytes()


def _head(message_id: str) -> bytes:
    return header_section(content.read_head(message_id))[:MAX_HEAD_OCTETS]


def _shown(row: DoubleBounce, message: Message | None) -> dict[str, object]:
    lines = [clean(line, _MAX_WORDS) for line in row.words.splitlines()[:10]]
    if message is None:
        return {"message_id": row.message_id, "accepted_at": "earlier; it is not kept any more", "words": lines}
    what = "It was a report of our own." if message.source == Message.Source.DSN else ""
    return {
        "message_id": row.message_id,
        "what": what,
        "accepted_at": email.utils.format_datetime(message.created_at),
        "client": message.client_address,
        "subject": clean(message.subject, 150),
        "words": lines,
    }
