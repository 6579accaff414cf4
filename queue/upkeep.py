"""What a worker does from time to time, whatever it delivers: renews leases, looks for what has come due, patrols.

Each task goes on whatever the database says.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from queue import claim, delivery, dialup, double_bounces, finding, recall
from queue.beside import Beside
from queue.claimer import Claimer
from queue.held import Held
from queue.lanes import Lanes
from queue.patrol import Patrol
from queue.results import Result, without_attempt
from queue.threads import InDatabase

logger = structlog.get_logger(__name__)

RENEW_BATCH = 500
PUNCTUAL_SECONDS = 1.0


class Upkeep:
    """Belongs to the engine's loop; `ended` hears of results."""

    def __init__(
        self,
        worker: str,
        held: Held,
        lanes: Lanes,
        beside: Beside,
        claimer: Claimer,
        *,
        lease: dt.timedelta,
        in_database: InDatabase,
        ended: Callable[[Sequence[Result]], None],
    ) -> None:
        self._worker, self._lease = worker, lease
        self._held, self._lanes, self._beside, self._claimer = held, lanes, beside, claimer
        self._in_database, self._ended = in_database, ended
        self._patrol = Patrol(worker, lease)
        self._mend_wanted = asyncio.Event()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to run until it is cancelled."""
        return [self._renew_forever(), self._sweep_forever(), self._keep_time(), self._mend_forever()]

    def mend(self) -> None:
        """Go through the whole queue for times that cannot be."""
        self._mend_wanted.set()

    async def _renew_forever(self) -> None:
        """Keep the leases of what is in flight; a worker that dies stops doing so, and others take over.

        What a person has put on hold, and waits here for its turn, goes back.
        """
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            ids = list(self._held.parcels)
            on_hold: set[int] = set()
            for start in range(0, len(ids), RENEW_BATCH):
                part = ids[start : start + RENEW_BATCH]
                until = timezone.now() + self._lease
                try:
                    on_hold.update(await self._in_database(claim.renew, self._worker, part, until=until))
                except Exception as error:  # noqa: BLE001
                    logger.error("queue.renew_failed", cause=f"{type(error).__name__}: {error}")
            if on_hold:
                await self._put_back(on_hold)

    async def give_back_changed(self) -> None:
        """Give back what people have changed and what waits here for its turn: held, or to go another way."""
        routes = {entry_id: parcel.route for entry_id, parcel in self._held.parcels.items()}
        ids, changed = list(routes), set[int]()
        for start in range(0, len(ids), RENEW_BATCH):
            part = {entry_id: routes[entry_id] for entry_id in ids[start : start + RENEW_BATCH]}
            changed.update(await self._in_database(recall.changed, self._worker, part))
        if changed:
            await self._put_back(changed)

    async def _put_back(self, changed: Collection[int]) -> None:
        await self._held.give_back(self._lanes.take_out(lambda parcel: parcel.entry_id in changed))
        await self._held.put_back(self._beside.take_out(lambda parcel: parcel.entry_id in changed))
        self._claimer.sweep()  # for those that go another way

    async def _sweep_forever(self) -> None:
        """Look at the database from time to time: rings get lost, leases run out, retries and deadlines come."""
        while True:
            await asyncio.sleep(settings.SWEEP_INTERVAL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            self._end_overdue()
            await self._patrol_step()
            try:
                await self._in_database(dialup.release_moved, timezone.now())
            except Exception as error:  # noqa: BLE001
                logger.error("queue.release_failed", cause=f"{type(error).__name__}: {error}")
            self._claimer.sweep()
            await self._tell_the_postmaster()

    async def _keep_time(self) -> None:
        """Look for what has come due within the last moment: a time that somebody chose is not to wait for a sweep."""
        since = timezone.now()
        while True:
            await asyncio.sleep(PUNCTUAL_SECONDS)
            now = timezone.now()
            try:
                if await self._in_database(finding.has_come_due, since, now):
                    self._claimer.sweep()
                since = now
            except Exception as error:  # noqa: BLE001  (the next look begins where this one did)
                logger.error("queue.look_failed", cause=f"{type(error).__name__}: {error}")

    async def _tell_the_postmaster(self) -> None:
        try:
            self._claimer.ring(await self._in_database(double_bounces.report_due))
        except Exception as error:  # noqa: BLE001  (what was noted stays noted)
            logger.error("queue.postmaster_not_told", cause=f"{type(error).__name__}: {error}")

    def _end_overdue(self) -> None:
        """End what waits in a lane behind its deadline: a slow domain is no reason to keep its sender waiting."""
        now = timezone.now()
        overdue = self._lanes.take_out(lambda parcel: delivery.is_only_woken(parcel, now))
        self._held.unload(overdue)
        self._ended([without_attempt(parcel, now) for parcel in overdue])

    async def _mend_forever(self) -> None:
        """Patrol the whole queue at the start, and whenever the clock went back."""
        self._mend_wanted.set()
        while True:
            await self._mend_wanted.wait()
            self._mend_wanted.clear()
            has_ended = False
            while not has_ended:
                has_ended = await self._patrol_step(only_mends=True)
            self._claimer.sweep()

    async def _patrol_step(self, *, only_mends: bool = False) -> bool:
        """Look at some of the queue; return whether a round has ended, or nothing can be seen now."""
        now = timezone.now()
        try:
            results, has_ended = await self._in_database(self._patrol.step, now, only_mends=only_mends)
        except Exception as error:  # noqa: BLE001  (the next sweep looks again)
            logger.error("queue.patrol_failed", cause=f"{type(error).__name__}: {error}")
            return True
        self._ended([result for result in results if self._held.take(result.parcel)])
        return has_ended
