"""Let the sandbox's time pass: from one due time to the next, delivering what is due at each (docs/adr/0017).

It claims, delivers and settles by the relay leg's own steps, under a lease, so that workers and other advances may run
beside it: no entry is ever in two hands. Times are those at which the entries were due, to the second; only mail that
comes of them (reports, forwards) may be dated a few minutes later. If it is killed, its leases run out, and the clock
stands where it stood.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import structlog
import uvloop
from django.db import connection
from django.db.models import Count, Min, Q, QuerySet
from django.utils import timezone

from accounts.addresses import Resolution
from mailflow import content
from mailflow.models import Message
from queue import claim, delivery
from queue.claim import Parcel
from queue.models import Entry
from queue.results import Result
from queue.signer import Signer
from queue.simulation import clock, sandbox
from queue.simulation.sandbox import Sandbox
from queue.transports.sandbox import SandboxTransport

T = TypeVar("T")
logger = structlog.get_logger(__name__)

WINDOW = dt.timedelta(minutes=10)  # what is due within it is delivered together
BATCH = 200
READ_AHEAD_OCTETS = 32 << 20
FAR = dt.timedelta(days=3650)
IMPATIENCE_SECONDS = 0.5  # real ones, for a host that says nothing: five minutes are soon over here
# Real seconds, for an entry in other hands: longer than a lease, so that whoever died has let go of it by then.
PATIENCE_SECONDS = 180.0
NOTE_SECONDS = 3.0
_NAME = "simulate"


@dataclass(slots=True)
class Tally:
    """What happened, in numbers; `reports` are those written to senders."""

    attempts: int = 0
    delivered: int = 0
    captured: int = 0
    deferred: int = 0
    bounced: int = 0
    reports: int = 0

    def add(self, other: Tally) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def words(self) -> str:
        """Return the numbers that are not 0: `3 attempts, 2 deferred, 1 delivered`."""
        named = [
            (self.attempts, "attempt" if self.attempts == 1 else "attempts"),
            (self.delivered, "delivered"),
            (self.captured, "captured"),
            (self.deferred, "deferred"),
            (self.bounced, "bounced"),
            (self.reports, "report written" if self.reports == 1 else "reports written"),
        ]
        return ", ".join(f"{number} {word}" for number, word in named if number) or "nothing"


@dataclass(slots=True)
class Summary:
    """An advance as a whole; `in_other_hands`: entries that a worker still had when the time was over."""

    started_at: dt.datetime  # by the sandbox's clock, like `ended_at`
    ended_at: dt.datetime
    tally: Tally = field(default_factory=Tally)
    waiting: int = 0
    in_other_hands: int = 0
    is_complete: bool = False


Tell = Callable[[dt.datetime, Tally], None]  # what happened at a time of the sandbox's clock


class Advance:
    """One run. `until` None: until nothing waits any more. `seconds`: stop after so much real time.

    `tell` hears what happened, `note` what takes long, in words.
    """

    def __init__(
        self,
        until: dt.datetime | None,
        *,
        actor: str,
        tell: Tell = lambda _at, _tally: None,
        note: Callable[[str], None] = lambda _words: None,
        seconds: float = 1e9,
    ) -> None:
        self._until = until
        self._actor = actor
        self._tell = tell
        self._ends = time.monotonic() + seconds
        self._worker = f"{_NAME}:{socket.gethostname()[:14]}:{os.getpid()}:{secrets.token_hex(3)}"
        self._in_hand: list[int] = []
        self._note = note
        self._has_noted = False
        self._held_since: dict[tuple[int, str, int], float] = {}
        now = clock.now()
        self.summary = Summary(now, now)

    def run(self) -> Summary:
        """Pass the time; on KeyboardInterrupt give back what is in hand and pass that on."""
        _free_the_dead()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                carrier = runner.run(_sandbox())
                try:
                    while self._may_go_on():
                        if not self._step(runner, carrier):
                            self.summary.is_complete = True
                            break
                finally:
                    runner.run(carrier.close())
        finally:
            claim.give_back(self._worker, self._in_hand, now=timezone.now())
            self._close()
        return self.summary

    def _may_go_on(self) -> bool:
        return time.monotonic() < self._ends

    def _close(self) -> None:
        self.summary.ended_at = clock.now()
        self.summary.waiting = waiting(self.summary.ended_at + FAR).count()
        self.summary.in_other_hands = _in_hands().count()

    def _step(self, runner: asyncio.Runner, carrier: Sandbox) -> bool:
        """Deliver what is due next; return whether there may be more."""
        now = clock.now()
        first, is_any_held, is_any_expired = _look()
        if is_any_expired or (first is not None and first <= now):
            self._deliver(runner, carrier, self._claim(now, now))
            return True
        if is_any_held and self._waits_for_others():
            return True
        if first is None or (self._until is not None and first > self._until):
            if self._until is not None:
                clock.move_to(self._until, actor=self._actor)
            return False
        self._deliver(runner, carrier, self._claim(first, now))
        return True

    def _waits_for_others(self) -> bool:
        """Leave those time who have sandbox entries in their hands: what comes of these may be due before the rest.

        Return whether to look again; False where they have had time enough.
        """
        now = time.monotonic()
        held = list(_in_hands().values_list("pk", "lease", "attempts"))
        if not held:  # they have just let go of it: what it waits for now is not known yet
            return True
        self._held_since = {key: self._held_since.get(key, now) for key in held}
        waited = [now - since for since in self._held_since.values()]
        if all(seconds > PATIENCE_SECONDS for seconds in waited):
            return False
        if not self._has_noted and max(waited) > NOTE_SECONDS:
            self._has_noted = True
            self._note(f"Waiting for what a worker has in its hands: {len(waited)} of the sandbox's entries.")
        time.sleep(0.05)
        return True

    def _claim(self, at: dt.datetime, now: dt.datetime) -> list[Parcel]:
        """Put the clock to the last of what is due within the window, and lease it, each with its own time."""
        end = at + WINDOW if at > now else now
        if self._until is not None:
            end = max(at, min(end, self._until))
        rows = waiting(end).order_by("next_attempt_at").values_list("pk", "next_attempt_at")[:BATCH]
        due = {pk: max(moment, now) for pk, moment in rows if moment is not None}
        due |= dict.fromkeys(_expired().values_list("pk", flat=True)[:BATCH], now)
        if not due:
            return []
        last = max(due.values())
        if last > now:
            clock.move_to(last, actor=self._actor)
        real = timezone.now()
        self._in_hand = list(due)
        parcels = claim.claim(
            self._worker,
            limit=len(due),
            now=real,
            lease=claim.SIMULATED_LEASE,
            entry_ids=self._in_hand,
            ahead=last - real,
            is_sandbox=True,
        )
        return [replace(parcel, ahead=due[parcel.entry_id] - real) for parcel in parcels]

    def _deliver(self, runner: asyncio.Runner, carrier: Sandbox, parcels: Sequence[Parcel]) -> None:
        found = delivery.prepare(parcels, READ_AHEAD_OCTETS)
        results = [*found.decided]
        results += runner.run(_carry(carrier, sandbox.groups(found.foreign)))
        for group in delivery.by_size(found.ours, lambda pair: pair[0].size_octets):
            results += _file(group)
        self._settle(results)
        self._in_hand = []

    def _settle(self, results: Sequence[Result]) -> None:
        new_ids = delivery.write_down(results, worker=self._worker)
        ended = dict(
            Entry.objects.filter(pk__in=[result.parcel.entry_id for result in results]).values_list("pk", "status")
        )
        reports = Entry.objects.filter(pk__in=new_ids, message__source=Message.Source.DSN).count() if new_ids else 0
        at = clock.now()
        for result in sorted(results, key=lambda result: result.parcel.ahead):
            at = result.ended_at + result.parcel.ahead
            self._told(at, _tally(result, ended.get(result.parcel.entry_id, "")))
        self._told(at, Tally(reports=reports))

    def _told(self, at: dt.datetime, tally: Tally) -> None:
        self.summary.tally.add(tally)
        self._tell(at, tally)


def _look() -> tuple[dt.datetime | None, bool, bool]:
    """Return what the first entry waits for, and whether any is in somebody's hands, or was in those of a dead worker.

    One statement: between two, an entry that was in hands could be set to wait for a time that is then passed over.
    """
    real = timezone.now()
    found = Entry.objects.filter(is_sandbox=True, next_attempt_at__isnull=False).aggregate(
        first=Min("next_attempt_at", filter=Q(lease="")),
        held=Count("pk", filter=~Q(lease="") & Q(next_attempt_at__gt=real)),
        expired=Count("pk", filter=~Q(lease="") & Q(next_attempt_at__lte=real)),
    )
    return found["first"], bool(found["held"]), bool(found["expired"])


def first_due(now: dt.datetime) -> dt.datetime | None:
    """Return the time that the first sandbox entry waits for; None where none waits."""
    found: dt.datetime | None = waiting(now + FAR).aggregate(first=Min("next_attempt_at"))["first"]
    return found


def waiting(until: dt.datetime) -> QuerySet[Entry]:
    """Return the sandbox entries that wait in nobody's hands for a time up to that one."""
    return Entry.objects.filter(is_sandbox=True, lease="", next_attempt_at__lte=until).order_by()


def _in_hands() -> QuerySet[Entry]:
    return Entry.objects.filter(~Q(lease=""), is_sandbox=True, next_attempt_at__gt=timezone.now()).order_by()


def _expired() -> QuerySet[Entry]:
    return Entry.objects.filter(~Q(lease=""), is_sandbox=True, next_attempt_at__lte=timezone.now()).order_by()


def _free_the_dead() -> None:
    """Take back what an advance on this machine had in hand when it was killed."""
    mine = f"{_NAME}:{socket.gethostname()[:14]}:"
    held = Entry.objects.filter(is_sandbox=True, next_attempt_at__isnull=False, lease__startswith=mine).order_by()
    for lease in held.values_list("lease", flat=True).distinct():
        pid = lease.removeprefix(mine).partition(":")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            claim.give_back(lease, list(held.filter(lease=lease).values_list("pk", flat=True)), now=timezone.now())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _tally(result: Result, status: str) -> Tally:
    tally = Tally(attempts=int(result.is_attempt))
    if status == Entry.Status.DELIVERED:
        is_captured = result.outcome.transport == SandboxTransport.name
        tally.captured, tally.delivered = int(is_captured), int(not is_captured)
    elif status == Entry.Status.BOUNCED:
        tally.bounced = 1
    elif result.is_attempt:
        tally.deferred = 1
    return tally


async def _sandbox() -> Sandbox:
    return Sandbox(_read, Signer(_in_thread), pause=_no_pause, impatience=IMPATIENCE_SECONDS)


async def _carry(carrier: Sandbox, groups: Sequence[list[Parcel]]) -> list[Result]:
    found = await asyncio.gather(*(_carry_one(carrier, group) for group in groups))
    return [result for results in found for result in results]


async def _carry_one(carrier: Sandbox, group: list[Parcel]) -> list[Result]:
    started_at = timezone.now()
    try:
        return await carrier.deliver(group)
    except Exception as error:
        logger.exception("queue.simulation_failed", message_id=group[0].message_id)
        return [delivery.trouble(parcel, started_at, "smtp", error) for parcel in group]


def _file(group: Sequence[tuple[Parcel, Resolution]]) -> list[Result]:
    started_at = timezone.now()
    try:
        return delivery.deliver_ours(group)
    except Exception as error:
        logger.exception("queue.local_delivery_failed")
        return [delivery.trouble(parcel, started_at, "local", error) for parcel, _ in group]


async def _no_pause(_seconds: float) -> None:
    """What would take a while is over at once: time passes by steps here."""


async def _read(message_id: str) -> bytes | None:
    return (await _in_thread(partial(content.read_many, [message_id]))).get(message_id)


async def _in_thread(function: Callable[[], T]) -> T:
    return await asyncio.to_thread(_run_and_close, function)


def _run_and_close(function: Callable[[], T]) -> T:
    try:
        return function()
    finally:
        connection.close()
