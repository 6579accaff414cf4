"""The courier: sends webhooks from a worker process, beside the engine, in a thread with a loop of its own.

It looks for what is due once a second, by itself: the outbox is rows, and nothing but the database needs to be there.
An endpoint has at most `A_ENDPOINT` requests under way here, so that a slow one holds up nobody but itself. What a
worker that died had taken comes back when its lease ends, and is sent again under the same id.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import UUID

import structlog
import uvloop
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from accounts.dns.base import Resolver
from accounts.dns.dnspython import DnsPythonResolver
from accounts.webhooks import deliveries, endpoints
from accounts.webhooks.deliveries import Attempt, Parcel
from accounts.webhooks.sender import Sender
from mailflow import counters, handoff
from queue import webhook_disabled
from queue.threads import OneAProcess, guarded

logger = structlog.get_logger(__name__)
T = TypeVar("T")

A_ENDPOINT = 5
POLL_SECONDS = 1.0
LEASE = dt.timedelta(seconds=60)  # beyond WEBHOOK_TIMEOUT at its longest, so that none is sent twice at once
SETTLE_BATCH = 100
STOP_SECONDS = 2.0
PAUSE_AFTER_TROUBLE_SECONDS = 1.0
PAUSE_AFTER_BREAK_SECONDS = 10.0


class Courier:
    """Made by `start()`; tests give a resolver and authorities of their own."""

    def __init__(
        self,
        *,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        poll_seconds: float = POLL_SECONDS,
        lease: dt.timedelta = LEASE,
    ) -> None:
        self.worker = f"{socket.gethostname()[:20]}:{os.getpid()}:{secrets.token_hex(3)}"
        self._resolver = resolver
        self._tls = tls
        self._poll_seconds = poll_seconds
        self._lease = lease
        self._running: Counter[UUID] = Counter()
        self._jobs: set[asyncio.Task[None]] = set()
        self._ended: list[Attempt] = []
        self._stopping = False
        self._database = ThreadPoolExecutor(1, thread_name_prefix="courier-db")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stop_wanted = threading.Event()

    # --- called from other threads ------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
            self._thread.start()
            self._ready.wait()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Take nothing new, give what runs so many seconds, give the rest back."""
        self._stop_wanted.set()
        if self._thread is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(seconds + 2)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Run the loop; if it breaks, begin anew: for the sake of webhooks no mail shall wait."""
        while True:
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(self._main())
                return
            except Exception:
                logger.exception("webhooks.courier_broke", worker=self.worker)
                self._running.clear()
                self._ready.set()
            if self._stop_wanted.wait(PAUSE_AFTER_BREAK_SECONDS):
                return

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._settle_wanted = asyncio.Event()
        resolver = self._resolver or DnsPythonResolver(settings.DNS_SERVERS)
        allowed = tuple(settings.WEBHOOK_ALLOWED_NETWORKS)
        self._sender = Sender(resolver, allowed, seconds=settings.WEBHOOK_TIMEOUT, tls=self._tls)
        self._ready.set()
        settler = asyncio.create_task(self._settle_forever())
        try:
            await self._follow_environment()
            await self._claim_forever()
            await self._finish()
        finally:
            settler.cancel()
            await self._sender.close()
            await self._in_database(_close)

    def _stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def _follow_environment(self) -> None:
        while not self._stopping:
            try:
                await self._in_database(endpoints.follow_environment)
                return
            except Exception as error:  # noqa: BLE001  (whatever the database says: it is tried again)
                logger.error("webhooks.environment_not_followed", cause=f"{type(error).__name__}: {error}")
                await self._pause(PAUSE_AFTER_TROUBLE_SECONDS)

    async def _claim_forever(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                parcels = await self._in_database(self._claim, dict(self._running))
            except Exception as error:  # noqa: BLE001  (whatever the database says: the loop goes on)
                logger.error("webhooks.claim_failed", cause=f"{type(error).__name__}: {error}")
                await self._pause(PAUSE_AFTER_TROUBLE_SECONDS)
                continue
            for parcel in parcels:
                self._running[parcel.endpoint_id] += 1
                task = asyncio.create_task(self._send(parcel))
                self._jobs.add(task)
                task.add_done_callback(self._jobs.discard)
            await self._pause(self._poll_seconds)

    def _claim(self, running: dict[UUID, int]) -> list[Parcel]:
        return deliveries.claim(
            self.worker, now=timezone.now(), lease=self._lease, a_endpoint=A_ENDPOINT, running=running
        )

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond an end that makes room, nor a shutdown."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _send(self, parcel: Parcel) -> None:
        try:
            attempt = await self._sender.send(parcel)
        except Exception:
            # Its lease brings it back; what has no words for its end must not end the others.
            logger.exception("webhooks.send_broke", delivery=parcel.delivery_id)
            self._free([parcel])
            return
        self._ended.append(attempt)
        self._settle_wanted.set()

    def _free(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._running[parcel.endpoint_id] -= 1
            if self._running[parcel.endpoint_id] <= 0:
                del self._running[parcel.endpoint_id]
        self._wake.set()

    # --- ends ---------------------------------------------------------------------------------------------------------

    async def _settle_forever(self) -> None:
        """Commit whatever ended while the last commit ran; a place is free again when its end is written down."""
        while True:
            await self._settle_wanted.wait()
            self._settle_wanted.clear()
            while self._ended:
                batch, self._ended = self._ended[:SETTLE_BATCH], self._ended[SETTLE_BATCH:]
                await self._settle(batch)
                self._free([attempt.parcel for attempt in batch])

    async def _settle(self, batch: Sequence[Attempt]) -> None:
        """Write it down; what the database does not take now comes back with its lease, and is sent again."""
        try:
            entry_ids = await self._in_database(_write_down, batch, self.worker)
        except Exception as error:  # noqa: BLE001  (the loop goes on)
            logger.error("webhooks.settle_failed", cause=f"{type(error).__name__}: {error}", attempts=len(batch))
            return
        if entry_ids:
            handoff.current().ring(entry_ids)
        for attempt in batch:
            logger.info(
                "webhooks.attempt",
                delivery=attempt.parcel.delivery_id,
                endpoint=str(attempt.parcel.endpoint_id),
                event_name=attempt.parcel.event,
                status=attempt.status,
                error=attempt.error,
            )

    async def _finish(self) -> None:
        """Wait a moment for what runs, write it down, give the rest back."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=STOP_SECONDS)
        left, self._ended = self._ended, []
        if left:
            await self._settle(left)
        for task in set(self._jobs):
            task.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._in_database(deliveries.give_back_all, self.worker, timezone.now())

    async def _in_database(self, function: Callable[..., T], *arguments: Any) -> T:
        assert self._loop is not None
        return await self._loop.run_in_executor(self._database, guarded, function, *arguments)


def _write_down(batch: Sequence[Attempt], worker: str) -> list[int]:
    """Write the ends, and the notices of endpoints that were switched off; return the notices' queue entries."""
    now = timezone.now()
    with transaction.atomic():
        disabled = deliveries.settle(batch, worker=worker, now=now)
        entry_ids = [entry_id for endpoint in disabled for entry_id in webhook_disabled.tell(endpoint)]
    failed = sum(bool(attempt.error) for attempt in batch)
    counters.add("webhooks.attempts.failed", failed)
    counters.add("webhooks.attempts.delivered", len(batch) - failed)
    counters.add("webhooks.disabled", len(disabled))
    counters.flush()  # a worker counts nothing else, and has no thread for it
    return entry_ids


def _close() -> None:
    connection.close()


_couriers = OneAProcess(Courier)


def start() -> None:
    """Start this process's courier."""
    _couriers.current().start()


def stop() -> None:
    """Stop this process's courier, where there is one."""
    if (courier := _couriers.existing()) is not None:
        courier.stop()
