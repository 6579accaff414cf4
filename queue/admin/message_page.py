"""What the page of one message shows, read with a fixed number of queries and bounded in size."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from django.core import paginator
from django.db import models
from django.db.models import Case, Count, IntegerField, Q, When
from django.utils import timezone

from accounts.models import ApiKey, Organization, User
from mailflow.models import ContentChunk, Message
from queue.admin import buttons
from queue.admin.buttons import Button, Waiting
from queue.admin.entries import ENTRY_COLOURS
from queue.models import Attempt, Entry
from queue.selection_fields import FIELDS
from queue.simulation import clock
from queue.states import State, state_of
from queue.timeline import SANDBOX, TimelineItem, timeline
from queue.waiting import Around, around, waiting_for

M = TypeVar("M", bound=models.Model)

SHOWN_OCTETS = 256 * 1024
RECIPIENTS = 50  # a page
SHOWN_STEPS = 300
_WAITING_FIRST = Case(
    When(status__in=Entry.OPEN, then=0), When(status=Entry.Status.DELIVERED, then=2), default=1,
    output_field=IntegerField(),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RecipientRow:
    """One queue entry as the page tells it."""

    entry: Entry
    state: State
    colour: str
    waits_for: str
    is_due: bool
    now: dt.datetime  # by the clock that it waits by


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the template needs beside the message itself."""

    recipients: Sequence[RecipientRow]
    place: paginator.Page[Entry]  # which of the pages of recipients it is
    buttons: Sequence[Button]
    steps: Sequence[TimelineItem]
    hidden_steps: int
    is_captured: bool
    simulated_words: str
    has_simulated_time: bool
    source: str | None
    is_source_cut: bool
    user: User | None
    api_key: ApiKey | None
    organization: Organization | None


def build(message: Message, recipients_page: str = "1") -> Page:
    """Gather the page; at most fourteen queries, whatever the number of recipients and steps."""
    now = timezone.now()
    all_entries = Entry.objects.filter(message=message)
    counts = all_entries.aggregate(**_counts(now))
    pages = paginator.Paginator(all_entries.order_by(_WAITING_FIRST, "pk"), RECIPIENTS)
    pages.count = counts["all"]
    place = pages.get_page(recipients_page)
    entries = list(place)
    about = around(entries, now)
    steps = timeline(message.pk)
    attempts = Attempt.objects.filter(entry__message=message).order_by()
    transports = set(attempts.values_list("transport", flat=True).distinct())
    is_simulated = "smtp" in transports and not counts["real"]
    source = _chunk(message.pk, 0)
    return Page(
        recipients=[_row(entry, now, about) for entry in entries],
        place=place,
        buttons=buttons.of_message(message.pk, Waiting(counts["open"], counts["held"], counts["scheduled"])),
        steps=steps[:SHOWN_STEPS],
        hidden_steps=max(0, len(steps) - SHOWN_STEPS),
        is_captured=SANDBOX in transports and not transports & {"smtp", "odmr"},
        simulated_words=_simulated(counts) if is_simulated else "",
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
    state = state_of(entry)
    colour = ENTRY_COLOURS.get(state.name, "info")
    return RecipientRow(entry, state, colour, waiting_for(entry, now, about), is_due, at)


def _counts(now: dt.datetime) -> dict[str, Count]:
    scheduled = FIELDS["scheduled"].condition(True) & Q(scheduled_at__gt=now)
    return {
        "all": Count("pk"),
        "open": Count("pk", filter=Entry.IS_OPEN),
        "held": Count("pk", filter=Entry.IS_OPEN & Entry.IS_HELD),
        "scheduled": Count("pk", filter=Entry.IS_OPEN & ~Entry.IS_HELD & scheduled),
        "delivered": Count("pk", filter=Q(status=Entry.Status.DELIVERED)),
        "real": Count("pk", filter=Q(is_sandbox=False)),
    }


def _simulated(counts: Mapping[str, int]) -> str:
    """Say what the simulated internet has to do with it, of mail that it was tried on."""
    if counts["open"]:
        return "To be delivered in the simulated internet: nothing leaves this machine."
    done = {0: "Refused in", counts["all"]: "Delivered in"}.get(counts["delivered"], "Delivered to some recipients in")
    return f"{done} the simulated internet: nothing left this machine."


def _chunk(message_id: str, ordinal: int) -> bytes | None:
    found = ContentChunk.objects.filter(message_id=message_id, ordinal=ordinal).values_list("octets", flat=True).first()
    return None if found is None else bytes(found)
