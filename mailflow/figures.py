"""Read the counters and live gauges of the whole system (`mailflow.counters` writes them)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Max, Min, Sum
from django.utils import timezone

from mailflow.counters import HISTOGRAMS, OVER, STARTED, bucket_name
from mailflow.models import Counter, Gauge

FRESH = dt.timedelta(seconds=20)  # several times the interval in which a living process renews its gauges
FORGET = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many observations fell up to each bound (and over the last: `over`), and their sum."""

    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    over: int
    total: float

    @property
    def count(self) -> int:
        return sum(self.counts) + self.over

    @property
    def average(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """Estimate, evenly spread within a bucket; values over the last bound count as that bound."""
        wanted, seen, low = share * self.count, 0, 0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count and seen + count >= wanted:
                return low + (bound - low) * (wanted - seen) / count
            seen, low = seen + count, bound
        return float(low) if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """All counters and live gauges at one moment; a name that nobody counted is 0."""

    sums: Mapping[str, int]
    gauges: Mapping[str, int]
    running: frozenset[str]
    started_at: dt.datetime | None
    last_request_at: float | None

    def sum(self, name: str) -> int:
        return self.sums.get(name, 0)

    def gauge(self, name: str) -> int:
        return self.gauges.get(name, 0)

    def is_running(self, name: str) -> bool:
        """Whether some live process publishes this gauge."""
        return name in self.running

    def uptime_seconds(self, now: dt.datetime) -> float:
        """How long the system's oldest living process has been up; 0 where none tells."""
        return round((now - self.started_at).total_seconds(), 1) if self.started_at is not None else 0.0

    def histogram(self, name: str) -> Histogram:
        bounds = HISTOGRAMS[name]
        counts = tuple(self.sum(bucket_name(name, bound)) for bound in bounds)
        return Histogram(bounds, counts, self.sum(bucket_name(name, OVER)), self.sum(f"{name}.sum_thousandths") / 1000)


def read() -> Figures:
    """Read the figures of the whole system with three queries."""
    fresh = Gauge.objects.filter(updated_at__gte=timezone.now() - FRESH)
    gauges = {row["name"]: row for row in fresh.values("name").annotate(total=Sum("value"), first=Min("value"))}
    last = Gauge.objects.filter(name="http.last_request_at_ms").aggregate(last=Max("value"))["last"]
    started = gauges.get(STARTED)
    return Figures(
        sums=dict(Counter.objects.values_list("name", "value")),
        gauges={name: row["total"] for name, row in gauges.items()},
        running=frozenset(gauges),
        started_at=dt.datetime.fromtimestamp(started["first"] / 1000, dt.UTC) if started else None,
        last_request_at=last / 1000 if last is not None else None,
    )


def forget_the_dead() -> int:
    """Delete gauges of processes that ended long ago; the hourly `prune` calls it."""
    return Gauge.objects.filter(updated_at__lt=timezone.now() - FORGET).delete()[0]
