"""What a bounce or a complaint is about, whether it is to be believed, and what follows (docs/adr/0015).

`bounces` reads what a mail claims. Here the claim is held against what we sent: by the return path that it came to or
that it shows, which only we can make; else by our own id in the header section that it returns, or by the Message-ID,
and then only if it came to the message's own reverse path. A claim that fits nothing changes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from accounts import verp
from accounts.addresses import Resolution
from accounts.names import InvalidName, fold_address, parse_address
from mailflow import events
from mailflow.models import Event, Message
from queue import bounce_class, bounces, suppress, webhook_notices
from queue.bounce_class import Weight
from queue.bounces import Failure, Kind, Report
from queue.claim import Parcel
from queue.models import Attempt, Entry, Suppression
from queue.return_paths import entry_id_of, message_id_of
from queue.suppress import Evidence
from queue.webhook_notices import Ended

logger = structlog.get_logger(__name__)

MAX_LOOKED_THROUGH = 2000  # messages of an organization, for a Message-ID: the newest
MAX_CLAIMS = 1000
_OWN = frozenset([Message.Source.DSN.value, Message.Source.FORWARD.value])  # read already, or written by us
_PROOFS = {
    "entry": "it came by the return path of this recipient",
    "message": "it came by the return path of this message",
    "trace": "it returned the header section with our own id",
    "name": "it named the Message-ID",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One recipient of a message of ours that a report is about; without `entry_id` the message as a whole.

    `is_proven`: only this recipient's own host, or the recipient, can know what the report knew, and it names nobody
    else. What is not is told and counted, and puts nobody on the suppression list by itself.
    """

    message_id: str
    trace_id: str
    organization_id: int | None
    failure: Failure
    proof: str
    entry_id: int | None = None
    recipient: str = ""
    is_proven: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """A report that is about mail of ours; `report_id` is the message that it came as."""

    kind: Kind
    form: str
    report_id: str
    claims: Sequence[Claim]
    feedback_type: str = ""

    @property
    def told(self) -> str:
        """Say what it was read as, as a clause for the report's own event."""
        about = ", ".join(dict.fromkeys(claim.message_id for claim in self.claims))
        return f"; read as a {self.kind} about {about}"


# --- read (in a file thread, before the settlement) -------------------------------------------------------------------


def read(parcel: Parcel, resolution: Resolution, content: bytes) -> Return | None:
    """Read mail that was delivered here as a report about mail of ours; None where it is none. Raises nothing."""
    by_null_path = not parcel.reverse_path
    try:
        if parcel.source in _OWN or not bounces.may_be_one(content, is_from_null_path=by_null_path):
            return None
        report = bounces.parse(content, is_from_null_path=by_null_path)
        if report is None or (report.kind is Kind.BOUNCE and not report.failed):
            return None
        claims = _claims(report, parcel, resolution)
    except Exception:  # whatever a stranger wrote: the mail itself is delivered
        logger.exception("queue.report_unreadable", message_id=parcel.message_id)
        return None
    if not claims:
        return None
    return Return(report.kind, report.form, parcel.message_id, claims[:MAX_CLAIMS], report.feedback_type)


def _claims(report: Report, parcel: Parcel, resolution: Resolution) -> list[Claim]:
    for payload in _payloads(report, resolution):
        if len(payload) == verp.ENTRY_OCTETS:
            found = _of_entry(entry_id_of(payload), report)
        else:
            found = _of_message([message_id_of(payload)], report, "message")
        if found:
            return found
    own_path = fold_address(parcel.recipient) if report.kind is Kind.BOUNCE else None
    found = _of_message(report.returned.our_ids, report, "trace", reverse_path=own_path)
    if found or own_path is None:
        return found
    return _of_message(_by_message_id(report, resolution), report, "name", reverse_path=own_path)


def _payloads(report: Report, resolution: Resolution) -> list[bytes]:
    """Return what the return paths stand for: the one that it came to, those that it shows."""
    found = [resolution.sent_for] if resolution.sent_for else []
    today = timezone.now().date()
    for path in (report.mail_from, *report.returned.return_paths):
        try:
            payload = verp.read(parse_address(path), today) if path else None
        except InvalidName:
            continue
        if payload and payload not in found:
            found.append(payload)
    return found


def _by_message_id(report: Report, resolution: Resolution) -> list[str]:
    """Find a message of the organization that the report came to by its Message-ID, among the newest ones only."""
    name = report.returned.internet_message_id
    if not name or "\0" in name or resolution.organization_id is None:
        return []
    newest = Message.objects.filter(organization_id=resolution.organization_id).order_by("-pk")
    ids = newest.values("pk")[:MAX_LOOKED_THROUGH]
    found = Message.objects.filter(pk__in=ids, internet_message_id=name).order_by("-pk")
    return list(found.values_list("pk", flat=True)[:1])


def _of_entry(entry_id: int, report: Report) -> list[Claim]:
    entry = Entry.objects.select_related("message").filter(pk=entry_id).first()
    if entry is None:
        return []
    failures = report.failed or [Failure()]
    failure = next((one for one in failures if _names(one, entry)), failures[0])
    is_proven = report.kind is Kind.COMPLAINT or _is_final(failure, entry)
    return [_claim(entry, entry.message, failure, "entry", is_proven=is_proven)]


def _of_message(
    message_ids: Sequence[str], report: Report, proof: str, *, reverse_path: str | None = None
) -> list[Claim]:
    """Claims about the recipients of a message that went to other hosts, as far as the report names them."""
    messages = {message.pk: message for message in Message.objects.filter(pk__in=message_ids)}
    message = next((messages[one] for one in message_ids if one in messages), None)
    if message is None or (reverse_path is not None and fold_address(message.reverse_path) != reverse_path):
        return []
    entries = list(_sent_out(message).order_by("pk"))
    by_address = {fold_address(entry.recipient): entry for entry in entries}
    claims: dict[int, Claim] = {}
    for failure in report.failed:
        named = (fold_address(failure.original_recipient), fold_address(failure.recipient))
        entry = next((by_address[address] for address in named if address in by_address), None)
        if entry is None and len(entries) == 1:
            entry = entries[0]
        if entry is not None and entry.pk not in claims:
            is_proven = proof != "name" and message.recipient_count == 1 and _is_final(failure, entry)
            claims[entry.pk] = _claim(entry, message, failure, proof, is_proven=is_proven)
    if not claims and report.kind is Kind.COMPLAINT:
        if len(entries) == 1:
            is_proven = message.recipient_count == 1
            return [_claim(entries[0], message, Failure(), proof, is_proven=is_proven)]
        return [Claim(message.pk, message.trace_id, message.organization_id, Failure(), proof)]
    return list(claims.values())


def _sent_out(message: Message) -> QuerySet[Entry]:
    """The recipients that other hosts took the message for; nobody else's bounce can be a stranger's to send."""
    here = Attempt.objects.filter(entry=OuterRef("pk"), outcome=Attempt.Outcome.DELIVERED, transport="local")
    ended = Entry.objects.filter(message=message, status__in=(Entry.Status.DELIVERED, Entry.Status.BOUNCED))
    return ended.exclude(Exists(here))


def _claim(entry: Entry, message: Message, failure: Failure, proof: str, *, is_proven: bool) -> Claim:
    return Claim(
        message.pk, message.trace_id, message.organization_id, failure, proof, entry.pk, entry.recipient, is_proven
    )


def _names(failure: Failure, entry: Entry) -> bool:
    address = fold_address(entry.recipient)
    return address in (fold_address(failure.recipient), fold_address(failure.original_recipient))


def _is_final(failure: Failure, entry: Entry) -> bool:
    """Whether it failed at the address that we sent to, and not behind it, where somebody else may still get it."""
    return not failure.recipient or fold_address(failure.recipient) == fold_address(entry.recipient)


# --- obeyed (in the settlement's transaction) -------------------------------------------------------------------------


def obey(found: Sequence[Return], now: dt.datetime) -> set[str]:
    """Write down what the reports say: entries, events, suppression list; return the messages that changed.

    A recipient that has bounced already is left alone, so a bounce that comes twice counts once.
    """
    if not found:
        return set()
    bounced = _mark_bounced(found, now)
    told = [
        (one, claim) for one in found for claim in one.claims if one.kind is Kind.COMPLAINT or claim.entry_id in bounced
    ]
    evidence = [_evidence(one, claim) for one, claim in told if claim.entry_id is not None]
    added = {one.evidence.entry_id: one for one in suppress.learn(evidence, now)}
    events.record(_event(one, claim, added.get(claim.entry_id or 0)) for one, claim in told)
    return {claim.message_id for _, claim in told if claim.entry_id in bounced}


def _mark_bounced(found: Sequence[Return], now: dt.datetime) -> set[int]:
    """End the entries as bounced that were delivered until now, and return them."""
    words: dict[int, str] = {}
    for one in found:
        if one.kind is Kind.BOUNCE:
            words.update({claim.entry_id: _reply(claim.failure) for claim in one.claims if claim.entry_id is not None})
    if not words:
        return set()
    rows = Entry.objects.filter(pk__in=words, status=Entry.Status.DELIVERED).order_by("pk")
    entries = list(rows.select_for_update(no_key=True))
    for entry in entries:
        entry.status, entry.finished_at = Entry.Status.BOUNCED, now
        entry.last_reply = events.clean_text(words[entry.pk])
    Entry.objects.bulk_update(entries, ["status", "finished_at", "last_reply"])
    webhook_notices.tell([Ended(entry.message_id, entry.recipient, now, entry.last_reply) for entry in entries])
    return {entry.pk for entry in entries}


def _reply(failure: Failure) -> str:
    """Return what people are shown as the reason."""
    return failure.words or failure.status or "The mail came back, and the bounce does not say why."


def _evidence(one: Return, claim: Claim) -> Evidence:
    assert claim.entry_id is not None
    reason, weight = Suppression.Reason.HARD_BOUNCE, Weight.HARD
    if one.kind is Kind.BOUNCE:
        weight = bounce_class.weigh(claim.failure.status, claim.failure.words)
        words = _reply(claim.failure)
    else:
        reason = Suppression.Reason.UNSUBSCRIBE if "opt-out" in one.feedback_type else Suppression.Reason.COMPLAINT
        words = f"A complaint came back ({one.feedback_type})"
    return Evidence(
        claim.entry_id,
        claim.message_id,
        claim.recipient,
        claim.organization_id,
        weight,
        words,
        reason,
        claim.is_proven,
        claim.trace_id,
    )


def _event(one: Return, claim: Claim, added: suppress.Added | None) -> events.NewEvent:
    failure = claim.failure
    how = f"The report came as message {one.report_id} ({one.form}): {_PROOFS[claim.proof]}"
    then = f" {added.told}." if added is not None else ""
    if one.kind is Kind.COMPLAINT:
        who = claim.recipient or "One of the recipients"
        return events.NewEvent(
            kind=Event.Kind.COMPLAINT.value,
            summary=f"{who} complained about the message ({one.feedback_type}). {how}.{then}",
            rule=f"complaint.{one.feedback_type}",
            message_id=claim.message_id,
            entry_id=claim.entry_id,
            recipient=claim.recipient,
            trace_id=claim.trace_id,
        )
    host = f" by {failure.host}" if failure.host else ""
    status = f" ({failure.status})" if failure.status else ""
    behind = ""
    if failure.recipient and fold_address(failure.recipient) != fold_address(claim.recipient):
        behind = f" for {failure.recipient}, where it was sent on to,"
    return events.NewEvent(
        kind=Event.Kind.BOUNCE_RECEIVED.value,
        summary=f"{claim.recipient}: taken at first, then returned{host}{behind}{status}. {how}.{then}",
        rule=f"bounce.{bounce_class.weigh(failure.status, failure.words)}",
        message_id=claim.message_id,
        entry_id=claim.entry_id,
        recipient=claim.recipient,
        reply=_reply(failure),
        trace_id=claim.trace_id,
    )
