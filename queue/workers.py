"""What each worker does at this moment, as people are told: by the admin, the API and `manage.py queue workers`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from queue.models import Worker

SILENT_AFTER = dt.timedelta(seconds=15)  # it tells of itself every few seconds


@dataclass(frozen=True, slots=True)
class Doing:
    """One delivery that runs."""

    destination: str
    message_id: str
    recipients: int
    since: dt.datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """One worker. `hidden`: deliveries that run beside those that are told, which are the longest."""

    name: str
    host: str
    pid: int
    started_at: dt.datetime
    seen_at: dt.datetime
    is_silent: bool
    in_flight: int
    running: int
    waiting: int
    rung: int
    doing: Sequence[Doing]

    @property
    def hidden(self) -> int:
        return max(0, self.running - len(self.doing))


def read(now: dt.datetime) -> list[Seen]:
    """Return all workers, those that fell silent first: they are what somebody looks for. One query."""
    found = [_seen(worker, now) for worker in Worker.objects.all()]
    return sorted(found, key=lambda seen: (not seen.is_silent, seen.started_at))


def _seen(worker: Worker, now: dt.datetime) -> Seen:
    return Seen(
        name=worker.name,
        host=worker.host,
        pid=worker.pid,
        started_at=worker.started_at,
        seen_at=worker.seen_at,
        is_silent=now - worker.seen_at > SILENT_AFTER,
        in_flight=worker.in_flight,
        running=worker.running,
        waiting=worker.waiting,
        rung=worker.rung,
        doing=sorted((_doing(told) for told in worker.deliveries), key=lambda one: one.since),
    )


def _doing(told: dict[str, Any]) -> Doing:
    since = dt.datetime.fromisoformat(told["since"])
    aware = since if since.tzinfo else since.replace(tzinfo=dt.UTC)
    return Doing(str(told["destination"]), str(told["message_id"]), int(told["recipients"]), aware)
