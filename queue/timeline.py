"""What happened to a message, in order and in words: its events and its attempts as one list (admin and API)."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailflow.models import Event
from queue.models import Attempt

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
}
_ATTEMPT_TONES: dict[str, Tone] = {
    Attempt.Outcome.DELIVERED: Tone.GOOD,
    Attempt.Outcome.DEFERRED: Tone.WAITING,
    Attempt.Outcome.FAILED: Tone.BAD,
}
_WAYS = {"local": "Locally", "smtp": "By SMTP", SANDBOX: "By the sandbox"}


@dataclass(frozen=True, slots=True)
class TimelineItem:
    """One step. `words` is a sentence, `detail` where an attempt went and how, `reply` what the other side said;
    `recipient` is empty for the message as a whole.
    """

    at: dt.datetime
    title: str
    words: str
    tone: Tone
    recipient: str = ""
    detail: str = ""
    reply: str = ""
    decisions: Sequence[Mapping[str, str]] = field(default=())


def timeline(message_id: str) -> list[TimelineItem]:
    """Return the message's steps in the order of time; two queries.

    The event that an attempt left (its entry's, of the moment it ended) is one step with it.
    """
    attempts = Attempt.objects.filter(entry__message_id=message_id).select_related("entry")
    untold = {(attempt.entry_id, attempt.ended_at): attempt for attempt in attempts}
    items = []
    for event in Event.objects.filter(message_id=message_id):
        attempt = untold.pop((event.entry_id, event.created_at), None) if event.entry_id is not None else None
        items.append((event.created_at, event.pk, of_event(event, attempt)))
    items += [(attempt.ended_at, attempt.pk, of_attempt(attempt)) for attempt in untold.values()]
    return [item for _, _, item in sorted(items, key=lambda row: row[:2])]


def of_event(event: Event, attempt: Attempt | None = None) -> TimelineItem:
    return TimelineItem(
        at=event.created_at,
        title=event.get_kind_display(),
        words=event.summary,
        tone=_EVENT_TONES.get(event.kind, Tone.INFO),
        recipient=event.recipient,
        detail="" if attempt is None else _how(attempt),
        reply="" if event.reply in event.summary else event.reply,
        decisions=event.decisions,
    )


def of_attempt(attempt: Attempt) -> TimelineItem:
    return TimelineItem(
        at=attempt.ended_at,
        title=f"Attempt {attempt.number}: {attempt.get_outcome_display().lower()}",
        words=_where(attempt),
        tone=_ATTEMPT_TONES.get(attempt.outcome, Tone.INFO),
        recipient=attempt.entry.recipient,
        reply=f"{attempt.code} {attempt.reply}" if attempt.code is not None else attempt.reply,
    )


def _where(attempt: Attempt) -> str:
    if attempt.transport == SANDBOX:
        return CAPTURED_WORDS
    hop = f"To {attempt.next_hop}." if attempt.next_hop else "No next hop was reached."
    return f"{hop} {_how(attempt)}"


def _how(attempt: Attempt) -> str:
    seconds = (attempt.ended_at - attempt.started_at).total_seconds()
    over = f", over {attempt.tls}" if attempt.tls else ""
    way = _WAYS.get(attempt.transport, attempt.transport)
    return f"{way}{over}, in {seconds:.1f} s."
