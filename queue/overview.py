"""The queue domain by domain: how much waits, is held, is retried, since when, and what its hosts say.

Counted in indexes alone, however many entries there are, and kept for ten seconds: a page that ten people look at costs
as much as one.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import connection
from django.utils import timezone

from queue.models import Destination, Entry

SHOWN = 25
SAMPLE = 100  # a domain's oldest entries, which tell its age and its last replies
KEPT_SECONDS = 10.0
MAX_HELD_DOMAINS = 1000


@dataclass(frozen=True, slots=True)
class DomainFigures:
    """`waiting` counts all open entries, the held ones among them; `retrying` those that were deferred.

    `paused_until`: nothing is attempted there before, since `failure`.
    `reply`: what most of the oldest entries were last answered, and `replied` how many of the `sampled`.
    """

    domain: str
    waiting: int
    held: int
    retrying: int
    due: int
    next_attempt_at: dt.datetime | None
    oldest_at: dt.datetime | None
    reply: str
    replied: int
    sampled: int
    paused_until: dt.datetime | None = None
    failure: str = ""

    @property
    def fresh(self) -> int:
        """Entries that wait for their first attempt."""
        return max(0, self.waiting - self.held - self.retrying)


@dataclass(frozen=True, slots=True)
class Overview:
    """The domains with the most entries first; the sums are the whole queue's, the hidden domains included."""

    domains: Sequence[DomainFigures]
    hidden_domains: int
    waiting: int
    held: int
    retrying: int
    due: int
    scheduled: int
    counted_at: dt.datetime


def read(now: dt.datetime, shown: int = SHOWN) -> Overview:
    """Count; six queries."""
    moving, sums = _moving(now, shown)
    held = _held()
    most = Counter({domain: row.waiting for domain, row in moving.items()}) + held
    names = [domain for domain, _ in sorted(most.items(), key=lambda item: (-item[1], item[0]))[:shown]]
    samples, paused = _samples(names), _paused(names, now)
    nothing = _Moving(0, 0, 0, None)
    domains = [
        replace(_figures(name, moving.get(name, nothing), held.get(name, 0), samples[name]), **paused.get(name, {}))
        for name in names
    ]
    all_domains = max(sums.domains, len(most))
    return Overview(
        domains=domains,
        hidden_domains=max(0, all_domains - len(domains)),
        waiting=sums.waiting + held.total(),
        held=held.total(),
        retrying=sums.retrying,
        due=sums.due,
        scheduled=_scheduled(now),
        counted_at=now,
    )


def recent() -> Overview:
    """Return what was counted at most ten seconds ago. Of many threads that find it old, one counts."""
    return _kept.get()


@dataclass(frozen=True, slots=True)
class _Moving:
    """What of a domain is not held."""

    waiting: int
    retrying: int
    due: int
    next_attempt_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class _Sums:
    waiting: int
    retrying: int
    due: int
    domains: int


def _moving(now: dt.datetime, shown: int) -> tuple[dict[str, _Moving], _Sums]:
    """Group by domain, with the sums over all domains; the index on the times of attempts has all of it."""
    at = connection.ops.adapt_datetimefield_value(now)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT domain, COUNT(*) AS waiting,
                SUM(CASE WHEN status = 'retry' THEN 1 ELSE 0 END),
                SUM(CASE WHEN next_attempt_at <= %s THEN 1 ELSE 0 END),
                MIN(next_attempt_at),
                SUM(COUNT(*)) OVER (),
                SUM(SUM(CASE WHEN status = 'retry' THEN 1 ELSE 0 END)) OVER (),
                SUM(SUM(CASE WHEN next_attempt_at <= %s THEN 1 ELSE 0 END)) OVER (),
                COUNT(*) OVER ()
            FROM {_table()} WHERE next_attempt_at IS NOT NULL
            GROUP BY domain ORDER BY waiting DESC, domain LIMIT {int(shown)}""",  # noqa: S608  (names and bounds only)
            [at, at],
        )
        rows = cursor.fetchall()
    found = {row[0]: _Moving(int(row[1]), int(row[2]), int(row[3]), _time(row[4])) for row in rows}
    return found, _Sums(*map(int, rows[0][5:9])) if rows else _Sums(0, 0, 0, 0)


def _held() -> Counter[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT domain, COUNT(*) AS held FROM {_table()}
            WHERE held_at IS NOT NULL AND finished_at IS NULL AND next_attempt_at IS NULL
            GROUP BY domain ORDER BY held DESC LIMIT {MAX_HELD_DOMAINS}"""  # noqa: S608
        )
        return Counter({domain: int(count) for domain, count in cursor.fetchall()})


def _scheduled(now: dt.datetime) -> int:
    return Entry.objects.filter(Entry.IS_OPEN, scheduled_at__gt=now).order_by().values("pk")[:100_000].count()


def _samples(domains: Sequence[str]) -> dict[str, list[tuple[dt.datetime, str]]]:
    """Return the oldest entries of each domain, as when they were accepted and what they were last answered."""
    found: defaultdict[str, list[tuple[dt.datetime, str]]] = defaultdict(list)
    if domains:
        one = (
            f"SELECT id FROM (SELECT id FROM {_table()} WHERE domain = %s AND finished_at IS NULL"  # noqa: S608
            f" ORDER BY message_id, id LIMIT {SAMPLE}) AS oldest"
        )
        with connection.cursor() as cursor:
            cursor.execute(" UNION ALL ".join([one] * len(domains)), list(domains))
            ids = [row[0] for row in cursor.fetchall()]
        rows = Entry.objects.filter(pk__in=ids).order_by("message_id", "pk")
        for domain, created_at, reply in rows.values_list("domain", "created_at", "last_reply"):
            found[domain].append((created_at, reply))
    return found


def _paused(domains: Sequence[str], now: dt.datetime) -> dict[str, dict[str, Any]]:
    """Return which destinations get nothing for a while, until when and why (`queue.pacing`)."""
    rows = Destination.objects.filter(domain__in=domains, paused_until__gt=now)
    found = rows.values_list("domain", "paused_until", "failure")
    return {domain: {"paused_until": until, "failure": failure} for domain, until, failure in found}


def _figures(domain: str, moving: _Moving, held: int, sample: Sequence[tuple[dt.datetime, str]]) -> DomainFigures:
    replies = Counter(reply for _, reply in sample if reply)
    reply, replied = replies.most_common(1)[0] if replies else ("", 0)
    return DomainFigures(
        domain=domain,
        waiting=moving.waiting + held,
        held=held,
        retrying=moving.retrying,
        due=moving.due,
        next_attempt_at=moving.next_attempt_at,
        oldest_at=sample[0][0] if sample else None,
        reply=reply,
        replied=replied,
        sampled=len(sample),
    )


def _table() -> str:
    return connection.ops.quote_name(Entry._meta.db_table)


def _time(value: Any) -> dt.datetime | None:
    """Return a time as SQL of our own answers it: SQLite keeps text, in UTC."""
    if isinstance(value, str):
        return dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC)
    return value if isinstance(value, dt.datetime) else None


class _Kept:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Overview | None = None
        self._read_at = 0.0

    def get(self) -> Overview:
        with self._lock:
            if self._found is None or time.monotonic() - self._read_at > KEPT_SECONDS:
                self._found = read(timezone.now())
                self._read_at = time.monotonic()
            return self._found

    def forget(self) -> None:
        with self._lock:
            self._found = None


_kept = _Kept()
forget = _kept.forget
