"""Commits what has ended, batch after batch, on an event loop: whatever ended while the last commit ran is the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from django.db import InterfaceError, OperationalError, ProgrammingError

from queue import delivery
from queue.results import Result, batch_length
from queue.threads import InDatabase

logger = structlog.get_logger(__name__)

BATCH = 200
PAUSE_AFTER_TROUBLE_SECONDS = 1.0


class Settler:
    """One worker's. `settled` hears of each batch that is written down, and of the entries that came of it."""

    def __init__(
        self,
        worker: str,
        *,
        in_database: InDatabase,
        settled: Callable[[Sequence[Result], Sequence[int]], None],
    ) -> None:
        self._worker = worker
        self._in_database = in_database
        self._settled = settled
        self._wanted = asyncio.Event()
        self.waiting: list[Result] = []

    def add(self, results: Sequence[Result]) -> None:
        if results:
            self.waiting.extend(results)
            self._wanted.set()

    async def forever(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self.waiting:
                count = batch_length(self.waiting[:BATCH])
                batch, self.waiting = self.waiting[:count], self.waiting[count:]
                self._settled(batch, await self._settle(batch))

    async def _settle(self, batch: list[Result]) -> list[int]:
        """Commit one batch. A database in trouble is waited for; a result that cannot be written is tried alone."""
        while True:
            try:
                new_ids: list[int] = await self._in_database(delivery.write_down, batch, worker=self._worker)
            except (OperationalError, InterfaceError, ProgrammingError) as error:
                logger.error("queue.settle_failed", cause=f"{type(error).__name__}: {error}", results=len(batch))
                await asyncio.sleep(PAUSE_AFTER_TROUBLE_SECONDS)
            except Exception as error:
                logger.exception("queue.settle_broke", results=len(batch))
                return await self._settle_alone(batch, error)
            else:
                return new_ids

    async def _settle_alone(self, batch: list[Result], error: Exception) -> list[int]:
        """Commit results one by one; the one that is at fault is deferred, or left to the end of its lease."""
        new_ids: list[int] = []
        for result in batch:
            attempts = [result, delivery.trouble(result.parcel, result.started_at, result.outcome.transport, error)]
            for candidate in attempts:
                with suppress(Exception):
                    new_ids += await self._in_database(delivery.write_down, [candidate], worker=self._worker)
                    break
        return new_ids
