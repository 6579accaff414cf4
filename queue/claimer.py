"""What a worker claims next, and when: what was rung for, full lanes that have room again, and what is due, by turns.

Were one source always first, the others might wait for ever.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from django.db import connection
from django.utils import timezone

from queue import delivery
from queue.claim import Parcel
from queue.finding import KINDS, Finder, Found
from queue.held import Held
from queue.pacing import ledger
from queue.pacing.ledger import Grant, Want
from queue.pacing.pacer import Pacer
from queue.simulated import SimulatedDeliveries
from queue.simulation.clock import Watch
from queue.threads import InDatabase

logger = structlog.get_logger(__name__)

MAX_IN_FLIGHT = 5000  # entries under lease; more wait in the database
MAX_RUNG = 10 * MAX_IN_FLIGHT
CLAIM_BATCH = 100
WAITING_A_DELIVERY = 4  # entries that wait for each delivery that may run, where other workers are alive
MAX_HUNGRY = 10  # lanes that are filled by one claim
MAX_LOADED_OCTETS = 128 << 20
READ_AHEAD_OCTETS = 8 << 20  # a claim
PAUSE_AFTER_TROUBLE_SECONDS = 1.0

Find = Callable[[], Found]  # carried out in the database thread


class Claimer:
    """Belongs to the engine's loop; `dispatch` begins what was claimed."""

    def __init__(
        self,
        worker: str,
        pacer: Pacer,
        held: Held,
        *,
        simulated: SimulatedDeliveries | None,
        lease: dt.timedelta,
        in_database: InDatabase,
        dispatch: Callable[[delivery.Sorted, Mapping[str, Grant]], None],
    ) -> None:
        self._worker, self._pacer, self._held, self._lease = worker, pacer, held, lease
        self._simulated, self._in_database, self._dispatch = simulated, in_database, dispatch
        self._finder = Finder(worker, Watch())
        self._rung: OrderedDict[int, None] = OrderedDict()
        self._due_wanted = dict.fromkeys(KINDS, True)
        self._turn = 0
        self._claims_from = 0.0  # by the loop's clock
        self._is_stopping = False
        self._wake = asyncio.Event()

    @property
    def rung(self) -> int:
        """Return for how many entries it was rung and has not looked yet."""
        return len(self._rung)

    def ring(self, entry_ids: Iterable[int]) -> None:
        """Claim these soon, as far as they are due and free."""
        for entry_id in entry_ids:
            if entry_id not in self._held.parcels:
                self._rung[entry_id] = None
        while len(self._rung) > MAX_RUNG:  # the database remembers them
            self._rung.popitem(last=False)
            self._due_wanted = dict.fromkeys(KINDS, True)
        self.wake()

    def sweep(self) -> None:
        """Look for due entries that nobody rang for."""
        self._due_wanted = dict.fromkeys(KINDS, True)
        self.wake()

    def wake(self) -> None:
        """Look again whether there is room."""
        self._wake.set()

    def wait(self, seconds: float) -> None:
        """Claim nothing for so long."""
        self._claims_from = asyncio.get_running_loop().time() + seconds

    def stop(self) -> None:
        self._is_stopping = True
        self.wake()

    async def forever(self) -> None:
        """Claim while there is room, until it is stopped."""
        while not self._is_stopping:
            source, kind = self._next_source()
            if source is None or not self._has_room():
                self._wake.clear()
                await self._wake.wait()
                continue
            if (wait := self._claims_from - asyncio.get_running_loop().time()) > 0:
                await self._pause(wait)
                continue
            try:
                found, grants = await self._in_database(self._claim, source(), self._read_ahead_octets())
            except Exception as error:  # noqa: BLE001  (whatever the database says: the loop goes on)
                logger.error("queue.claim_failed", cause=f"{type(error).__name__}: {error}")
                self.sweep()
                await self._pause(PAUSE_AFTER_TROUBLE_SECONDS)
                continue
            if not found.is_all and kind is not None:
                self._due_wanted[kind] = True
            self._dispatch(found, grants)
            if source == self._from_hungry:
                for domain in {parcel.domain for parcel in found.foreign}:
                    self._pacer.lanes.expect_more(domain)

    async def _pause(self, seconds: float) -> None:
        """Wait out a trouble, but not a shutdown."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_stopping:
                    await self._wake.wait()
                    self._wake.clear()

    def _has_room(self) -> bool:
        """Whether more may be claimed: beside other workers no more than it can soon begin, lest they stand idle."""
        if MAX_IN_FLIGHT - len(self._held) < CLAIM_BATCH:
            return False
        pacer = self._pacer
        return not pacer.others or pacer.lanes.waiting < max(CLAIM_BATCH, WAITING_A_DELIVERY * pacer.lanes.max_running)

    def _next_source(self) -> tuple[Callable[[], Find] | None, str | None]:
        """Return where to claim from next, and of which kind what is due there would be."""
        sources: list[tuple[bool, Callable[[], Find], str | None]] = [
            (bool(self._rung), self._from_rung, None),
            (self._pacer.lanes.is_hungry, self._from_hungry, None),
            *((self._due_wanted[kind], partial(self._from_due, kind), kind) for kind in KINDS),
        ]
        for offset in range(len(sources)):
            number = (self._turn + offset) % len(sources)
            is_wanted, source, kind = sources[number]
            if is_wanted:
                self._turn = number + 1
                return source, kind
        return None, None

    def _from_rung(self) -> Find:
        ids = [self._rung.popitem(last=False)[0] for _ in range(min(CLAIM_BATCH, len(self._rung)))]
        return partial(self._finder.claim_rung, ids, **self._terms())

    def _from_hungry(self) -> Find:
        return partial(self._finder.claim_of, self._pacer.lanes.hungry(MAX_HUNGRY), **self._terms())

    def _from_due(self, kind: str) -> Find:
        self._due_wanted[kind] = False  # unless there is more than is found now
        return partial(self._finder.claim_due, kind, workers=1 + self._pacer.others, **self._terms())

    def _terms(self) -> dict[str, Any]:
        room = None if self._simulated is None else self._simulated.has_room
        return {"limit": CLAIM_BATCH, "lease": self._lease, "closed": replace(self._pacer.closed(), sandbox=room)}

    def _read_ahead_octets(self) -> int:
        return min(READ_AHEAD_OCTETS, MAX_LOADED_OCTETS - self._held.loaded_octets)

    def _claim(self, find: Find, octets: int) -> tuple[delivery.Sorted, dict[str, Grant]]:
        """Claim, and get slots of the destinations that are new to this worker; in the database thread."""
        found = delivery.claim_due(self._worker, find, read_ahead_octets=octets)
        counts = Counter(parcel.domain for parcel in found.foreign if not self._is_simulated(parcel))
        wants = {domain: Want(counts[domain]) for domain in self._pacer.unknown(counts)}
        if not wants:
            return found, {}
        cap = self._pacer.default_cap
        try:
            return found, ledger.share_out(self._worker, wants, now=timezone.now(), default_cap=cap, lease=self._lease)
        except Exception as error:  # noqa: BLE001  (the next beat asks again; what is claimed waits in its lane)
            logger.error("queue.share_failed", cause=f"{type(error).__name__}: {error}")
            connection.close()
            return found, {}

    def _is_simulated(self, parcel: Parcel) -> bool:
        return self._simulated is not None and self._simulated.takes(parcel)
