"""The sandbox's clock: real time and an offset that is kept in the database (docs/adr/0017).

It judges what is due, when an entry expires and is retried, deadlines and delays, of sandbox entries alone. Leases,
tokens and limits, and all mail that is not of the sandbox, keep real time. Nobody sets it back but `reset`, which takes
the waiting entries along, so that none is left to wait for a time that will not come.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts.prepared import PreparedOne
from queue.models import Entry, SandboxClock

REAL_TIME = dt.timedelta(0)
TRUST_SECONDS = 1.0
_MOVED = ("created_at", "expires_at", "deliver_by_at", "retry_at", "delay_told_at")
_AHEAD = PreparedOne(lambda _: SandboxClock.objects.filter(pk=SandboxClock.ROW).values_list("ahead"))


def ahead() -> dt.timedelta:
    """Return how far the clock is ahead of real time; one query."""
    row = _AHEAD.row()
    return row[0] if row else REAL_TIME


def held_ahead() -> dt.timedelta:
    """The same for whoever writes times in the caller's transaction: a clock that is ahead stands until its end.

    One that shows real time is not locked: mail of a clock that moves on meanwhile is just older.
    """
    if not ahead():
        return REAL_TIME
    row = SandboxClock.objects.filter(pk=SandboxClock.ROW).select_for_update(no_key=True)
    return row.values_list("ahead", flat=True).first() or REAL_TIME


def now() -> dt.datetime:
    return timezone.now() + ahead()


def ahead_of(entries: Iterable[Entry]) -> dt.timedelta:
    """The same for showing these entries; nothing is asked where none is the sandbox's."""
    return ahead() if any(entry.is_sandbox and entry.status in Entry.OPEN for entry in entries) else REAL_TIME


def time_of(entry: Entry, now: dt.datetime, ahead: dt.timedelta) -> dt.datetime:
    """Return the time that an entry's times are to be compared with: the end of a lease is real."""
    return now + ahead if entry.is_sandbox and not entry.lease else now


class Watch:
    """What a worker knows of the clock. That it shows real time is believed for a second, anything else is asked anew:
    so a move forward may be seen late, and a step back is not.
    """

    def __init__(self) -> None:
        self._asked_at = -TRUST_SECONDS

    def ahead(self) -> dt.timedelta:
        if time.monotonic() - self._asked_at < TRUST_SECONDS:
            return REAL_TIME
        found = ahead()
        self._asked_at = time.monotonic() if not found else -TRUST_SECONDS
        return found


def move_to(moment: dt.datetime, *, actor: str) -> dt.timedelta:
    """Put the clock forward to that time, unless it is there or beyond already; return how far it is ahead now."""
    with transaction.atomic():
        row = _locked()
        at = timezone.now()
        if row.ahead < moment - at:
            row.ahead, row.changed_at, row.changed_by = moment - at, at, actor[:150]
            row.save()
        return row.ahead


def reset(*, actor: str) -> int:
    """Go back to real time; return how many waiting entries came along, each as long before its times as it was.

    What a worker has in its hands is settled by the clock as it is then (`held_ahead`).
    """
    with transaction.atomic():
        row = _locked()
        back = row.ahead
        row.ahead, row.changed_at, row.changed_by = REAL_TIME, timezone.now(), actor[:150]
        row.save()
        if not back:
            return 0
        entries = Entry.objects.filter(is_sandbox=True, status__in=Entry.OPEN)
        moved = {name: F(name) - back for name in _MOVED}
        waiting = Q(lease="", next_attempt_at__isnull=False)
        count = entries.filter(waiting).update(next_attempt_at=F("next_attempt_at") - back, **moved)
        entries.exclude(waiting).update(**moved)
        return count


def _locked() -> SandboxClock:
    SandboxClock.objects.get_or_create(pk=SandboxClock.ROW, defaults={"changed_at": timezone.now()})
    return SandboxClock.objects.select_for_update(no_key=True).get(pk=SandboxClock.ROW)
