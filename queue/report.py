"""Whether a failure is reported, and to whom: DSNs handed in by the front door (RFC 3461 §5.2, RFC 5321 §6.1)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import structlog
from django.conf import settings

from accounts.names import InvalidName, parse_address
from mailflow import events, receiver
from mailflow.errors import Refused
from mailflow.models import Event, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue.claim import Parcel
from queue.dsn import DsnFacts, RecipientFacts, failure_dsn
from queue.outcome import Kind, Outcome

logger = structlog.get_logger(__name__)

Failure = tuple[Parcel, Outcome, dt.datetime]


def wants_failure_report(notify: str) -> bool:
    """Without NOTIFY a failure is reported; with it, only where it says FAILURE (RFC 3461 §4.1)."""
    return not notify or "FAILURE" in notify.split(",")


def failure_reports(message: Message, failures: Sequence[Failure], *, original: bytes, now: dt.datetime) -> list[int]:
    """Accept one DSN for all failures of a message in the caller's transaction; return its queue entries' ids.

    `original` is the message, or as much of its beginning as is at hand.

    No report goes to a null path or where NOTIFY forbids it: an event says so instead.
    """
    wanted = [failure for failure in failures if wants_failure_report(failure[0].notify)]
    silence = _reason_for_silence(message, wanted)
    if silence:
        events.record([_event(message, Event.Kind.DSN_WITHHELD, f"No failure report was sent: {silence}.")])
        return []
    facts = DsnFacts(
        hostname=settings.SMTP_HOSTNAME,
        message_id=message.pk,
        reverse_path=message.reverse_path,
        accepted_at=message.created_at,
        recipients=[_recipient_facts(*failure) for failure in wanted],
        content=original,
        now=now,
        subject=message.subject,
        internet_message_id=message.internet_message_id,
        envelope_id=message.envelope_id,
        dsn_return=message.dsn_return if message.size_octets <= len(original) else "HDRS",
        is_smtputf8=message.is_smtputf8,
    )
    submission = receiver.Submission(
        source=Message.Source.DSN.value,
        envelope=Envelope(
            None,
            [Recipient(parse_address(message.reverse_path), notify="NEVER")],
            body_type="8BITMIME" if facts.needs_smtputf8 else "",
            is_smtputf8=facts.needs_smtputf8,
        ),
        origin=Origin(protocol="INTERNAL", trace_id=message.trace_id, organization_id=message.organization_id),
        content=failure_dsn(facts),
    )
    try:
        entry_ids = receiver.accept_within([submission])
    except Refused as refusal:
        logger.error("queue.report_refused", message_id=message.pk, cause=refusal.reason)
        words = f"The failure report could not be sent: {refusal.reason}."
        events.record([_event(message, Event.Kind.DSN_WITHHELD, words)])
        return []
    words = f"A failure report goes to the sender <{message.reverse_path}>."
    events.record([_event(message, Event.Kind.DSN_SENT, words)])
    return entry_ids


def _recipient_facts(parcel: Parcel, outcome: Outcome, attempted_at: dt.datetime) -> RecipientFacts:
    return RecipientFacts(
        parcel.recipient,
        outcome,
        attempted_at,
        expired=_ran_out_of_time(parcel, outcome),
        original_recipient=parcel.original_recipient,
    )


def _ran_out_of_time(parcel: Parcel, outcome: Outcome) -> bool:
    """Whether the age limit ended it: neither a permanent refusal nor the number of attempts did."""
    return outcome.kind is Kind.DEFERRED and parcel.attempts + 1 < parcel.max_attempts


def _reason_for_silence(message: Message, wanted: Sequence[Failure]) -> str:
    if not message.reverse_path:
        return "the message came from the null path, which is never reported to"
    if not wanted:
        return "the sender asked for none (NOTIFY)"
    try:
        parse_address(message.reverse_path)
    except InvalidName as error:
        return f"the sender's address cannot be written to ({error})"
    return ""


def _event(message: Message, kind: Event.Kind, summary: str) -> events.NewEvent:
    return events.NewEvent(kind=kind.value, summary=summary, message_id=message.pk, trace_id=message.trace_id)
