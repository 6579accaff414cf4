"""Figures of the mail itself, counted in the tables: for stats, health and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Count, Sum

from mailflow import removed
from mailflow.models import Event, FiledMessage, Message

_BY_SMTP = (Message.Source.RECEPTION, Message.Source.SUBMISSION)
_OPEN = (Message.Status.PENDING, Message.Status.PROCESSING)
_UNSUCCESSFUL = (Message.Status.FAILED, Message.Status.BOUNCED, Message.Status.REJECTED)


@dataclass(frozen=True, slots=True)
class MailFigures:
    """Messages of all time by how they came and how they ended; `refused`, `spam` and `viruses` are events.

    `refused`: refusals by SMTP of a sender, a recipient or a content.
    """

    received: int
    received_by_smtp: int
    received_by_http: int
    sent: int
    queued: int
    failed: int
    refused: int
    spam: int
    viruses: int


@dataclass(frozen=True, slots=True)
class StorageFigures:
    messages: int
    octets: int


def mail() -> MailFigures:
    """Count with three queries."""
    rows = Message.objects.order_by().values_list("source", "status").annotate(Count("pk"))
    removed_messages, removed_events = removed.totals()
    counts = Counter(dict(removed_messages))
    counts.update({(source, status): count for source, status, count in rows})

    def total(sources: tuple[str, ...] | None = None, statuses: tuple[str, ...] | None = None) -> int:
        return sum(
            count
            for (source, status), count in counts.items()
            if (sources is None or source in sources) and (statuses is None or status in statuses)
        )

    by_smtp, by_http = total(_BY_SMTP), total((Message.Source.HTTP,))
    events = Counter(dict(removed_events))
    events.update(_events())
    return MailFigures(
        received=by_smtp + by_http,
        received_by_smtp=by_smtp,
        received_by_http=by_http,
        sent=total(statuses=(Message.Status.DELIVERED,)),
        queued=total(statuses=_OPEN),
        failed=total(statuses=_UNSUCCESSFUL),
        refused=events[Event.Kind.REFUSED],
        spam=events["spam_detected"],
        viruses=events["virus_detected"],
    )


def queued() -> int:
    """Count the messages that some recipient waits for; one query on an index."""
    return Message.objects.filter(status__in=_OPEN).count()


def storage() -> StorageFigures:
    found = FiledMessage.objects.aggregate(messages=Count("pk"), octets=Sum("size_octets"))
    return StorageFigures(found["messages"], found["octets"] or 0)


def _events() -> Mapping[str, int]:
    rows = Event.objects.filter(removed.COUNTED_EVENTS).order_by().values_list("kind").annotate(Count("pk"))
    return dict(rows)
