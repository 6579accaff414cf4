"""Finds entries that are due, at a cost that does not grow with the queue (docs/adr/0014).

First attempts (`pending`) and retries are looked for apart. Usually that is one look at the head of an index in the
order of time. Where what stands there belongs to destinations that take nothing now, be it a million entries, the look
ends after a bounded number of rows, and for a while the domains are gone through by another index, a few at a time:
every step has a bound, and none depends on what others have waiting.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.utils import timezone

from queue import claim
from queue.claim import Parcel, moment
from queue.models import Destination, Entry
from queue.pacing.state import is_paused
from queue.simulation.clock import REAL_TIME, Watch

KINDS = (Entry.Status.PENDING.value, Entry.Status.RETRY.value)
WIDE = 1600  # rows of the head that are looked at before it counts as blocked
BLOCKED_SECONDS = 20.0  # for so long it is not looked at again
DOMAINS_A_STEP = 250  # domains passed in one step of the other way
MAX_DUE_DOMAINS = 50  # of them, those that entries are taken of

# Compared as a whole, the place of an entry in the index by domain leaves the planner no other index: one that looks
# for the domain in the order of time may have to pass all that others have waiting, whatever the statistics say.
_PLACE = "(e.domain, e.status, e.next_attempt_at)"
_EVER = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)  # before every entry

_COLUMNS = "e.id, e.domain, e.status, e.retry_at, e.deliver_by_at, e.deliver_by_mode, e.is_sandbox, d.paused_until"


@dataclass(frozen=True, slots=True)
class Closed:
    """Domains of which a worker can take no more: first attempts, retries.

    `sandbox`: whether there is room for mail of the sandbox, which goes beside the lanes; None where it is as other
    mail.
    """

    first: Collection[str] = frozenset()
    retries: Collection[str] = frozenset()
    sandbox: bool | None = None


NOTHING_CLOSED = Closed()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A due entry, and whether its destination is paused."""

    entry_id: int
    domain: str
    status: str
    retry_at: dt.datetime | None
    deliver_by_at: dt.datetime | None
    deliver_by_mode: str
    is_sandbox: bool
    paused_until: dt.datetime | None

    def is_open(self, closed: Closed, now: dt.datetime) -> bool:
        """Whether it may be taken: its destination takes mail, or no attempt is to be made."""
        if self.is_sandbox and closed.sandbox is not None:
            return closed.sandbox
        if self.retry_at is not None and self.retry_at > now:
            return True
        if self.deliver_by_at is not None and self.deliver_by_at <= now and self.deliver_by_mode.startswith("R"):
            return True
        shut = closed.retries if self.status == Entry.Status.RETRY else closed.first
        return self.domain not in shut and not is_paused(self.paused_until, now)


@dataclass(frozen=True, slots=True)
class Found:
    """What was leased; `is_all`: nothing more of what was looked for can be taken now."""

    parcels: list[Parcel]
    is_all: bool


class Finder:
    """One worker's way through the queue; used by one thread at a time. `clock` is the sandbox's."""

    def __init__(self, worker: str, clock: Watch | None = None) -> None:
        self._worker = worker
        self._clock = clock
        self._blocked_until = dict.fromkeys(KINDS, 0.0)  # by the steady clock
        self._passed = dict.fromkeys(KINDS, "")  # domains up to this one have had their turn
        self._found_on_round = dict.fromkeys(KINDS, False)

    def claim_rung(
        self, entry_ids: Sequence[int], *, limit: int, lease: dt.timedelta, closed: Closed = NOTHING_CLOSED
    ) -> Found:
        """Lease those of the entries that are due, free, and can be delivered now."""
        now = timezone.now()
        ahead = self._ahead(closed)
        candidates = _by_id(entry_ids, now, ahead)
        return Found(self._take(candidates, closed, limit, now, lease, ahead), is_all=True)

    def claim_of(
        self, domains: Sequence[str], *, limit: int, lease: dt.timedelta, closed: Closed = NOTHING_CLOSED
    ) -> Found:
        """Lease what is due for these domains, of both kinds, evenly."""
        now = timezone.now()
        each = max(1, limit // (len(domains) * len(KINDS)))
        candidates = [one for kind in KINDS for one in _by_domain(domains, kind, each, now)]
        return Found(self._take(candidates, closed, limit, now, lease), is_all=True)

    def claim_due(
        self,
        kind: str,
        *,
        limit: int,
        lease: dt.timedelta,
        closed: Closed = NOTHING_CLOSED,
        workers: int = 1,
    ) -> Found:
        """Lease what is due of one kind, the oldest first. Where several workers look at one head, each sees more."""
        now = timezone.now()
        ahead = self._ahead(closed)
        if ahead and (simulated := _in_sandbox(kind, limit, now + ahead)):
            parcels = claim.claim(
                self._worker, limit=limit, now=now, lease=lease, entry_ids=simulated, ahead=ahead, is_sandbox=True
            )
            if parcels:
                return Found(parcels, is_all=False)
        if time.monotonic() < self._blocked_until[kind]:
            return self._claim_on_round(kind, limit, lease, closed, now)
        width = limit * min(max(workers, 1), 4)
        for rows in sorted({width, max(width, WIDE)}):
            seen = _by_time(kind, rows, now)
            usable = [one for one in seen if one.is_open(closed, now)]
            if len(seen) < rows or len(usable) >= limit // 2:
                parcels = self._take(usable, closed, limit, now, lease)
                return Found(parcels, is_all=len(seen) < rows and len(parcels) == len(usable))
        self._blocked_until[kind] = time.monotonic() + BLOCKED_SECONDS
        self._found_on_round[kind] = True  # at least one whole round
        parcels = self._take(usable, closed, limit, now, lease)
        return Found(parcels, is_all=False) if parcels else self._claim_on_round(kind, limit, lease, closed, now)

    def _claim_on_round(self, kind: str, limit: int, lease: dt.timedelta, closed: Closed, now: dt.datetime) -> Found:
        """Take some of each of the next domains that have something due."""
        passed, due = _domains_after(self._passed[kind], kind, now)
        shut = closed.retries if kind == Entry.Status.RETRY else closed.first
        taking = [domain for domain in due if domain not in shut][:MAX_DUE_DOMAINS]
        has_ended = len(passed) < DOMAINS_A_STEP and len(taking) < MAX_DUE_DOMAINS
        parcels: list[Parcel] = []
        if taking:
            each = -(-limit // len(taking))
            parcels = self._take(_by_domain(taking, kind, each, now), closed, limit, now, lease)
            self._found_on_round[kind] |= bool(parcels)
        if not has_ended:
            self._passed[kind] = taking[-1] if len(taking) == MAX_DUE_DOMAINS else passed[-1]
            return Found(parcels, is_all=False)
        self._passed[kind] = ""
        is_all, self._found_on_round[kind] = not self._found_on_round[kind], False
        return Found(parcels, is_all=is_all)

    def _ahead(self, closed: Closed) -> dt.timedelta:
        """Return how far the sandbox's clock is ahead; real time where nothing of it can be taken."""
        return REAL_TIME if self._clock is None or closed.sandbox is False else self._clock.ahead()

    def _take(
        self,
        candidates: Iterable[Candidate],
        closed: Closed,
        limit: int,
        now: dt.datetime,
        lease: dt.timedelta,
        ahead: dt.timedelta = REAL_TIME,
    ) -> list[Parcel]:
        usable = [one.entry_id for one in candidates if one.is_open(closed, now)]
        return claim.claim(self._worker, limit=limit, now=now, lease=lease, entry_ids=usable[: 4 * limit], ahead=ahead)


def has_come_due(since: dt.datetime, now: dt.datetime) -> bool:
    """Whether the time of any entry came within these moments; one look into the index."""
    times = Entry.objects.filter(status__in=KINDS, next_attempt_at__gt=since, next_attempt_at__lte=now)
    return times.order_by().exists()


def _by_id(entry_ids: Sequence[int], now: dt.datetime, ahead: dt.timedelta = REAL_TIME) -> list[Candidate]:
    if not entry_ids:
        return []
    marks = ", ".join(["%s"] * len(entry_ids))
    if not ahead:
        return _candidates(f"WHERE e.id IN ({marks}) AND e.next_attempt_at <= %s", [*entry_ids, moment(now)])
    simulated = "e.is_sandbox AND e.lease = '' AND e.next_attempt_at <= %s"
    return _candidates(
        f"WHERE e.id IN ({marks}) AND (e.next_attempt_at <= %s OR ({simulated}))",
        [*entry_ids, moment(now), moment(now + ahead)],
    )


def _in_sandbox(kind: str, limit: int, until: dt.datetime) -> list[int]:
    """Return sandbox entries of the kind that wait in nobody's hands for a time up to that one."""
    found = Entry.objects.filter(is_sandbox=True, lease="", status=kind, next_attempt_at__lte=until)
    return list(found.order_by("next_attempt_at").values_list("pk", flat=True)[:limit])


def _by_time(kind: str, limit: int, now: dt.datetime) -> list[Candidate]:
    return _candidates(
        f"WHERE e.status = %s AND e.next_attempt_at <= %s ORDER BY e.next_attempt_at LIMIT {int(limit)}",
        [kind, moment(now)],
    )


def _by_domain(domains: Sequence[str], kind: str, each: int, now: dt.datetime) -> list[Candidate]:
    """Return the oldest due entries of each domain, with one statement."""
    entries, _ = _tables()
    one = (
        f"SELECT id FROM (SELECT e.id FROM {entries} e WHERE {_PLACE} >= (%s, %s, %s) AND {_PLACE} <= (%s, %s, %s)"  # noqa: S608
        f" AND e.next_attempt_at IS NOT NULL ORDER BY e.domain, e.status, e.next_attempt_at LIMIT {int(each)}) AS due"
    )
    parameters: list[Any] = [
        value for domain in domains for value in (domain, kind, moment(_EVER), domain, kind, moment(now))
    ]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join([one] * len(domains)), parameters)
        ids = [row[0] for row in cursor.fetchall()]
    return _by_id(ids, now)


def _candidates(where: str, parameters: Sequence[Any]) -> list[Candidate]:
    entries, destinations = _tables()
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM {entries} e LEFT JOIN {destinations} d ON d.domain = e.domain {where}",  # noqa: S608
            parameters,
        )
        rows = cursor.fetchall()
    return [
        Candidate(entry_id, domain, status, _time(retry_at), _time(deadline), mode, bool(sandbox), _time(paused_until))
        for entry_id, domain, status, retry_at, deadline, mode, sandbox, paused_until in rows
    ]


def _domains_after(passed: str, kind: str, now: dt.datetime) -> tuple[list[str], list[str]]:
    """Return the next domains that have anything open, and which of them have something due and are not paused.

    It jumps from one domain to the next in the index: entries between them are not looked at.
    """
    entries, destinations = _tables()
    following = (
        f"(SELECT e.domain FROM {entries} e WHERE e.domain > {{after}} AND e.next_attempt_at IS NOT NULL"  # noqa: S608
        " ORDER BY e.domain LIMIT 1)"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"""WITH RECURSIVE names (domain, number) AS (
                SELECT {following.format(after="%s")}, 1
                UNION ALL
                SELECT {following.format(after="names.domain")}, number + 1 FROM names
                WHERE names.domain IS NOT NULL AND number < {DOMAINS_A_STEP}
            )
            SELECT names.domain, (
                SELECT CASE WHEN e.domain = names.domain AND e.status = %s AND e.next_attempt_at <= %s THEN 1 ELSE 0 END
                FROM {entries} e WHERE {_PLACE} >= (names.domain, %s, %s) AND e.next_attempt_at IS NOT NULL
                ORDER BY e.domain, e.status, e.next_attempt_at LIMIT 1
            ), d.paused_until
            FROM names LEFT JOIN {destinations} d ON d.domain = names.domain
            WHERE names.domain IS NOT NULL ORDER BY names.number""",  # noqa: S608  (names and bounds only)
            [passed, kind, moment(now), kind, moment(_EVER)],
        )
        rows = cursor.fetchall()
    due = [domain for domain, is_due, until in rows if is_due and not is_paused(_time(until), now)]
    return [domain for domain, _, _ in rows], due


def _tables() -> tuple[str, str]:
    quote = connection.ops.quote_name
    return quote(Entry._meta.db_table), quote(Destination._meta.db_table)


def _time(value: dt.datetime | None) -> dt.datetime | None:
    """Return a time as SQL of our own answers it: SQLite knows no zones, and Django keeps UTC there."""
    return value.replace(tzinfo=dt.UTC) if value is not None and value.tzinfo is None else value
