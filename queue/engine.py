"""The delivery engine of one worker process: an event loop in a thread of its own that keeps many deliveries going.

Celery only rings it with ids. It claims, delivers, renews its leases, settles in batches, looks for due entries by
itself (so that mail flows while Redis is away), and drains at shutdown. A peer that takes five minutes holds one of its
slots and nothing else. Started after a fork, never before.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import secrets
import signal
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import structlog
import uvloop
from django.conf import settings
from django.db import InterfaceError, OperationalError, ProgrammingError, close_old_connections, connection
from django.utils import timezone

from accounts.addresses import Resolution
from accounts.dns.base import Resolver
from accounts.dns.dnspython import DnsPythonResolver
from mailflow import content, runtime
from mailflow.models import RestartRequest
from mailflow.runtime import RuntimeConfig, SmtpConfig
from queue import claim, delivery, routing, settle
from queue.claim import Parcel
from queue.lanes import Lanes
from queue.settle import Result
from queue.transports import options
from queue.transports.base import Route, Transport
from queue.transports.sandbox import SandboxTransport
from queue.transports.smtp import SmtpTransport

logger = structlog.get_logger(__name__)
T = TypeVar("T")

MAX_IN_FLIGHT = 5000  # entries under lease; more wait in the database
CLAIM_BATCH = 100
SETTLE_BATCH = 200
MAX_LOADED_OCTETS = 128 << 20
READ_AHEAD_OCTETS = 8 << 20  # a claim
DRAIN_SECONDS = 4.0
PAUSE_AFTER_TROUBLE_SECONDS = 1.0


class Engine:
    """Made by `current()`; `ring`, `sweep` and `drain` may be called from any thread.

    Tests give a transport and a resolver of their own; without them the settings say how foreign mail goes.
    """

    def __init__(self, *, transport: Transport | None = None, resolver: Resolver | None = None) -> None:
        self.worker = f"{socket.gethostname()[:20]}:{os.getpid()}:{secrets.token_hex(3)}"
        self._transport = transport
        self._resolver = resolver
        self._lease = dt.timedelta(seconds=settings.QUEUE_LEASE_SECONDS)
        self._rung: OrderedDict[int, None] = OrderedDict()
        self._in_flight: dict[int, Parcel] = {}
        self._limits = runtime.current()
        self._lanes = Lanes(self._limits.pool_size)
        self._watcher = runtime.Watcher(RestartRequest.Service.WORKER)
        self._running = 0
        self._results: list[Result] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._sweep_wanted = True
        self._stopping = False
        self._loaded_octets = 0
        self._database = ThreadPoolExecutor(1, thread_name_prefix="engine-db")
        self._files = ThreadPoolExecutor(2, thread_name_prefix="engine-files")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()

    # --- called from other threads ------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()
            self._ready.wait()

    def ring(self, entry_ids: Sequence[int]) -> None:
        """Deliver these entries soon, as far as they are due and free."""
        self._call(self._take_ring, list(entry_ids))

    def sweep(self) -> None:
        """Look for due entries that nobody rang for."""
        self._call(self._want_sweep)

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Claim nothing new, end what runs within `seconds`, give the rest back; returns when all is written down."""
        if self._thread is not None:
            self._call(self._stop, seconds)
            self._thread.join(seconds + 2)

    def _configure(self, config: RuntimeConfig) -> None:
        """Take over values that were set; called by the watcher's thread."""
        self._call(self._apply, config.smtp)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Run the loop; an engine that breaks ends its process, which would else look alive and deliver nothing."""
        try:
            self._watcher.start(self._configure, _end_process)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except Exception:
            logger.exception("queue.engine_broke", worker=self.worker)
            _end_process()
        finally:
            self._watcher.stop()
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._settle_wanted = asyncio.Event()
        self._drain_seconds = DRAIN_SECONDS
        if self._transport is None:
            self._transport, self._router = _way_out()
        else:
            assert self._resolver is not None
            self._router = routing.router(self._resolver, routing.policy_from_settings())
        self._apply(runtime.current())
        self._ready.set()
        logger.info("queue.engine_started", worker=self.worker)
        settler = asyncio.create_task(self._settle_forever())
        helpers = [asyncio.create_task(self._renew_forever()), asyncio.create_task(self._sweep_forever())]
        await self._claim_forever()
        await self._finish()
        for task in [*helpers, settler]:
            task.cancel()
        await asyncio.gather(*helpers, settler, return_exceptions=True)
        await self._transport.close()
        logger.info("queue.engine_stopped", worker=self.worker)

    def _take_ring(self, entry_ids: Iterable[int]) -> None:
        for entry_id in entry_ids:
            if entry_id not in self._in_flight:
                self._rung[entry_id] = None
        while len(self._rung) > 10 * MAX_IN_FLIGHT:  # the database remembers them
            self._rung.popitem(last=False)
            self._sweep_wanted = True
        self._wake.set()

    def _want_sweep(self) -> None:
        self._sweep_wanted = True
        self._wake.set()

    def _stop(self, seconds: float) -> None:
        self._stopping = True
        self._drain_seconds = seconds
        self._wake.set()

    def _apply(self, limits: SmtpConfig) -> None:
        """Work with these limits; deliveries over a smaller one end first, those that a larger one allows begin."""
        self._limits = limits
        self._lanes.per_domain = limits.pool_size
        if isinstance(self._transport, SmtpTransport):
            self._transport.change(timeouts=options.timeouts_of(limits), pool_size=limits.pool_size)
        self._fill_lanes()

    async def _claim_forever(self) -> None:
        """Claim while there is room: what was rung for and whatever else is due, by turns.

        Were the rung ones always first, a steady stream of new mail would keep retries waiting for as long as it lasts.
        """
        turn_of_the_due = False
        while not self._stopping:
            room = MAX_IN_FLIGHT - len(self._in_flight)
            if room < CLAIM_BATCH or not (self._rung or self._sweep_wanted):
                self._wake.clear()
                await self._wake.wait()
                continue
            turn_of_the_due = self._sweep_wanted and not turn_of_the_due
            rung = 0 if turn_of_the_due else min(CLAIM_BATCH, len(self._rung))
            ids = [self._rung.popitem(last=False)[0] for _ in range(rung)]
            try:
                found = await self._in_database(
                    delivery.claim_due,
                    self.worker,
                    limit=CLAIM_BATCH,
                    lease=self._lease,
                    entry_ids=ids or None,
                    without_domains=self._lanes.full(),
                    read_ahead_octets=min(READ_AHEAD_OCTETS, MAX_LOADED_OCTETS - self._loaded_octets),
                )
            except Exception as error:  # noqa: BLE001  (whatever the database says: the loop goes on)
                logger.error("queue.claim_failed", cause=f"{type(error).__name__}: {error}")
                self._sweep_wanted = True
                await self._pause()
                continue
            if not ids:
                self._sweep_wanted = bool(found.ours or found.foreign or found.decided)
            self._dispatch(found)

    async def _pause(self) -> None:
        """Wait out a trouble, but not a shutdown."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_AFTER_TROUBLE_SECONDS):
                while not self._stopping:
                    await self._wake.wait()
                    self._wake.clear()

    def _dispatch(self, found: delivery.Sorted) -> None:
        """Begin what was claimed.

        After an outage longer than a lease the claim brings entries back that are under way here already: their lease
        is longer now, and that is all that is to be done.
        """
        ours = [(parcel, resolution) for parcel, resolution in found.ours if self._is_new(parcel)]
        foreign = [parcel for parcel in found.foreign if self._is_new(parcel)]
        self._ended([result for result in found.decided if self._is_new(result.parcel)])
        if ours:
            self._spawn(self._deliver_ours(ours))
        for parcel in foreign:
            self._loaded_octets += len(parcel.content or b"")
            self._lanes.add(parcel)
        self._fill_lanes()

    def _is_new(self, parcel: Parcel) -> bool:
        return self._in_flight.setdefault(parcel.entry_id, parcel) is parcel

    # --- deliveries ---------------------------------------------------------------------------------------------------

    async def _deliver_ours(self, parcels: Sequence[tuple[Parcel, Resolution]]) -> None:
        for group in delivery.by_size(parcels, lambda pair: pair[0].size_octets):
            started_at = timezone.now()
            try:
                results = await self._in_files(delivery.deliver_ours, group)
            except Exception as error:
                logger.exception("queue.local_delivery_failed")
                results = [delivery.trouble(parcel, started_at, "local", error) for parcel, _ in group]
            self._ended(results)

    def _fill_lanes(self) -> None:
        """Start deliveries: at most `pool_size` for a domain and `max_workers` in all, domains by turns."""
        while not self._stopping and self._running < self._limits.max_workers:
            parcels = self._lanes.next()
            if parcels is None:
                return
            self._running += 1
            self._spawn(self._deliver_foreign(parcels))

    async def _deliver_foreign(self, parcels: list[Parcel]) -> None:
        first = parcels[0]
        started_at = timezone.now()
        try:
            assert self._transport is not None
            octets = first.content
            if octets is None:
                octets = (await self._in_files(content.read_many, [first.message_id])).get(first.message_id)
            if octets is None:
                self._ended([delivery.content_missing(parcel, started_at) for parcel in parcels])
                return
            results = await delivery.deliver_foreign(parcels, octets, router=self._router, transport=self._transport)
            self._ended(results)
        except Exception as error:
            logger.exception("queue.delivery_failed", message_id=first.message_id, trace_id=first.trace_id)
            self._ended([delivery.trouble(parcel, started_at, "smtp", error) for parcel in parcels])
        finally:
            self._running -= 1
            self._loaded_octets -= sum(len(parcel.content or b"") for parcel in parcels)
            if self._lanes.ended(first.domain):
                self._want_sweep()
            self._fill_lanes()

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _ended(self, results: Sequence[Result]) -> None:
        if results:
            self._results.extend(results)
            self._settle_wanted.set()

    async def _settle_forever(self) -> None:
        """Commit whatever ended while the last commit ran."""
        while True:
            await self._settle_wanted.wait()
            self._settle_wanted.clear()
            while self._results:
                count = settle.batch_length(self._results[:SETTLE_BATCH])
                batch, self._results = self._results[:count], self._results[count:]
                await self._settle(batch)

    async def _settle(self, batch: list[Result]) -> None:
        """Commit one batch. A database in trouble is waited for; a result that cannot be written is tried alone."""
        while True:
            try:
                new_ids = await self._in_database(delivery.write_down, batch, worker=self.worker)
                break
            except (OperationalError, InterfaceError, ProgrammingError) as error:
                logger.error("queue.settle_failed", cause=f"{type(error).__name__}: {error}", results=len(batch))
                await asyncio.sleep(PAUSE_AFTER_TROUBLE_SECONDS)
            except Exception as error:
                logger.exception("queue.settle_broke", results=len(batch))
                new_ids = await self._settle_alone(batch, error)
                break
        for result in batch:
            self._in_flight.pop(result.parcel.entry_id, None)
            _log(result, self.worker)
        self._take_ring(new_ids)
        self._wake.set()

    async def _settle_alone(self, batch: list[Result], error: Exception) -> list[int]:
        """Commit results one by one; the one that is at fault is deferred, or left to the end of its lease."""
        new_ids: list[int] = []
        for result in batch:
            attempts = [result, delivery.trouble(result.parcel, result.started_at, result.outcome.transport, error)]
            for candidate in attempts:
                with suppress(Exception):
                    new_ids += await self._in_database(delivery.write_down, [candidate], worker=self.worker)
                    break
        return new_ids

    async def _renew_forever(self) -> None:
        """Keep the leases of what is in flight; a worker that dies stops doing so, and others take over."""
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            ids = list(self._in_flight)
            for start in range(0, len(ids), 500):
                until = timezone.now() + self._lease
                try:
                    await self._in_database(claim.renew, self.worker, ids[start : start + 500], until=until)
                except Exception as error:  # noqa: BLE001  (as above)
                    logger.error("queue.renew_failed", cause=f"{type(error).__name__}: {error}")

    async def _sweep_forever(self) -> None:
        """Look at the database from time to time: rings get lost, leases run out, retries and deadlines come."""
        while True:
            await asyncio.sleep(settings.SWEEP_INTERVAL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            self._end_overdue()
            self._want_sweep()

    def _end_overdue(self) -> None:
        """End what waits in a lane behind its deadline: a slow domain is no reason to keep its sender waiting."""
        now = timezone.now()
        overdue = self._lanes.take_out(lambda parcel: delivery.is_only_woken(parcel, now))
        self._loaded_octets -= sum(len(parcel.content or b"") for parcel in overdue)
        self._ended([settle.without_attempt(parcel, now) for parcel in overdue])

    async def _finish(self) -> None:
        """End at shutdown: give back what was not begun, wait for the rest, write all down."""
        ends_at = asyncio.get_running_loop().time() + self._drain_seconds
        await self._give_back(self._lanes.empty())
        while self._in_flight and asyncio.get_running_loop().time() < ends_at:  # noqa: ASYNC110  (once, at the end)
            await asyncio.sleep(0.02)
        for task in list(self._jobs):
            task.cancel()
        unsettled = {result.parcel.entry_id for result in self._results}
        await self._give_back([parcel for parcel in self._in_flight.values() if parcel.entry_id not in unsettled])

    async def _give_back(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            self._in_flight.pop(parcel.entry_id, None)
        ids = [parcel.entry_id for parcel in parcels]
        for start in range(0, len(ids), 500):
            batch = ids[start : start + 500]
            try:
                await self._in_database(claim.give_back, self.worker, batch, now=timezone.now())
            except Exception as error:  # noqa: BLE001  (their leases run out)
                logger.error("queue.give_back_failed", cause=f"{type(error).__name__}: {error}")

    # --- threads ------------------------------------------------------------------------------------------------------

    async def _in_database(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._database, lambda: _guarded(function, *arguments, **named)
        )

    async def _in_files(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, lambda: _guarded(function, *arguments))


def _log(result: Result, worker: str) -> None:
    logger.info(
        "queue.attempted",
        trace_id=result.parcel.trace_id,
        message_id=result.parcel.message_id,
        recipient=result.parcel.recipient,
        number=result.parcel.attempts + 1,
        outcome=result.outcome.kind.value,
        next_hop=result.outcome.next_hop,
        reply=result.outcome.reply,
        worker=worker,
    )


def _end_process() -> None:
    """End as at a shutdown; the supervisor starts a new process."""
    os.kill(os.getpid(), signal.SIGTERM)


def _way_out() -> tuple[Transport, delivery.Router]:
    """Return how foreign mail goes, by the settings: in the sandbox nowhere, and nobody is asked the way."""
    if settings.DELIVERY_MODE == "sandbox":
        return SandboxTransport(), _nowhere
    resolver = DnsPythonResolver(settings.DNS_SERVERS)
    return SmtpTransport(options.from_settings()), routing.router(resolver, routing.policy_from_settings())


async def _nowhere(_domain: str) -> Route:
    return Route(())


def _guarded(function: Callable[..., T], *arguments: object, **named: object) -> T:
    """Run with a live connection; after a failure the next call gets a fresh one."""
    try:
        return function(*arguments, **named)
    except Exception:
        connection.close()
        raise
    finally:
        close_old_connections()


_lock = threading.Lock()
_instance: Engine | None = None
_instance_pid = 0


def current() -> Engine:
    """Return this process's engine, made and started at first use; a child after a fork gets its own."""
    global _instance, _instance_pid
    with _lock:
        if _instance is None or _instance_pid != os.getpid():
            _instance, _instance_pid = Engine(), os.getpid()
        engine = _instance
    engine.start()
    return engine


def drain() -> None:
    """Drain this process's engine, where there is one."""
    if _instance is not None and _instance_pid == os.getpid():
        _instance.drain()
