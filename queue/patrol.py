"""Goes through the open entries, some thousands at a time, so that none can be stuck.

Entries whose destination takes nothing now are due and are not claimed; the patrol finds those whose time allowed is
over meanwhile, or whose sender is to hear of the delay. And it mends what a clock that was wrong has left: leases that
end later than any lease can, and retries later than any delay.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from django.conf import settings

from queue import claim, notices, schedule
from queue.claim import Parcel
from queue.dsn_facts import Action
from queue.models import Destination, Entry
from queue.pacing.state import is_paused
from queue.results import Result, without_attempt

logger = structlog.get_logger(__name__)

STEP = 5000  # entries looked at in one step
MAX_FOUND = 500  # with so many to be settled a step ends; the next one goes on behind the last entry it looked at
_CLOCKS_DIFFER = dt.timedelta(minutes=10)  # by no more, of machines that work together


class Patrol:
    """One worker's patrol; used by one thread at a time."""

    def __init__(self, worker: str, lease: dt.timedelta) -> None:
        self._worker = worker
        self._lease = lease
        self._status: str = Entry.Status.PENDING
        self._passed: tuple[dt.datetime, int] | None = None  # in the order of the index `entry_due`

    def step(self, now: dt.datetime, *, only_mends: bool = False) -> tuple[list[Result], bool]:
        """Look at the next entries; return the ends of those that get no attempt, leased, and whether a round ended.

        `only_mends`: nothing is to be settled, as at a start, when what is late may just not have been tried yet.
        """
        status = self._status
        rows, has_ended = self._next(now)
        mended = self._mend(rows, now)
        if mended:
            logger.warning("queue.times_mended", entries=mended)
        meant = {} if only_mends else _meant(claim.load(_past_deadline(now)), now)
        waiting = [] if only_mends else [row for row in rows if row.wants_a_look(now)]
        for start in range(0, len(waiting), MAX_FOUND):
            looked_at = waiting[start : start + MAX_FOUND]
            meant |= _meant(claim.load([row.entry_id for row in looked_at]), now)
            if len(meant) >= MAX_FOUND and looked_at[-1] is not waiting[-1]:
                self._status, self._passed = status, (looked_at[-1].next_attempt_at, looked_at[-1].entry_id)
                has_ended = False
                break
        claimed = claim.claim(self._worker, limit=len(meant), now=now, lease=self._lease, entry_ids=list(meant))
        return [without_attempt(parcel, now, meant[parcel.entry_id]) for parcel in claimed], has_ended

    def _next(self, now: dt.datetime) -> tuple[list[_Row], bool]:
        """Return the next rows in the order of time, first attempts before retries."""
        found = Entry.objects.filter(status=self._status, next_attempt_at__isnull=False)
        if self._passed is not None:
            at, entry_id = self._passed
            found = found.filter(next_attempt_at__gte=at).exclude(next_attempt_at=at, pk__lte=entry_id)
        rows = [_Row(*values) for values in found.order_by("next_attempt_at", "pk").values_list(*_COLUMNS)[:STEP]]
        if len(rows) == STEP:
            self._passed = (rows[-1].next_attempt_at, rows[-1].entry_id)
            return rows, False
        self._passed = None
        is_first = self._status == Entry.Status.PENDING
        self._status = Entry.Status.RETRY if is_first else Entry.Status.PENDING
        return rows, not is_first

    def _mend(self, rows: Sequence[_Row], now: dt.datetime) -> int:
        """Make due at once what waits for a time that only a wrong clock can have set."""
        ids = [row.entry_id for row in rows if row.is_impossible(now, self._lease)]
        mended = 0
        for start in range(0, len(ids), MAX_FOUND):
            batch = Entry.objects.filter(pk__in=ids[start : start + MAX_FOUND], next_attempt_at__gt=now + self._lease)
            mended += batch.update(lease="", next_attempt_at=now, retry_at=None)
        return mended


@dataclass(frozen=True, slots=True)
class _Row:
    """What the patrol looks at."""

    entry_id: int
    next_attempt_at: dt.datetime
    lease: str
    created_at: dt.datetime
    expires_at: dt.datetime
    scheduled_at: dt.datetime | None
    deliver_by_at: dt.datetime | None
    deliver_by_mode: str
    delay_told_at: dt.datetime | None
    notify: str
    is_sandbox: bool
    waits_for_host: bool

    def wants_a_look(self, now: dt.datetime) -> bool:
        """Whether it is due, and perhaps late for something; `_meant` looks closer, which costs more.

        The sandbox has its own time.
        """
        if self.next_attempt_at > now or self.is_sandbox:
            return False
        return self.expires_at <= now or self._is_late(now) or self._is_slow(now)

    def _is_late(self, now: dt.datetime) -> bool:
        """Whether its deadline has passed, and its sender, who only wants to be told of that (mode N), was not yet."""
        is_over = self.deliver_by_at is not None and self.deliver_by_at <= now
        return is_over and (self.delay_told_at is None or self.deliver_by_mode.startswith("R"))

    def _is_slow(self, now: dt.datetime) -> bool:
        """Whether its sender may have to hear of the delay; who wants no word of it (NOTIFY) is not looked at again."""
        delay = settings.QUEUE_DELAY_DSN_AFTER_SECONDS
        if not delay or self.delay_told_at is not None or self.created_at > now - dt.timedelta(seconds=delay):
            return False
        return notices.is_wanted(Action.DELAYED, self.notify)

    def is_impossible(self, now: dt.datetime, lease: dt.timedelta) -> bool:
        """Whether it waits for longer than a lease, or a retry, can be."""
        if self.lease:
            longest = max(lease, claim.SIMULATED_LEASE) if self.is_sandbox else lease
            return self.next_attempt_at > now + 2 * longest
        is_scheduled = self.scheduled_at is not None and self.scheduled_at > now
        if self.is_sandbox or self.waits_for_host or is_scheduled:  # for as long as it takes
            return False
        longest = max(settings.RETRY_SCHEDULE) * (1 + schedule.JITTER) + dt.timedelta(days=1)
        if self.next_attempt_at <= now + longest:
            return False
        # A person may have put it so late, but not behind its expiry, which only a wrong clock does.
        return self.next_attempt_at > self.expires_at or self.created_at > now + _CLOCKS_DIFFER


_COLUMNS = (
    "pk", "next_attempt_at", "lease", "created_at", "expires_at", "scheduled_at", "deliver_by_at",
    "deliver_by_mode", "delay_told_at", "notify", "is_sandbox", "waits_for_host",
)  # fmt: skip


def _past_deadline(now: dt.datetime) -> list[int]:
    """Return what its sender wants back by now, wherever it stands: the rows that have a deadline have an index."""
    late = Entry.objects.filter(
        deliver_by_at__lte=now, next_attempt_at__lte=now, deliver_by_mode__startswith="R", is_sandbox=False
    )
    return list(late.order_by("deliver_by_at").values_list("pk", flat=True)[:MAX_FOUND])


def _meant(parcels: Sequence[Parcel], now: dt.datetime) -> dict[int, str]:
    """Return those to be settled, with what keeps them from an attempt.

    Old mail ends without an attempt only where its destination is out of reach: what waits for its turn still has it,
    however late.
    """
    if not parcels:
        return {}
    known = Destination.objects.filter(domain__in={parcel.domain for parcel in parcels}, paused_until__gt=now)
    paused = {row.domain: f"{row.domain} is out of reach: {row.failure}." for row in known if _pauses(row, now)}
    meant = {}
    for parcel in parcels:
        terms = notices.terms(parcel)
        is_told = terms.delay_notice_at is not None and terms.delay_notice_at <= now
        is_old = terms.expires_at <= now and parcel.domain in paused
        if terms.is_over(now) or is_told or is_old:
            meant[parcel.entry_id] = paused.get(parcel.domain, "")
    return meant


def _pauses(row: Destination, now: dt.datetime) -> bool:
    return is_paused(row.paused_until, now)
