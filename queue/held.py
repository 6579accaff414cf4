"""What one worker has under lease: its parcels, and the octets of content that were loaded with their claims."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import structlog
from django.utils import timezone

from queue import claim
from queue.claim import Parcel
from queue.pacing import warmup
from queue.simulation.clock import REAL_TIME
from queue.threads import InDatabase

logger = structlog.get_logger(__name__)

RETURN_BATCH = 500


class Held:
    """Belongs to the engine's loop."""

    def __init__(self, worker: str, in_database: InDatabase) -> None:
        self._worker = worker
        self._in_database = in_database
        self.parcels: dict[int, Parcel] = {}
        self.loaded_octets = 0

    def __len__(self) -> int:
        return len(self.parcels)

    def take(self, parcel: Parcel) -> bool:
        """Count a parcel in; False where its entry is under way here already."""
        return self.parcels.setdefault(parcel.entry_id, parcel) is parcel

    def let_go(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            self.parcels.pop(parcel.entry_id, None)

    def load(self, parcels: Iterable[Parcel]) -> None:
        self.loaded_octets += _octets(parcels)

    def unload(self, parcels: Iterable[Parcel]) -> None:
        self.loaded_octets -= _octets(parcels)

    async def give_back(self, parcels: Sequence[Parcel]) -> None:
        """Return what waited in a lane, or ran at the end: its content counts no more."""
        self.unload(parcels)
        await self.put_back(parcels)

    async def put_back(self, parcels: Sequence[Parcel], wait: dt.timedelta = REAL_TIME) -> None:
        """Return entries to the queue, for anybody to claim, at once or after a while."""
        self.let_go(parcels)
        for start in range(0, len(parcels), RETURN_BATCH):
            batch = parcels[start : start + RETURN_BATCH]
            ids = [parcel.entry_id for parcel in batch]
            try:
                await self._in_database(claim.give_back, self._worker, ids, now=timezone.now() + wait)
                await self._in_database(warmup.give_back, batch, now=timezone.now())
            except Exception as error:  # noqa: BLE001  (their leases run out)
                logger.error("queue.give_back_failed", cause=f"{type(error).__name__}: {error}")


def _octets(parcels: Iterable[Parcel]) -> int:
    return sum(len(parcel.content or b"") for parcel in parcels)
