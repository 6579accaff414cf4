"""Every two seconds: the worker's row is written, and its pacer settles with the ledger; on the engine's event loop.

It also compares the two clocks. After a jump back what was leased, or put off, by the later time is mended; after a
jump ahead nothing is claimed until the other workers have had time to renew what looks expired.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any

import structlog
from django.utils import timezone

from queue.beside import Beside
from queue.claim import Parcel
from queue.pacing import clock, heartbeat, ledger, process_mark
from queue.pacing.clock import Reading
from queue.pacing.heartbeat import MAX_DELIVERIES, Report
from queue.pacing.pacer import Pacer
from queue.threads import InDatabase

logger = structlog.get_logger(__name__)

BEAT_SECONDS = 2.0
FORGET_EVERY = 30  # beats


class Beats:
    """`facts` answers `(in_flight, rung)`; `give_back` and the callbacks belong to the engine."""

    def __init__(
        self,
        worker: str,
        pacer: Pacer,
        *,
        lease: dt.timedelta,
        in_database: InDatabase,
        beside: Beside,
        facts: Callable[[], tuple[int, int]],
        give_back: Callable[[Sequence[Parcel]], Awaitable[None]],
        give_back_changed: Callable[[], Awaitable[None]],
        after: Callable[[bool], None],
        jumped: Callable[[dt.timedelta], None],
    ) -> None:
        self._worker, self._pacer, self._lease = worker, pacer, lease
        self._in_database, self._facts, self._give_back = in_database, facts, give_back
        self._after, self._jumped, self._give_back_changed = after, jumped, give_back_changed
        self._beside = beside
        self._recalls_answered = 0
        self._started_at = timezone.now()
        self._mark = process_mark.own()
        self._wanted = asyncio.Event()
        self._count = 0
        self._reading = self._read()

    def soon(self) -> None:
        """Beat at once: something waits for the ledger's word."""
        self._wanted.set()

    async def begin(self) -> None:
        """Make the worker known before it claims anything: nobody asks one without a row for what it has."""
        await self._tried()

    async def forever(self) -> None:
        interval = min(BEAT_SECONDS, self._lease.total_seconds() / 4)
        while True:
            self._wanted.clear()
            if not await self._tried():
                await asyncio.sleep(interval / 4)
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._wanted.wait()

    async def leave(self) -> None:
        """Free all that is held, at a clean end."""
        await self._in_database(
            ledger.leave,
            self._worker,
            self._pacer.farewell(),
            now=timezone.now(),
            default_cap=self._pacer.default_cap,
            lease=self._lease,
        )

    async def _tried(self) -> bool:
        try:
            await self._beat()
        except Exception as error:  # noqa: BLE001  (whatever the database says: the next beat comes)
            logger.error("queue.beat_failed", cause=f"{type(error).__name__}: {error}")
            return False
        return True

    async def _beat(self) -> None:
        self._look_at_clocks()
        await self._answer_recalls()
        pacer = self._pacer
        pacer.note_slow()
        report, wants = self._report(), pacer.wants()
        asked_at = asyncio.get_running_loop().time()
        self._count += 1
        try:
            others, grants = await self._in_database(
                ledger.beat,
                report,
                wants,
                now=timezone.now(),
                default_cap=pacer.default_cap,
                lease=self._lease,
                forgets=self._count % FORGET_EVERY == 1,
            )
        except BaseException:
            pacer.failed(wants)
            raise
        pacer.holds_until = asked_at + self._lease.total_seconds()
        pacer.others = others
        homeless = pacer.granted(grants, wants)
        if homeless:
            await self._give_back(homeless)
        if pacer.unknown(domain for domain, _ in pacer.lanes):
            self.soon()
        self._after(bool(pacer.drop()))

    async def _answer_recalls(self) -> None:
        """Obey before the row says so: whoever asked takes what is left here for being delivered."""
        asked = await self._in_database(heartbeat.recalls_of, self._worker)
        if asked > self._recalls_answered:
            await self._give_back_changed()
            self._recalls_answered = asked

    def _look_at_clocks(self) -> None:
        before, self._reading = self._reading, self._read()
        jump = clock.jump(before, self._reading)
        if jump:
            logger.warning("queue.clock_jumped", seconds=jump.total_seconds())
            self._jumped(jump)

    def _read(self) -> Reading:
        return Reading(timezone.now(), asyncio.get_running_loop().time())

    def _report(self) -> Report:
        in_flight, rung = self._facts()
        begun = [one for run in self._pacer.begun.values() for one in _told(run.parcels, run.since)]
        begun += [one for run in self._beside.running if run.since is not None for one in _told(run.parcels, run.since)]
        return Report(
            name=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            mark=self._mark,
            in_flight=in_flight,
            running=len(begun),
            waiting=self._pacer.lanes.waiting + self._beside.waiting,
            rung=rung,
            recalls_answered=self._recalls_answered,
            deliveries=sorted(begun, key=itemgetter("since"))[:MAX_DELIVERIES],
        )


def _told(parcels: Sequence[Parcel], since: dt.datetime) -> list[dict[str, Any]]:
    """Tell what goes together, by message and domain: mailboxes are filed into in groups."""
    counts = Counter((parcel.domain, parcel.message_id) for parcel in parcels)
    at = since.isoformat(timespec="seconds")
    return [
        {"destination": domain, "message_id": message_id, "recipients": count, "since": at}
        for (domain, message_id), count in counts.items()
    ]
