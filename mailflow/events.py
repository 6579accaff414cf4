"""Write what happened and why; always in the transaction of the change that it explains."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.utils import timezone

from mailflow.ids import new_row_id
from mailflow.models import Event
from mailflow.policy.decision import Decision
from mailflow.spool.insert import bulk_insert

_FIELDS = (
    "id", "created_at", "kind", "message_id", "entry_id", "recipient", "summary", "reply", "decisions",
    "client_address", "actor", "trace_id",
)  # fmt: skip
MAX_TEXT = 4000


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event not yet written; `kind` is one of `Event.Kind`."""

    kind: str
    summary: str
    message_id: str = ""
    entry_id: int | None = None
    recipient: str = ""
    reply: str = ""
    decisions: Sequence[Decision] = ()
    client_address: str = ""
    actor: str = ""
    trace_id: str = ""
    created_at: dt.datetime | None = None


def record(events: Iterable[NewEvent]) -> None:
    """Insert the events with one statement, in the caller's transaction."""
    now = timezone.now()
    rows = [
        (
            new_row_id(),
            event.created_at or now,
            event.kind,
            event.message_id,
            event.entry_id,
            clean_text(event.recipient, 320),
            clean_text(event.summary),
            clean_text(event.reply),
            [decision.as_json() for decision in event.decisions],
            event.client_address,
            clean_text(event.actor, 254),
            event.trace_id,
        )
        for event in events
    ]
    bulk_insert(Event, _FIELDS, rows)


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Make any text fit for a column: no NUL or lone surrogate (PostgreSQL takes neither), cut to `limit`."""
    if not text.isprintable():
        text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return text if len(text) <= limit else text[: limit - 1] + "…"
