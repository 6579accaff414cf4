"""Write down how attempts ended: entries, attempts, events, copies, DSNs, message status, in one transaction.

An entry that was woken without an attempt, at a deadline or since its sender is to hear of the delay, is settled too.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from mailflow import content, events, receiver
from mailflow.errors import Refused
from mailflow.ids import new_row_id
from mailflow.mailboxes import NewFiling, file_copies
from mailflow.models import Event, Message
from mailflow.smtp.envelope import Envelope
from mailflow.spool.accepted import Origin
from mailflow.spool.insert import bulk_insert
from mailflow.storage.base import CopyMissing
from queue import message_status, notices, report
from queue.claim import Parcel
from queue.dsn_facts import Action
from queue.models import Attempt, Entry
from queue.outcome import Kind, Outcome, deferred, failed
from queue.report import Case
from queue.schedule import DELIVERED, End, Step, next_step, woken

logger = structlog.get_logger(__name__)

MAX_FORWARDED_OCTETS = 8 << 20

_ATTEMPT_FIELDS = (
    "id", "entry_id", "number", "started_at", "ended_at", "outcome", "transport", "next_hop", "tls", "code",
    "enhanced_code", "reply", "worker",
)  # fmt: skip
_UPDATE = (
    "UPDATE {table} SET status = %s, next_attempt_at = %s, retry_at = %s, delay_told_at = %s, attempts = %s,"
    " lease = '', last_reply = %s, finished_at = %s WHERE id = %s"
)


@dataclass(frozen=True, slots=True)
class Forward:
    """Mail that takes the place of a recipient that is an alias; its content is read when it is handed in."""

    envelope: Envelope
    origin: Origin
    top: bytes  # trace field put above the content


@dataclass(frozen=True, slots=True)
class Result:
    """The end of one attempt. `filing`: the copy that still needs its place; `forward`: the mail that replaces it.

    Where no attempt was made, `outcome` is that of the last one, and `attempted_at` its time, if there was one.
    """

    parcel: Parcel
    outcome: Outcome
    started_at: dt.datetime
    ended_at: dt.datetime
    filing: NewFiling | None = None
    forward: Forward | None = None
    is_attempt: bool = True
    attempted_at: dt.datetime | None = None


def without_attempt(parcel: Parcel, now: dt.datetime) -> Result:
    """Return the result of an entry that was only woken; what its last attempt said is looked up when it is settled."""
    never = deferred("No attempt could be made in time.", transport="local")
    return Result(parcel, never, now, now, is_attempt=False)


@dataclass(frozen=True, slots=True)
class _Settled:
    result: Result
    step: Step
    attempts: int
    notice: Action | None = None

    @property
    def parcel(self) -> Parcel:
        return self.result.parcel

    @property
    def outcome(self) -> Outcome:
        return self.result.outcome


def batch_length(results: Sequence[Result]) -> int:
    """Return how many of the first results one transaction may take: forwards carry their whole content into it."""
    octets = 0
    for count, result in enumerate(results):
        octets += result.parcel.size_octets if result.forward is not None else 0
        if count and octets > MAX_FORWARDED_OCTETS:
            return count
    return len(results)


def settle(results: Sequence[Result], *, worker: str) -> list[int]:
    """Commit the results; return the ids of entries that came of it (DSNs, forwards), to be rung.

    A result counts only while its entry is open and this worker's lease on it stands; but a delivery that happened is
    written down even if the lease ran out meanwhile, for that saves a duplicate.
    """
    with transaction.atomic():
        filed = _file(results)
        mine = _recall(_still_ours(filed, worker))
        forwarded, new_ids = _forward(mine)
        now = timezone.now()
        settled = [_judge(result, now) for result in forwarded]
        _update_entries(settled, now)
        _insert_attempts(settled, worker)
        events.record(_event(item, worker) for item in settled)
        new_ids += _send_reports(settled, now)
        message_status.refresh({item.parcel.message_id for item in settled})
    return new_ids


def _file(results: Sequence[Result]) -> list[Result]:
    """Give copies their UIDs; an account that is gone meanwhile turns the delivery into a failure."""
    filings = [result.filing for result in results if result.filing is not None]
    answers = iter(file_copies(filings))
    return [
        result
        if result.filing is None or next(answers) is not None
        else replace(
            result, outcome=failed("The mailbox does not exist any more.", transport="local", enhanced_code="5.1.1")
        )
        for result in results
    ]


def _still_ours(results: Sequence[Result], worker: str) -> list[Result]:
    entry_ids = [result.parcel.entry_id for result in results]
    locked = Entry.objects.filter(pk__in=entry_ids, status__in=Entry.OPEN).order_by("pk").select_for_update(no_key=True)
    leases = dict(locked.values_list("pk", "lease"))
    return [
        result
        for result in results
        if result.parcel.entry_id in leases
        and (leases[result.parcel.entry_id] == worker or result.outcome.kind is Kind.DELIVERED)
    ]


def _recall(results: Sequence[Result]) -> Sequence[Result]:
    """Give the results without an attempt the outcome of the last one, which is what there is to tell."""
    entry_ids = [result.parcel.entry_id for result in results if not result.is_attempt]
    if not entry_ids:
        return results
    last = {attempt.entry_id: attempt for attempt in Attempt.objects.filter(entry__in=entry_ids).order_by("number")}
    return [
        result
        if result.is_attempt or (attempt := last.get(result.parcel.entry_id)) is None
        else replace(result, outcome=_outcome_of(attempt), attempted_at=attempt.ended_at)
        for result in results
    ]


def _outcome_of(attempt: Attempt) -> Outcome:
    return Outcome(
        Kind.DEFERRED,  # the entry is open
        attempt.reply,
        attempt.transport,
        attempt.code,
        attempt.enhanced_code,
        attempt.next_hop,
        attempt.tls,
    )


def _forward(results: Sequence[Result]) -> tuple[list[Result], list[int]]:
    """Hand forwarded mail in by the front door, in this transaction; what the door refuses is a failure."""
    settled, new_ids = [], []
    for result in results:
        if result.forward is not None:
            try:
                new_ids += receiver.accept_within([_submission(result.parcel, result.forward)])
            except Refused as refusal:
                words = f"Forwarding was refused: {refusal.reason}."
                result = replace(result, outcome=failed(words, transport="local", enhanced_code="5.4.6"))
            except CopyMissing:  # temporary until proven permanent: an operator may bring it back
                words = "The content of the message cannot be found in the spool."
                result = replace(result, outcome=deferred(words, transport="local", enhanced_code="4.3.0"))
        settled.append(result)
    return settled, new_ids


def _submission(parcel: Parcel, forward: Forward) -> receiver.Submission:
    return receiver.Submission(
        source=Message.Source.FORWARD.value,
        envelope=forward.envelope,
        origin=forward.origin,
        content=forward.top + content.read(parcel.message_id),
    )


def _judge(result: Result, now: dt.datetime) -> _Settled:
    parcel = result.parcel
    attempts = parcel.attempts + result.is_attempt
    step = DELIVERED if result.outcome.kind is Kind.DELIVERED else _step(result, attempts, now)
    targets = len(result.forward.envelope.recipients) if result.forward is not None else 0
    notice = notices.due(parcel, result.outcome, step, ended_at=result.ended_at, forwarded_to=targets)
    return _Settled(result, step, attempts, notice)


def _step(result: Result, attempts: int, now: dt.datetime) -> Step:
    parcel = result.parcel
    terms = notices.terms(parcel)
    if not result.is_attempt:
        most = parcel.max_attempts
        return woken(retry_at=parcel.retry_at, attempts=attempts, max_attempts=most, now=now, terms=terms)
    return next_step(
        result.outcome,
        attempts=attempts,
        max_attempts=parcel.max_attempts,
        now=now,
        terms=terms,
        delays=settings.RETRY_SCHEDULE,
        fraction=random.random(),  # noqa: S311  (spreads load, keeps no secret)
    )


_STATUS = {
    End.DELIVERED: Entry.Status.DELIVERED.value,
    End.RETRY: Entry.Status.RETRY.value,
    End.BOUNCED: Entry.Status.BOUNCED.value,
}


def _update_entries(settled: Sequence[_Settled], now: dt.datetime) -> None:
    adapt = connection.ops.adapt_datetimefield_value
    ended_at = adapt(now)
    rows = [
        (
            _STATUS[item.step.end],
            adapt(item.step.next_attempt_at) if item.step.next_attempt_at else None,
            adapt(item.step.retry_at) if item.step.retry_at else None,
            ended_at if item.step.tells_delay else _told_at(item.parcel),
            item.attempts,
            events.clean_text(_last_reply(item)),
            None if item.step.end is End.RETRY else ended_at,
            item.parcel.entry_id,
        )
        for item in settled
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(_UPDATE.format(table=connection.ops.quote_name(Entry._meta.db_table)), rows)


def _told_at(parcel: Parcel) -> str | None:
    return connection.ops.adapt_datetimefield_value(parcel.delay_told_at) if parcel.delay_told_at else None


def _last_reply(item: _Settled) -> str:
    """Return what people are shown as the reason: an end at the deadline, and not just the last attempt's words."""
    result = item.result
    if result.is_attempt or item.step.end is End.RETRY:
        return result.outcome.reply if result.is_attempt or result.attempted_at else ""
    return f"The time that the sender allowed (BY) is over. {result.outcome.reply}"


def _insert_attempts(settled: Sequence[_Settled], worker: str) -> None:
    rows = [
        (
            new_row_id(),
            item.parcel.entry_id,
            item.attempts,
            item.result.started_at,
            item.result.ended_at,
            item.outcome.kind.value,
            item.outcome.transport,
            events.clean_text(item.outcome.next_hop, 300),
            item.outcome.tls[:60],
            item.outcome.code,
            item.outcome.enhanced_code[:12],
            events.clean_text(item.outcome.reply),
            worker,
        )
        for item in settled
        if item.result.is_attempt
    ]
    bulk_insert(Attempt, _ATTEMPT_FIELDS, rows)


def _event(item: _Settled, worker: str) -> events.NewEvent:
    parcel, outcome, step = item.parcel, item.outcome, item.step
    hop = f" by {outcome.next_hop}" if outcome.next_hop else ""
    passed_on = notices.passed_on(parcel, outcome)
    match step.end:
        case End.RETRY if not item.result.is_attempt:
            kind, summary = Event.Kind.DEFERRED, f"{parcel.recipient}: not delivered so far; {step.reason}."
        case End.BOUNCED if not item.result.is_attempt:
            kind, summary = Event.Kind.BOUNCED, f"{parcel.recipient}: given up without another attempt; {step.reason}."
        case End.DELIVERED if item.result.forward is not None:
            kind, summary = Event.Kind.FORWARDED, outcome.reply
        case End.DELIVERED if outcome.transport == "sandbox":
            kind, summary = Event.Kind.CAPTURED, f"For {parcel.recipient}: {outcome.reply}."
        case End.DELIVERED:
            kind, summary = (
                Event.Kind.DELIVERED,
                f"{parcel.recipient}: taken{hop}{passed_on} at attempt {item.attempts}.",
            )
        case End.RETRY:
            kind, summary = (
                Event.Kind.DEFERRED,
                f"{parcel.recipient}: attempt {item.attempts} deferred{hop}; {step.reason}.",
            )
        case End.BOUNCED:
            kind, summary = (
                Event.Kind.BOUNCED,
                f"{parcel.recipient}: given up after attempt {item.attempts}{hop}; {step.reason}.",
            )
    return events.NewEvent(
        kind=kind.value,
        summary=summary,
        message_id=parcel.message_id,
        entry_id=parcel.entry_id,
        recipient=parcel.recipient,
        reply=" ".join(filter(None, [str(outcome.code or ""), outcome.reply])),
        actor=worker,
        trace_id=parcel.trace_id,
        created_at=item.result.ended_at,
    )


def _send_reports(settled: Iterable[_Settled], now: dt.datetime) -> list[int]:
    """Send the senders their DSNs, one for each message and action (RFC 3464, RFC 3461 §5.2.8); return the new ids."""
    told: defaultdict[tuple[str, Action], list[_Settled]] = defaultdict(list)
    for item in settled:
        if item.notice is not None:
            told[item.parcel.message_id, item.notice].append(item)
    if not told:
        return []
    messages = Message.objects.in_bulk(list({message_id for message_id, _ in told}))
    new_ids: list[int] = []
    for (message_id, action), items in told.items():
        original = content.read_head(message_id)
        cases = [_case(item, now) for item in items]
        new_ids += report.send(messages[message_id], action, cases, original=original, now=now)
    return new_ids


def _case(item: _Settled, now: dt.datetime) -> Case:
    """The sender's deadline in mode N is what a delay report tells of, once it has passed (RFC 2852 §4.1.3)."""
    result, parcel = item.result, item.parcel
    is_late = (
        item.notice is Action.DELAYED
        and parcel.deliver_by_mode.startswith("N")
        and parcel.deliver_by_at is not None
        and parcel.deliver_by_at <= now
    )
    attempted_at = result.ended_at if result.is_attempt else result.attempted_at
    return Case(parcel, result.outcome, attempted_at, is_expired=item.step.is_expired or is_late)
