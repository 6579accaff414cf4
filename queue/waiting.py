"""What an open entry waits for, in words: for the API's `waiting_for`, the admin and whoever asks.

What its destination has to do with it is read for a whole page of entries at once (`around`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from queue.models import Entry, Worker
from queue.pacing import standing
from queue.pacing.standing import Standing, spoken
from queue.simulation import clock
from queue.simulation.clock import REAL_TIME, time_of


@dataclass(frozen=True, slots=True)
class Around:
    """What is known of some entries' destinations and workers.

    `running`: since when, by `(worker, message id, domain)`; `workers`: those that tell what they do, and whether that
    is all of it.
    `ahead`: how far the sandbox's clock is ahead of real time, by which its entries wait.
    """

    standings: Mapping[str, Standing] = field(default_factory=dict)
    running: Mapping[tuple[str, str, str], dt.datetime] = field(default_factory=dict)
    workers: Mapping[str, bool] = field(default_factory=dict)
    ahead: dt.timedelta = REAL_TIME


NOTHING_KNOWN = Around()
_TURNED = "odmr:"  # how the leases of turned sessions begin (`queue.transports.odmr`)


def around(entries: Iterable[Entry], now: dt.datetime) -> Around:
    """Gather what the open ones of these entries wait for; at most five queries."""
    entries = list(entries)
    waiting = [entry for entry in entries if entry.status in Entry.OPEN and entry.next_attempt_at is not None]
    if not waiting:
        return NOTHING_KNOWN
    names = {entry.lease for entry in waiting if entry.lease}
    workers = list(Worker.objects.filter(pk__in=names)) if names else []
    running = {
        (worker.name, told["message_id"], told["destination"]): dt.datetime.fromisoformat(told["since"])
        for worker in workers
        for told in worker.deliveries
    }
    known = {worker.name: worker.running <= len(worker.deliveries) for worker in workers}
    domains = {entry.domain for entry in waiting if not entry.is_sandbox}
    return Around(standing.of(domains, now), running, known, clock.ahead_of(waiting))


def waiting_for(entry: Entry, now: dt.datetime, about: Around = NOTHING_KNOWN) -> str:
    """Return one clause without a full stop, or nothing for an entry that has ended."""
    if entry.status not in Entry.OPEN:
        return ""
    now = time_of(entry, now, about.ahead)
    if entry.lease and entry.next_attempt_at is not None and entry.next_attempt_at > now:
        held = "; it is put on hold after it" if entry.held_at is not None else ""
        return f"{_at_a_worker(entry, now, about)}{held}"
    if entry.held_at is not None:
        return f"its release: on hold since {entry.held_at:%Y-%m-%d %H:%M} UTC by {entry.hold_reason}"
    if entry.next_attempt_at is None:
        return ""
    if entry.lease:
        return "another worker, since the one that had it fell silent"
    if entry.next_attempt_at <= now:
        found = None if entry.is_sandbox else about.standings.get(entry.domain)
        words = standing.clauses(found, now) if found else []
        return f"{entry.domain}: {'; '.join(words)}" if words else "a free worker"
    return _until_its_time(entry, entry.next_attempt_at, now)


def _until_its_time(entry: Entry, next_attempt_at: dt.datetime, now: dt.datetime) -> str:
    """Say what an entry waits for that nobody may take yet."""
    if entry.waits_for_host:
        return "the domain's own host to fetch it (ATRN or ETRN)"
    if entry.waits_for:
        return f"{entry.waits_for}; next at {spoken(entry.retry_at or next_attempt_at, now)}"
    if entry.retry_at is not None and entry.retry_at > next_attempt_at:
        return _wake(entry)
    if entry.attempts:
        return f"attempt {entry.attempts + 1} of {entry.max_attempts}, since the last one was deferred"
    return "the time that its sender chose" if entry.scheduled_at is not None else "its time of sending"


def _at_a_worker(entry: Entry, now: dt.datetime, about: Around) -> str:
    """Tell the attempt that is being made from a turn that has not come, as far as the worker tells it."""
    since = about.running.get((entry.lease, entry.message_id, entry.domain))
    if since is not None:
        return f"the attempt that worker {entry.lease} is making now, since {spoken(since, now)}"
    if entry.lease.startswith(_TURNED):
        return "the session in which its host is fetching it (ATRN)"
    if entry.lease not in about.workers:
        return f"the attempt that worker {entry.lease} is making now"
    found = None if entry.is_sandbox else about.standings.get(entry.domain)
    tells_all = about.workers[entry.lease]
    place = f"its turn at worker {entry.lease}{'' if tells_all else ', or the end of an attempt that runs there'}"
    return "; ".join([place, *(standing.clauses(found, now) if found else [])])


def _wake(entry: Entry) -> str:
    """Say what comes before the next attempt (`queue.schedule`)."""
    if entry.next_attempt_at == entry.deliver_by_at and entry.deliver_by_mode.startswith("R"):
        return "the time at which the sender wants it back (BY), which comes before another attempt"
    attempt = f"attempt {entry.attempts + 1} of {entry.max_attempts}"
    return f"the time at which its sender is told of the delay; {attempt} follows"
