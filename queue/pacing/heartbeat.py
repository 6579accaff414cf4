"""The workers' rows: what each tells of itself, and who is alive.

What a worker holds of destinations counts until `leased_until`. A time that is further away than any lease can be comes
of a clock that was wrong, and counts as over.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet

from queue.models import Slots, Worker

MAX_DELIVERIES = 50
FORGOTTEN_AFTER = dt.timedelta(minutes=10)  # how long people can see a worker that died


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker does at this moment; `deliveries` as `Worker` says, `mark` as `process_mark`."""

    name: str
    host: str
    pid: int
    started_at: dt.datetime
    mark: str = ""
    in_flight: int = 0
    running: int = 0
    waiting: int = 0
    rung: int = 0
    recalls_answered: int = 0
    deliveries: list[dict[str, Any]] = field(default_factory=list)


def beat(report: Report, *, now: dt.datetime, lease: dt.timedelta) -> int:
    """Write the worker's row, which renews all that it holds; return how many other workers are alive."""
    told = {
        "seen_at": now,
        "leased_until": now + lease,
        "in_flight": report.in_flight,
        "running": report.running,
        "waiting": report.waiting,
        "rung": report.rung,
        "recalls_answered": report.recalls_answered,
        "deliveries": report.deliveries[:MAX_DELIVERIES],
    }
    if not Worker.objects.filter(pk=report.name).update(**told):
        Worker.objects.create(
            name=report.name,
            host=report.host[:255],
            pid=report.pid,
            mark=report.mark,
            started_at=report.started_at,
            **told,
        )
    return alive(now, lease).exclude(pk=report.name).count()


def recalls_of(name: str) -> int:
    """Return how often the worker was asked to give back what people have changed (`queue.recall`)."""
    return Worker.objects.filter(pk=name).values_list("recalls", flat=True).first() or 0


def alive(now: dt.datetime, lease: dt.timedelta) -> QuerySet[Worker]:
    """Workers whose slots count. `lease` is ours, and taken for theirs."""
    return Worker.objects.filter(leased_until__gt=now, leased_until__lte=now + 2 * lease)


def leave(name: str) -> None:
    """Remove the worker and what it holds, at a clean end."""
    with transaction.atomic():
        Slots.objects.filter(worker=name).delete()
        Worker.objects.filter(pk=name).delete()


def forget_the_dead(now: dt.datetime, lease: dt.timedelta, *, but: Collection[str] = ()) -> int:
    """Remove what workers that died have left; their rows stay for a while, for people to see. Returns rows removed."""
    living = alive(now, lease).values("name")
    removed = Slots.objects.exclude(worker__in=living).exclude(worker__in=but).delete()[0]
    old = Q(seen_at__lt=now - max(FORGOTTEN_AFTER, 2 * lease)) | Q(seen_at__gt=now + FORGOTTEN_AFTER)
    return removed + Worker.objects.filter(old).exclude(pk__in=but).delete()[0]
