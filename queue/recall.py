"""Getting back what waits in workers for its turn: whoever wants leased entries asks, and the workers answer in a beat.

The entries are marked first, as held or with another route. A worker that sees that it was asked looks at what waits in
it, gives back what was changed, and then says so in its row: what it has still is being delivered.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Mapping

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.utils import timezone

from queue.models import Entry, Worker
from queue.pacing import heartbeat

PATIENCE_SECONDS = 6.0  # some beats
POLL_SECONDS = 0.1


def ask(workers: Collection[str]) -> dict[str, int]:
    """Ask the workers to give back what was changed; return the number of each one's question. Others know of none."""
    rows = Worker.objects.filter(pk__in=sorted(workers))
    rows.update(recalls=F("recalls") + 1)
    return dict(rows.values_list("name", "recalls"))


def wait(asked: Mapping[str, int], is_ending: Callable[[], bool] = lambda: False) -> frozenset[str]:
    """Wait until those who live have answered, for some seconds at most; return who has not. Not in a transaction."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        silent = frozenset(
            name
            for name, answered in Worker.objects.filter(pk__in=asked).values_list("name", "recalls_answered")
            if answered < asked[name]
        )
        hopeful = silent & _living()
        if not hopeful or is_ending() or connection.in_atomic_block or time.monotonic() >= ends_at:
            return silent
        time.sleep(POLL_SECONDS)


def changed(worker: str, routes: Mapping[int, str]) -> list[int]:
    """Return the worker's own entries that people have put on hold, or given another route than it knows."""
    own = Entry.objects.filter(pk__in=list(routes), lease=worker, status__in=Entry.OPEN)
    return [pk for pk, held_at, route in own.values_list("pk", "held_at", "route") if held_at or route != routes[pk]]


def _living() -> frozenset[str]:
    lease = dt.timedelta(seconds=settings.QUEUE_LEASE_SECONDS)
    return frozenset(heartbeat.alive(timezone.now(), lease).values_list("name", flat=True))
