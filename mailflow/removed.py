"""What messages and refusals were whose records are gone, so that figures of all time do not go down with them.

Figures of the mail are counted in its tables, exact at every moment; whoever removes rows calls this before, in the
same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from django.db.models import Count, Q

from mailflow import counters, models
from mailflow.models import Event, Message

_PREFIX = "removed"
_COUNTED_KINDS = (Event.Kind.REFUSED.value, "spam_detected", "virus_detected")
# Mail that was on its way in: at MAIL, at RCPT, or for what it held.
_OF_MAIL = ("sender", "recipient", "content")
COUNTED_EVENTS = Q(kind__in=_COUNTED_KINDS[1:]) | Q(kind=Event.Kind.REFUSED, stage__in=_OF_MAIL)


def note_messages(message_ids: Collection[str]) -> None:
    """Note messages that are about to go, and the counted events that go with them."""
    rows = Message.objects.filter(pk__in=message_ids).order_by().values_list("source", "status").annotate(Count("pk"))
    found: Counter[str] = Counter()
    for source, status, count in rows:
        found[f"{_PREFIX}.{source}.{status}"] += count
    events = Event.objects.filter(COUNTED_EVENTS, message_id__in=message_ids).exclude(message_id="")
    _note(found + _by_kind(events.order_by().values_list("kind").annotate(Count("pk"))))


def note_refusals(event_ids: Collection[int]) -> None:
    events = Event.objects.filter(COUNTED_EVENTS, pk__in=event_ids)
    _note(_by_kind(events.order_by().values_list("kind").annotate(Count("pk"))))


def totals() -> tuple[Mapping[tuple[str, str], int], Mapping[str, int]]:
    """Return removed messages by (source, status), and removed events by kind; one query."""
    messages: dict[tuple[str, str], int] = {}
    events: dict[str, int] = {}
    rows = models.Counter.objects.filter(name__startswith=f"{_PREFIX}.").values_list("name", "value")
    for name, value in rows:
        _, first, second = name.split(".")
        if first == "event":
            events[second] = value
        else:
            messages[first, second] = value
    return messages, events


def _by_kind(rows: Collection[tuple[str, int]]) -> Counter[str]:
    return Counter({f"{_PREFIX}.event.{kind}": count for kind, count in rows})


def _note(found: Mapping[str, int]) -> None:
    counters.add_now(sorted(found.items()))
