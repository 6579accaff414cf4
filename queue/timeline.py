"""What happened to a message, in order and in words: its events and its attempts as one list (admin and API).

What the sandbox's clock dated stands at its own time, with a word that this was simulated: the real time of each row is
in its id.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mailflow.ids import CLOCK_SLACK, is_ahead
from mailflow.models import Event
from queue.models import Attempt
from queue.simulation.personas import DOMAIN

SANDBOX = "sandbox"  # the transport of captured mail
CAPTURED_WORDS = "Captured by the sandbox: nothing left this machine."


class Tone(enum.StrEnum):
    """How an item reads at a glance."""

    GOOD = "good"
    BAD = "bad"
    WAITING = "waiting"
    INFO = "info"


_EVENT_TONES: dict[str, Tone] = {
    Event.Kind.ACCEPTED: Tone.GOOD,
    Event.Kind.DELIVERED: Tone.GOOD,
    Event.Kind.FORWARDED: Tone.GOOD,
    Event.Kind.DEFERRED: Tone.WAITING,
    Event.Kind.RETRY_REQUESTED: Tone.WAITING,
    Event.Kind.REFUSED: Tone.BAD,
    Event.Kind.BOUNCED: Tone.BAD,
    Event.Kind.FAILED: Tone.BAD,
    Event.Kind.DELETED: Tone.BAD,
    Event.Kind.AUTH_FAILED: Tone.BAD,
    Event.Kind.SUPPRESSED: Tone.BAD,
    Event.Kind.BOUNCE_RECEIVED: Tone.BAD,
    Event.Kind.COMPLAINT: Tone.BAD,
    Event.Kind.LISTED: Tone.BAD,
    Event.Kind.HELD: Tone.WAITING,
    Event.Kind.RELEASED: Tone.WAITING,
    Event.Kind.CANCELLED: Tone.BAD,
}
_ATTEMPT_TONES: dict[str, Tone] = {
    Attempt.Outcome.DELIVERED: Tone.GOOD,
    Attempt.Outcome.DEFERRED: Tone.WAITING,
    Attempt.Outcome.FAILED: Tone.BAD,
}
_WAYS = {"local": "Locally", "smtp": "By SMTP", "odmr": "By ODMR", SANDBOX: "By the sandbox"}


@dataclass(frozen=True, slots=True)
class TimelineItem:
    """One step. `words` is a sentence, `detail` where an attempt went and how, `reply` what the other side said;
    `recipient` is empty for the message as a whole. `is_simulated`: the sandbox's clock said so, ahead of real time.
    `forwarded_as`: the message that carries it on, of a forward.
    """

    at: dt.datetime
    title: str
    words: str
    tone: Tone
    recipient: str = ""
    detail: str = ""
    reply: str = ""
    decisions: Sequence[Mapping[str, str]] = field(default=())
    is_simulated: bool = False
    forwarded_as: str = ""


def timeline(message_id: str) -> list[TimelineItem]:
    """Return the message's steps in the order of time; two queries.

    The event that an attempt left (its entry's, of the moment it ended) is one step with it.
    """
    attempts = Attempt.objects.filter(entry__message_id=message_id).select_related("entry")
    untold = {(attempt.entry_id, attempt.ended_at): attempt for attempt in attempts}
    begun_at = min((attempt.entry.created_at for attempt in untold.values()), default=None)
    items = []
    for event in Event.objects.filter(message_id=message_id):
        attempt = untold.pop((event.entry_id, event.created_at), None) if event.entry_id is not None else None
        item, is_first = of_event(event, attempt), event.kind == Event.Kind.ACCEPTED
        if is_first and begun_at is not None and begun_at - item.at > CLOCK_SLACK:
            item = replace(item, at=begun_at, is_simulated=True)  # the clock was ahead when the message came
        items.append((0 if is_first else event.pk, item))
    items += [(attempt.pk, of_attempt(attempt)) for attempt in untold.values()]
    return _in_order(items)


def _in_order(items: Sequence[tuple[int, TimelineItem]]) -> list[TimelineItem]:
    """Sort by time. What has real time, amid what the sandbox's clock dated days ahead, follows what was there then."""
    if not any(item.is_simulated for _, item in items):
        return [item for _, item in sorted(items, key=lambda row: (row[1].at, row[0]))]
    keys = {}
    latest = dt.datetime.min.replace(tzinfo=dt.UTC)
    for pk, item in sorted(items, key=lambda row: row[0]):
        keys[pk] = item.at if item.is_simulated else max(item.at, latest)
        latest = max(latest, keys[pk])
    return [item for _, item in sorted(items, key=lambda row: (keys[row[0]], row[0]))]


def of_event(event: Event, attempt: Attempt | None = None) -> TimelineItem:
    return TimelineItem(
        at=event.created_at,
        title=event.get_kind_display(),
        words=event.summary,
        tone=_EVENT_TONES.get(event.kind, Tone.INFO),
        recipient=event.recipient,
        detail="" if attempt is None else _how(attempt),
        reply="" if _is_repeated(event) else event.reply,
        decisions=event.decisions,
        is_simulated=is_ahead(event.created_at, event.pk),
        forwarded_as=event.led_to,
    )


def _is_repeated(event: Event) -> bool:
    """Whether the words say all that the reply does; of a forward both are ours, behind the code."""
    words = event.reply.partition(" ")[2] if event.kind == Event.Kind.FORWARDED else event.reply
    return words in event.summary


def of_attempt(attempt: Attempt) -> TimelineItem:
    return TimelineItem(
        at=attempt.ended_at,
        title=f"Attempt {attempt.number}: {attempt.get_outcome_display().lower()}",
        words=_where(attempt),
        tone=_ATTEMPT_TONES.get(attempt.outcome, Tone.INFO),
        recipient=attempt.entry.recipient,
        reply=f"{attempt.code} {attempt.reply}" if attempt.code is not None else attempt.reply,
        is_simulated=is_ahead(attempt.ended_at, attempt.pk),
    )


def _where(attempt: Attempt) -> str:
    if attempt.transport == SANDBOX:
        return CAPTURED_WORDS
    hop = f"To {attempt.next_hop}." if attempt.next_hop else "No next hop was reached."
    return f"{hop} {_how(attempt)}"


_RULES = {
    "dane": "DANE",
    "dane-unusable": "TLSA records that cannot be used",
    "mta-sts": "the domain's MTA-STS policy",
    "mta-sts-testing": "the domain's MTA-STS policy in testing",
    "requiretls": "the sender's demand (REQUIRETLS)",
    "required": "the smarthost's setting",
    "implicit": "the smarthost's setting",
}


def _proof(attempt: Attempt) -> str:
    """Say by which rule the line was as it was; nothing where no rule asked for anything."""
    rule = _RULES.get(attempt.tls_policy, "")
    if attempt.is_verified:
        return f", verified by {rule}" if rule else ", verified"
    return f", unverified, by {rule}" if rule else ""


def _how(attempt: Attempt) -> str:
    seconds = (attempt.ended_at - attempt.started_at).total_seconds()
    over = f", over {attempt.tls}" if attempt.tls else ""
    over += _proof(attempt)
    way = _WAYS.get(attempt.transport, attempt.transport)
    where = " in the simulated internet" if is_simulated(attempt) else ""
    return f"{way}{where}{over}, in {seconds:.1f} s."


def is_simulated(attempt: Attempt) -> bool:
    """Whether the next hop, real as its answers read, was one of the simulated internet."""
    return attempt.transport == "smtp" and attempt.next_hop.partition("[")[0].endswith(f".{DOMAIN}")
