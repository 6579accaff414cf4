"""Write what happened and why; always in the transaction of the change that it explains."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.db import transaction
from django.utils import timezone

from mailflow.ids import new_row_id
from mailflow.models import Event
from mailflow.policy.decision import Decision
from mailflow.spool.insert import JsonText, bulk_insert, encode_json

_FIELDS = (
    "id", "created_at", "kind", "message_id", "entry_id", "stage", "rule", "sender", "recipient", "summary", "reply",
    "decisions", "client_address", "client_key", "organization_id", "actor", "trace_id", "led_to",
)  # fmt: skip
MAX_TEXT = 4000
_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event not yet written; `kind` is one of `Event.Kind`.

    `stage` and `rule` may be left to the decision that stopped the message. `organization_id`: whom a refusal concerns.
    `led_to`: the message that carries on what this one ends.
    """

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
    stage: str = ""
    rule: str = ""
    sender: str = ""
    organization_id: int | None = None
    led_to: str = ""


def record(events: Iterable[NewEvent]) -> None:
    """Insert the events with one statement, in the caller's transaction.

    Ids are made inside it, that is in SQLite after the lock: the feed of events counts on that (`event_search`).
    """
    with transaction.atomic(savepoint=False):
        bulk_insert(Event, _FIELDS, _rows(events))


def _rows(events: Iterable[NewEvent]) -> list[tuple[Any, ...]]:
    now = timezone.now()
    rows = []
    for event in events:
        stage, rule = event.stage, event.rule
        if event.decisions and not (stage and rule):
            stage, rule = _spoken_by(event)
        rows.append(
            (
                new_row_id(),
                event.created_at or now,
                event.kind,
                event.message_id,
                event.entry_id,
                stage and clean_text(stage, 20),
                rule and clean_text(rule, 64),
                event.sender and clean_text(event.sender, 320),
                event.recipient and clean_text(event.recipient, 320),
                clean_text(event.summary),
                event.reply and clean_text(event.reply),
                JsonText(f"[{','.join(map(_decision_json, event.decisions))}]"),
                event.client_address,
                client_key(event.client_address) if event.client_address else "",
                event.organization_id,
                event.actor and clean_text(event.actor, 254),
                event.trace_id,
                event.led_to,
            )
        )
    return rows


@lru_cache(maxsize=4096)
def _decision_json(decision: Decision) -> str:
    """Render a decision; most are the same from message to message."""
    return encode_json(decision.as_json())


def _spoken_by(event: NewEvent) -> tuple[str, str]:
    """Return the event's stage and rule, what is missing of them from its last decision that stopped the message."""
    for decision in reversed(event.decisions):
        if decision.stops:
            return event.stage or decision.stage, event.rule or decision.rule
    return event.stage, event.rule


@lru_cache(maxsize=4096)
def client_key(address: str) -> str:
    """Return the address as 32 hexadecimal digits, IPv4 mapped into IPv6 (RFC 4291 §2.5.5.2); empty if it is none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    return f"{int(found) + (_MAPPED if found.version == 4 else 0):032x}"


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Make any text fit for a column: no NUL or lone surrogate (PostgreSQL takes neither), cut to `limit`."""
    if not text.isprintable():
        text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return text if len(text) <= limit else text[: limit - 1] + "…"
