"""What follows from the end of an attempt: the next step, the entry's status, and the words of its event; no query."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from django.conf import settings

from mailflow import events
from mailflow.models import Event, Message
from queue import notices
from queue.claim import Parcel
from queue.dsn_facts import Action
from queue.models import Entry
from queue.outcome import Kind, Outcome
from queue.results import Result
from queue.returns import Return
from queue.schedule import DELIVERED, End, Step, next_step, waits, woken

OPEN_ENDS = (End.RETRY, End.WAITING)


@dataclass(frozen=True, slots=True)
class Settled:
    """One result with what follows: the step, the attempts made so far, and what its sender is told."""

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

    @property
    def returned(self) -> Return | None:
        """What it reports, once: when its own delivery has ended."""
        return self.result.returned if self.step.end not in OPEN_ENDS else None


def judged(results: Iterable[Result], now: dt.datetime) -> Iterator[Settled]:
    return (_judge(result, now + result.parcel.ahead) for result in results)


def put_on_hold(item: Settled) -> Settled:
    """Let what would go on wait for its release (`queue.control`), with the time of the attempt that was to follow."""
    if item.step.end not in OPEN_ENDS:
        return item
    retry_at = item.step.retry_at or item.step.next_attempt_at
    return replace(item, step=replace(item.step, next_attempt_at=None, retry_at=retry_at, reason="it is on hold now"))


def ended_by(item: Settled, actor: str) -> Settled:
    """Say who set the end of its time."""
    return replace(item, step=replace(item.step, reason=f"{item.step.reason}, which {actor} set"))


def _judge(result: Result, now: dt.datetime) -> Settled:
    parcel = result.parcel
    attempts = parcel.attempts + result.is_attempt
    step = DELIVERED if result.outcome.kind is Kind.DELIVERED else _step(result, attempts, now)
    targets = len(result.forward.envelope.recipients) if result.forward is not None else 0
    notice = notices.due(parcel, result.outcome, step, ended_at=result.ended_at, forwarded_to=targets)
    if result.hit is not None and parcel.source == Message.Source.HTTP:
        notice = None  # the API shows it; a list of a thousand such addresses must not come back as a thousand reports
    return Settled(result, step, attempts, notice)


def _step(result: Result, attempts: int, now: dt.datetime) -> Step:
    parcel = result.parcel
    if result.hit is not None:
        return Step(End.BOUNCED, None, "the suppression list keeps it back")
    terms = notices.terms(parcel)
    if result.waits and result.outcome.kind is Kind.DEFERRED:
        return waits(now=now, terms=terms, retry_at=parcel.retry_at)
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
    End.WAITING: Entry.Status.RETRY.value,
    End.BOUNCED: Entry.Status.BOUNCED.value,
}


def status_of(item: Settled) -> str:
    if item.result.hit is not None:  # the suppression list kept it back
        return Entry.Status.FAILED.value
    is_held = item.step.end in OPEN_ENDS and item.step.next_attempt_at is None
    waits_untried = item.step.end is End.WAITING and not item.attempts
    return Entry.Status.PENDING.value if is_held or waits_untried else _STATUS[item.step.end]


def last_reply_of(item: Settled) -> str:
    """Return what people are shown as the reason: an end at the deadline, and not just the last attempt's words."""
    result = item.result
    if result.hit is not None:
        return result.outcome.reply
    if result.is_attempt or item.step.end in OPEN_ENDS:
        return result.outcome.reply if result.is_attempt or result.attempted_at else ""
    if result.waits:
        return f"The time within which its host could fetch it is over. {result.outcome.reply}"
    deadline = item.parcel.deliver_by_at
    allowed = "that the sender allowed (BY)" if deadline and deadline <= result.ended_at else "allowed for it"
    return f"The time {allowed} is over. {result.outcome.reply}"


def is_news(item: Settled) -> bool:
    """An entry that waits for its host as it did before is none."""
    is_new = item.result.is_attempt or not item.parcel.waits_for_host or item.step.tells_delay
    return is_new or item.step.end is not End.WAITING


def event_of(item: Settled, worker: str) -> events.NewEvent:
    parcel, outcome, step = item.parcel, item.outcome, item.step
    hop = f" by {outcome.next_hop}" if outcome.next_hop else ""
    passed_on = notices.passed_on(parcel, outcome)
    read_as = item.returned.told if item.returned is not None else ""
    led_to = ""
    match step.end:
        case End.BOUNCED if item.result.hit is not None:
            kind, summary = Event.Kind.SUPPRESSED, outcome.reply
        case End.WAITING if not (item.result.is_attempt or item.step.tells_delay):
            kind, summary = Event.Kind.DEFERRED, f"{parcel.recipient}: {step.reason}."
        case End.RETRY | End.WAITING if not item.result.is_attempt:
            kind, summary = Event.Kind.DEFERRED, f"{parcel.recipient}: not delivered so far; {step.reason}."
        case End.BOUNCED if not item.result.is_attempt:
            kind, summary = Event.Kind.BOUNCED, f"{parcel.recipient}: given up without another attempt; {step.reason}."
        case End.DELIVERED if item.result.forward is not None:
            kind, summary = Event.Kind.FORWARDED, f"{outcome.reply}{read_as}."
            led_to = item.result.forward.message_id
        case End.DELIVERED if outcome.transport == "sandbox":
            kind, summary = Event.Kind.CAPTURED, f"For {parcel.recipient}: {outcome.reply}."
        case End.DELIVERED:
            kind, summary = (
                Event.Kind.DELIVERED,
                f"{parcel.recipient}: taken{hop}{passed_on} at attempt {item.attempts}{read_as}.",
            )
        case End.RETRY | End.WAITING:
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
        summary=f"{summary} {item.result.remarks}".rstrip(),
        message_id=parcel.message_id,
        entry_id=parcel.entry_id,
        recipient=parcel.recipient,
        reply=" ".join(filter(None, [str(outcome.code or ""), outcome.reply])),
        actor=worker,
        trace_id=parcel.trace_id,
        created_at=item.result.ended_at,
        led_to=led_to,
    )
