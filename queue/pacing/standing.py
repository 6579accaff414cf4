"""How destinations stand at this moment, read for people with a fixed number of queries, and told in words."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings

from mailflow import runtime
from queue.models import Destination, Slots
from queue.pacing import heartbeat, rates, state
from queue.pacing.ledger import cap_of, state_of
from queue.pacing.rates import Bucket
from queue.pacing.state import State

_SHORT = 120


@dataclass(frozen=True, slots=True)
class Use:
    """What one worker has of a destination's connections."""

    worker: str
    held: int
    in_use: int


@dataclass(frozen=True, slots=True)
class Standing:
    """`cap`: the limit; `capacity`: connections that are allowed now; `next_at`: when the rate lets one more go."""

    domain: str
    cap: int
    capacity: int
    known: State
    uses: Sequence[Use]
    per_minute: int | None = None
    next_at: dt.datetime | None = None

    @property
    def in_use(self) -> int:
        return sum(use.in_use for use in self.uses)


def of(domains: Collection[str], now: dt.datetime) -> dict[str, Standing]:
    """Return how these destinations stand, those that are known; three queries."""
    rows = Destination.objects.filter(domain__in=domains)
    return of_rows(list(rows), now)


def of_rows(rows: Sequence[Destination], now: dt.datetime) -> dict[str, Standing]:
    """The same for rows that were read already; two queries, none where there are no rows."""
    if not rows:
        return {}
    uses = _uses([row.domain for row in rows], now)
    default = runtime.fresh().pool_size
    return {row.domain: _standing(row, uses.get(row.domain, []), default, now) for row in rows}


def clauses(standing: Standing, now: dt.datetime) -> list[str]:
    """Say what keeps mail for the destination waiting, and until when; nothing where only a worker is wanting."""
    known, found = standing.known, []
    if not standing.capacity and known.paused_until is not None:
        times = f"failed {known.failures} times in a row" if known.failures > 1 else "failed"
        return [f"paused since it {times}: {_short(known.failure)}", f"next at {spoken(known.paused_until, now)}"]
    is_reached = standing.next_at is not None and standing.next_at > now
    if is_reached or standing.in_use >= standing.capacity:
        found.append(f"{standing.in_use} of {standing.capacity} connections in use")
    if standing.capacity < standing.cap:
        found.append(f"{standing.capacity} allowed of {standing.cap} since “{_short(known.failure)}”")
    if standing.next_at is not None and is_reached:
        found.append(f"{standing.per_minute}/min reached")
        found.append(f"next at {spoken(standing.next_at, now)}")
    return found


def spoken(at: dt.datetime, now: dt.datetime) -> str:
    """Return a time as people need it: the day where it is another one, seconds where it is soon."""
    form = "%H:%M:%S" if abs(at - now) < dt.timedelta(minutes=2) else "%H:%M"
    day = "" if at.astimezone(dt.UTC).date() == now.astimezone(dt.UTC).date() else "%Y-%m-%d "
    return f"{at.astimezone(dt.UTC):{day}{form}} UTC"


def _short(words: str) -> str:
    return words if len(words) <= _SHORT else words[: _SHORT - 1] + "…"


def _uses(domains: Collection[str], now: dt.datetime) -> Mapping[str, list[Use]]:
    lease = dt.timedelta(seconds=settings.QUEUE_LEASE_SECONDS)
    living = set(heartbeat.alive(now, lease).values_list("name", flat=True))
    uses: defaultdict[str, list[Use]] = defaultdict(list)
    rows = Slots.objects.filter(domain__in=domains).order_by("worker")
    for domain, worker, held, in_use in rows.values_list("domain", "worker", "held", "in_use"):
        if worker in living:
            uses[domain].append(Use(worker, held, in_use))
    return uses


def _standing(row: Destination, uses: Sequence[Use], default: int, now: dt.datetime) -> Standing:
    known, cap = state_of(row), cap_of(row, default)
    next_at = None
    if row.per_minute is not None:
        bucket = rates.filled(Bucket(row.bucket_level, row.bucket_at), row.per_minute, now)
        next_at = rates.next_at(bucket, row.per_minute)
    return Standing(row.domain, cap, state.capacity(known, cap, now), known, uses, row.per_minute, next_at)
