"""A worker's deliveries into the simulated internet: beside the lanes, so that they take nothing from live mail."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from queue import delivery
from queue.beside import Beside
from queue.claim import Parcel
from queue.held import Held
from queue.results import Result
from queue.signer import Signer
from queue.simulation import sandbox
from queue.simulation.sandbox import Sandbox

logger = structlog.get_logger(__name__)

MAX_SIMULATED = 1000  # entries of the sandbox under way at once
WAIT = dt.timedelta(seconds=5)


class SimulatedDeliveries:
    """Belongs to the engine's loop. `spawn` runs a delivery, `ended` hears of results, `sweep` has more claimed."""

    def __init__(
        self,
        held: Held,
        beside: Beside,
        *,
        read: Callable[[str], Awaitable[bytes | None]],
        signer: Signer,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        ended: Callable[[Sequence[Result]], None],
        sweep: Callable[[], None],
    ) -> None:
        self._held, self._beside = held, beside
        self._spawn, self._ended, self._sweep = spawn, ended, sweep
        self._sandbox = Sandbox(read, signer)
        self._count = 0

    @staticmethod
    def takes(parcel: Parcel) -> bool:
        """Whether it must not leave this machine: it was the sandbox's when it came, or everything is now."""
        return parcel.is_sandbox or settings.DELIVERY_MODE == "sandbox"

    @property
    def has_room(self) -> bool:
        return self._count < MAX_SIMULATED

    def begin(self, parcels: Sequence[Parcel]) -> None:
        """Deliver. What is too much for a simulated host goes back for a moment."""
        for group in sandbox.groups(parcels):
            if self._sandbox.admit(group):
                self._count += len(group)
                self._held.load(group)
                self._spawn(self._deliver(group))
            else:
                self._spawn(self._held.put_back(group, wait=WAIT + group[0].ahead))
                asyncio.get_running_loop().call_later(WAIT.total_seconds(), self._sweep)

    async def close(self) -> None:
        await self._sandbox.close()

    async def _deliver(self, parcels: list[Parcel]) -> None:
        started_at = timezone.now()
        number = self._beside.add(parcels, asyncio.current_task())
        try:
            self._ended(await self._sandbox.deliver(parcels, begin=partial(self._beside.begin, number)))
        except Exception as error:
            logger.exception("queue.simulation_failed", message_id=parcels[0].message_id)
            self._ended([delivery.trouble(parcel, started_at, "smtp", error) for parcel in parcels])
        finally:
            self._beside.end(number)
            self._sandbox.left(parcels)
            was_full = not self.has_room
            self._count -= len(parcels)
            self._held.unload(parcels)
            if was_full and self.has_room:
                self._sweep()
