"""What the page of one message shows, read with a fixed number of queries and bounded in size."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from django.db import models
from django.utils import timezone

from accounts.models import ApiKey, Organization, User
from mailflow.models import ContentChunk, Message
from queue.admin.entries import ENTRY_COLOURS
from queue.models import Attempt, Entry
from queue.simulation import clock
from queue.timeline import SANDBOX, TimelineItem, timeline
from queue.waiting import Around, around, waiting_for

M = TypeVar("M", bound=models.Model)

SHOWN_OCTETS = 256 * 1024
SHOWN_RECIPIENTS = 200
SHOWN_STEPS = 300


@dataclass(frozen=True, slots=True)
class RecipientRow:
    """One queue entry as the page tells it."""

    entry: Entry
    colour: str
    waits_for: str
    is_due: bool
    now: dt.datetime  # by the clock that it waits by


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the template needs beside the message itself."""

    recipients: Sequence[RecipientRow]
    hidden_recipients: int
    steps: Sequence[TimelineItem]
    hidden_steps: int
    has_open_entries: bool
    is_captured: bool
    is_simulated: bool
    has_simulated_time: bool
    source: str | None
    is_source_cut: bool
    user: User | None
    api_key: ApiKey | None
    organization: Organization | None


def build(message: Message) -> Page:
    """Gather the page; at most thirteen queries, whatever the number of recipients and steps."""
    now = timezone.now()
    entries = list(Entry.objects.filter(message=message).order_by("pk")[:SHOWN_RECIPIENTS])
    about = around(entries, now)
    steps = timeline(message.pk)
    attempts = Attempt.objects.filter(entry__message=message).order_by()
    transports = set(attempts.values_list("transport", flat=True).distinct())
    source = _chunk(message.pk, 0)
    return Page(
        recipients=[_row(entry, now, about) for entry in entries],
        hidden_recipients=max(0, message.recipient_count - SHOWN_RECIPIENTS),
        steps=steps[:SHOWN_STEPS],
        hidden_steps=max(0, len(steps) - SHOWN_STEPS),
        has_open_entries=message.status in (Message.Status.PENDING, Message.Status.PROCESSING),
        is_captured=SANDBOX in transports and not transports & {"smtp", "odmr"},
        is_simulated="smtp" in transports and all(entry.is_sandbox for entry in entries),
        has_simulated_time=any(step.is_simulated for step in steps),
        source=None if source is None else source[:SHOWN_OCTETS].decode("utf-8", "replace"),
        is_source_cut=source is not None and message.size_octets > SHOWN_OCTETS,
        user=_find(User, message.user_id),
        api_key=_find(ApiKey, message.api_key_id),
        organization=_find(Organization, message.organization_id),
    )


def stream(message_id: str) -> Iterator[bytes]:
    """Yield the message's octets, one query a chunk: no cursor stays open while a slow client reads."""
    ordinal = 0
    while (piece := _chunk(message_id, ordinal)) is not None:
        yield piece
        ordinal += 1


def prepended(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _find(model: type[M], pk: object) -> M | None:
    """Return the row that the message names without a foreign key; it may be gone."""
    return None if pk is None else model._default_manager.filter(pk=pk).first()


def _row(entry: Entry, now: dt.datetime, about: Around) -> RecipientRow:
    at = clock.time_of(entry, now, about.ahead)
    is_due = entry.next_attempt_at is not None and entry.next_attempt_at <= at
    return RecipientRow(entry, ENTRY_COLOURS.get(entry.status, "info"), waiting_for(entry, now, about), is_due, at)


def _chunk(message_id: str, ordinal: int) -> bytes | None:
    found = ContentChunk.objects.filter(message_id=message_id, ordinal=ordinal).values_list("octets", flat=True).first()
    return None if found is None else bytes(found)
