"""What an engine delivers beside the lanes: into our own mailboxes, and to the simulated internet; pure bookkeeping."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from queue.claim import Parcel


@dataclass(slots=True)
class Delivery:
    """Parcels that go together; `since` is None while they wait for their turn. `task` may be cancelled until then."""

    parcels: Sequence[Parcel]
    task: asyncio.Task[None] | None
    since: dt.datetime | None


class Beside:
    """Belongs to the engine's loop. Deliveries are known by the numbers that `add` answers."""

    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now = now
        self._all: dict[int, Delivery] = {}
        self._number = 0

    def add(self, parcels: Sequence[Parcel], task: asyncio.Task[None] | None = None) -> int:
        """Count parcels in: as under way, or with their task as waiting for their turn."""
        self._number += 1
        self._all[self._number] = Delivery(parcels, task, None if task else self._now())
        return self._number

    def begin(self, number: int) -> None:
        self._all[number].since = self._now()

    def end(self, number: int) -> None:
        self._all.pop(number, None)

    @property
    def running(self) -> list[Delivery]:
        return [one for one in self._all.values() if one.since is not None]

    @property
    def waiting(self) -> int:
        """Return how many parcels wait for their turn."""
        return sum(len(one.parcels) for one in self._all.values() if one.since is None)

    def take_out(self, is_meant: Callable[[Parcel], bool]) -> list[Parcel]:
        """Take out what waits, where any of those that go together is meant."""
        taken: list[Parcel] = []
        for number, one in list(self._all.items()):
            if one.since is None and one.task is not None and any(is_meant(parcel) for parcel in one.parcels):
                one.task.cancel()
                del self._all[number]
                taken += one.parcels
        return taken
