"""Whether the sender hears of it: DSNs handed in by the front door (RFC 3461 §5.2, §6.1, RFC 5321 §6.1)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from django.conf import settings

from accounts.names import InvalidName, parse_address
from mailflow import events, receiver
from mailflow.errors import Refused
from mailflow.models import Event, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool.accepted import Origin
from queue import double_bounces
from queue.claim import Parcel
from queue.dsn import compose
from queue.dsn_facts import Action, DsnFacts, RecipientFacts
from queue.notices import is_wanted
from queue.outcome import Outcome

logger = structlog.get_logger(__name__)

MAX_NAMED = 10  # recipients in the words of one event
_NOUNS = {
    Action.FAILED: "failure report",
    Action.DELAYED: "delay report",
    Action.DELIVERED: "report of delivery",
    Action.RELAYED: "report of relaying",
    Action.EXPANDED: "report of forwarding to several recipients",
}


@dataclass(frozen=True, slots=True)
class Case:
    """What a report tells of one recipient; `attempted_at` None where no attempt was made."""

    parcel: Parcel
    outcome: Outcome
    attempted_at: dt.datetime | None
    is_expired: bool = False


def is_test(parcel: Parcel) -> bool:
    """Whether mail that comes of this mail is a test too: it stays in the sandbox, whatever the settings say by now."""
    return parcel.is_test or (parcel.is_sandbox and settings.DELIVERY_MODE != "sandbox")


def send(message: Message, action: Action, cases: Sequence[Case], *, original: bytes, now: dt.datetime) -> list[int]:
    """Accept one DSN for the cases of a message in the caller's transaction; return its queue entries' ids.

    `original` is the message, or as much of its beginning as is at hand. No report goes to a null path or where NOTIFY
    forbids it: an event says so instead.
    """
    noun = _NOUNS[action]
    wanted = [case for case in cases if is_wanted(action, case.parcel.notify)]
    silence = _reason_for_silence(message, wanted)
    if silence:
        if action is Action.FAILED and not message.reverse_path and not any(is_test(case.parcel) for case in cases):
            silence += _told_to_the_postmaster(message, cases, original=original, now=now)
        words = f"No {noun} was sent{_about(cases)}: {silence}."
        events.record([_event(message, Event.Kind.DSN_WITHHELD, words, now)])
        return []
    facts = _facts(message, action, wanted, original=original, now=now)
    recipient = Recipient(parse_address(message.reverse_path), notify="NEVER")
    is_utf8 = facts.needs_smtputf8
    submission = receiver.Submission(
        source=Message.Source.DSN.value,
        envelope=Envelope(
            None,
            [recipient],
            body_type="8BITMIME" if is_utf8 else "",
            is_smtputf8=is_utf8,
            requires_tls=message.requires_tls,
        ),
        origin=Origin(
            protocol="INTERNAL",
            trace_id=message.trace_id,
            organization_id=message.organization_id,
            is_test=any(is_test(case.parcel) for case in wanted),
        ),
        content=compose(facts),
    )
    try:
        entry_ids = receiver.accept_within([submission])
    except Refused as refusal:
        logger.error("queue.report_refused", message_id=message.pk, cause=refusal.reason)
        words = f"The {noun}{_about(wanted)} could not be sent: {refusal.reason}."
        events.record([_event(message, Event.Kind.DSN_WITHHELD, words, now)])
        return []
    words = f"A {noun}{_about(wanted)} goes to the sender <{message.reverse_path}>."
    events.record([_event(message, Event.Kind.DSN_SENT, words, now)])
    return entry_ids


def _told_to_the_postmaster(message: Message, cases: Sequence[Case], *, original: bytes, now: dt.datetime) -> str:
    """RFC 3461 §5.2: the postmaster hears of what cannot be reported, whatever NOTIFY says; never of such a report."""
    words = "\n".join(f"{case.parcel.recipient}: {_answer(case.outcome)}" for case in cases[:MAX_NAMED])
    if double_bounces.note(message, words, head=original, now=now):
        return "; the postmaster will be told of it"
    return ", and there is no postmaster to tell" if not double_bounces.is_report(original) else ""


def _answer(outcome: Outcome) -> str:
    return f"{outcome.code} {outcome.reply}" if outcome.code is not None else outcome.reply


def _facts(message: Message, action: Action, cases: Sequence[Case], *, original: bytes, now: dt.datetime) -> DsnFacts:
    return DsnFacts(
        hostname=settings.SMTP_HOSTNAME,
        message_id=message.pk,
        reverse_path=message.reverse_path,
        accepted_at=message.created_at,
        recipients=[_recipient(case, action) for case in cases],
        content=original,
        now=now,
        action=action,
        subject=message.subject,
        internet_message_id=message.internet_message_id,
        envelope_id=message.envelope_id,
        # RFC 8689 §5: of a message that requires TLS the header alone comes back, whatever RET said.
        dsn_return=message.dsn_return if message.size_octets <= len(original) and not message.requires_tls else "HDRS",
        is_smtputf8=message.is_smtputf8,
        deliver_by_at=cases[0].parcel.deliver_by_at,
    )


def _recipient(case: Case, action: Action) -> RecipientFacts:
    parcel = case.parcel
    ends_at = parcel.expires_at
    if parcel.deliver_by_at is not None and parcel.deliver_by_mode.startswith("R"):
        ends_at = min(ends_at, parcel.deliver_by_at)
    return RecipientFacts(
        parcel.recipient,
        case.outcome,
        case.attempted_at,
        expired=case.is_expired,
        original_recipient=parcel.original_recipient,
        retry_until=ends_at if action is Action.DELAYED else None,
    )


def _about(cases: Sequence[Case]) -> str:
    named = [case.parcel.recipient for case in cases[:MAX_NAMED]]
    more = f" and {len(cases) - MAX_NAMED} more" if len(cases) > MAX_NAMED else ""
    return f" for {', '.join(named)}{more}"


def _reason_for_silence(message: Message, wanted: Sequence[Case]) -> str:
    if not message.reverse_path:
        return "the message came from the null path, which is never reported to"
    if not wanted:
        return "the sender asked for none (NOTIFY)"
    try:
        parse_address(message.reverse_path)
    except InvalidName as error:
        return f"the sender's address cannot be written to ({error})"
    return ""


def _event(message: Message, kind: Event.Kind, summary: str, at: dt.datetime) -> events.NewEvent:
    return events.NewEvent(
        kind=kind.value, summary=summary, message_id=message.pk, trace_id=message.trace_id, created_at=at
    )
