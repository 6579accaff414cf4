"""The delivery engine of one worker process: an event loop in a thread of its own that keeps many deliveries going.

Celery only rings it with ids. It claims, delivers, renews its leases, settles in batches, looks for due entries by
itself (so that mail flows while Redis is away), and drains at shutdown. A peer that takes five minutes holds one of its
slots and nothing else. Started after a fork, never before.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import structlog
import uvloop
from django.conf import settings
from django.utils import timezone

from accounts.addresses import Resolution
from accounts.dns.base import Resolver
from accounts.dns.dnspython import DnsPythonResolver
from mailflow import content, runtime
from mailflow.models import RestartRequest
from mailflow.runtime import RuntimeConfig, SmtpConfig
from queue import delivery, routing
from queue.beside import Beside
from queue.claim import Parcel
from queue.claimer import Claimer
from queue.held import Held
from queue.hops import Destination
from queue.outcome import Outcome
from queue.pacing import inheritance
from queue.pacing.beats import Beats
from queue.pacing.ledger import Grant
from queue.pacing.pacer import Pacer
from queue.results import Result
from queue.router import Router
from queue.settler import Settler
from queue.signer import Signer
from queue.simulated import SimulatedDeliveries
from queue.threads import OneAProcess, guarded
from queue.transports import options
from queue.transports.base import Route, Transport
from queue.transports.sandbox import SandboxTransport
from queue.transports.smtp import SmtpTransport
from queue.upkeep import Upkeep

logger = structlog.get_logger(__name__)
_standard_logger = logging.getLogger(__name__)  # asked first: to have a line dropped by structlog is not free
T = TypeVar("T")

DRAIN_SECONDS = 4.0


class Engine:
    """Made by `current()`; `ring`, `sweep` and `drain` may be called from any thread.

    Tests give a transport and a resolver of their own, which then take all foreign mail; without them the settings say
    how it goes, but for the sandbox's, which goes to the simulated internet whatever they say.
    """

    def __init__(self, *, transport: Transport | None = None, resolver: Resolver | None = None) -> None:
        self.worker = f"{socket.gethostname()[:20]}:{os.getpid()}:{secrets.token_hex(3)}"
        self._given_transport = transport
        self._resolver = resolver
        self._lease = dt.timedelta(seconds=settings.QUEUE_LEASE_SECONDS)
        self._held = Held(self.worker, self._in_database)
        self._beside = Beside(timezone.now)
        self._limits = runtime.current()
        self._watcher = runtime.Watcher(RestartRequest.Service.WORKER)
        self._simulated: SimulatedDeliveries | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._drain_seconds = DRAIN_SECONDS
        self._database = ThreadPoolExecutor(1, thread_name_prefix="engine-db")
        self._files = ThreadPoolExecutor(2, thread_name_prefix="engine-files")
        self._signer = Signer(self._in_database)
        self._settler = Settler(self.worker, in_database=self._in_database, settled=self._settled)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._has_ended = threading.Event()

    # --- called from other threads ------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()
            self._ready.wait()

    def ring(self, entry_ids: Sequence[int]) -> None:
        """Deliver these entries soon, as far as they are due and free."""
        self._call(lambda: self._claimer.ring(list(entry_ids)))

    def sweep(self) -> None:
        """Look for due entries that nobody rang for."""
        self._call(lambda: self._claimer.sweep())

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Claim nothing new, end what runs within `seconds`, give the rest back; returns when all is written down."""
        if self._thread is not None:
            self._call(self._stop, seconds)
            self._has_ended.wait(seconds + 2)

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
                self._end()  # the loop waits for the threads that it lent out, and nobody else has to
        except Exception:
            logger.exception("queue.engine_broke", worker=self.worker)
            _end_process()
        finally:
            self._end()

    def _end(self) -> None:
        """Let go of who waits for the start or the end; twice is no harm."""
        self._watcher.stop()
        self._database.shutdown(wait=False)
        self._files.shutdown(wait=False)
        self._ready.set()
        self._has_ended.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._assemble()
        self._apply(runtime.current())
        self._ready.set()
        logger.info("queue.engine_started", worker=self.worker)
        await self._take_over()
        await self._beats.begin()
        forever = [self._settler.forever(), self._beats.forever(), *self._upkeep.tasks()]
        tasks = [asyncio.create_task(one) for one in forever]
        if isinstance(self._router, Router):
            await self._router.begin()
            tasks.append(asyncio.create_task(self._router.keep_up()))
        await self._claimer.forever()
        await self._finish()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):  # what it held is free when its lease ends
            await self._beats.leave()
        await self._transport.close()
        if self._simulated is not None:
            await self._simulated.close()
        if isinstance(self._router, Router):
            await self._router.flush()
        logger.info("queue.engine_stopped", worker=self.worker)

    def _assemble(self) -> None:
        """Make the parts that belong to the loop."""
        self._transport, self._router = self._way_out()
        self._pacer = Pacer(
            max_running=self._limits.max_workers,
            default_cap=self._limits.pool_size,
            wall=timezone.now,
            steady=asyncio.get_running_loop().time,
            kept=lambda domain: self._transport.kept(domain) if isinstance(self._transport, SmtpTransport) else 0,
            trim=self._trim,
            companions=self._companions,
        )
        if isinstance(self._transport, SmtpTransport):
            self._transport.idle_limit = self._pacer.idle_limit
        if self._given_transport is None:
            self._simulated = SimulatedDeliveries(
                self._held,
                self._beside,
                read=self._read,
                signer=self._signer,
                spawn=self._spawn,
                ended=self._ended,
                sweep=lambda: self._claimer.sweep(),
            )
        self._claimer = Claimer(
            self.worker,
            self._pacer,
            self._held,
            simulated=self._simulated,
            lease=self._lease,
            in_database=self._in_database,
            dispatch=self._dispatch,
        )
        self._upkeep = Upkeep(
            self.worker,
            self._held,
            self._pacer.lanes,
            self._beside,
            self._claimer,
            lease=self._lease,
            in_database=self._in_database,
            ended=self._ended,
        )
        self._beats = Beats(
            self.worker,
            self._pacer,
            lease=self._lease,
            in_database=self._in_database,
            beside=self._beside,
            facts=lambda: (len(self._held), self._claimer.rung),
            give_back=self._held.give_back,
            give_back_changed=self._upkeep.give_back_changed,
            after=self._after_beat,
            jumped=self._clock_jumped,
        )

    def _way_out(self) -> tuple[Transport, delivery.Router]:
        """Return how foreign mail goes: as tests say, or by the settings; in the sandbox nobody is asked the way."""
        policy = routing.policy_from_settings()
        if self._given_transport is not None:
            assert self._resolver is not None
            return self._given_transport, Router(self._resolver, policy, self._in_database)
        if settings.DELIVERY_MODE == "sandbox":
            return SandboxTransport(), _nowhere
        resolver = DnsPythonResolver(settings.DNS_SERVERS, validates=settings.DNS_VALIDATES)
        router = Router(resolver, policy, self._in_database)
        return SmtpTransport(options.from_settings(), router.figures.note), router

    async def _take_over(self) -> None:
        try:
            await self._in_database(inheritance.take_over, timezone.now(), self._lease)
        except Exception as error:  # noqa: BLE001  (the leases of the dead run out)
            logger.error("queue.take_over_failed", cause=f"{type(error).__name__}: {error}")

    def _trim(self, domain: str, count: int) -> None:
        if isinstance(self._transport, SmtpTransport):
            self._transport.trim(domain, count)

    def _stop(self, seconds: float) -> None:
        self._is_stopping = True
        self._drain_seconds = seconds
        self._claimer.stop()

    def _apply(self, limits: SmtpConfig) -> None:
        """Work with these limits; deliveries over a smaller one end first, those that a larger one allows begin."""
        self._limits = limits
        self._pacer.apply(max_running=limits.max_workers, default_cap=limits.pool_size)
        self._beats.soon()
        if isinstance(self._transport, SmtpTransport):
            self._transport.change(timeouts=options.timeouts_of(limits), pool_size=limits.pool_size)
        self._fill_lanes()

    def _dispatch(self, found: delivery.Sorted, grants: Mapping[str, Grant]) -> None:
        """Begin what was claimed.

        After an outage longer than a lease the claim brings entries back that are under way here already: their lease
        is longer now, and that is all that is to be done.
        """
        ours = [(parcel, resolution) for parcel, resolution in found.ours if self._held.take(parcel)]
        foreign = [parcel for parcel in found.foreign if self._held.take(parcel)]
        self._ended([result for result in found.decided if self._held.take(result.parcel)])
        if (simulated := self._simulated) is not None:
            simulated.begin([parcel for parcel in foreign if simulated.takes(parcel)])
            foreign = [parcel for parcel in foreign if not simulated.takes(parcel)]
        if ours:
            self._spawn(self._deliver_ours(ours))
        self._held.load(foreign)
        self._pacer.granted(grants)
        if self._pacer.add(foreign):
            self._beats.soon()
        self._fill_lanes()

    # --- deliveries ---------------------------------------------------------------------------------------------------

    async def _deliver_ours(self, parcels: Sequence[tuple[Parcel, Resolution]]) -> None:
        for group in delivery.by_size(parcels, lambda pair: pair[0].size_octets):
            started_at = timezone.now()
            number = self._beside.add([parcel for parcel, _ in group])
            try:
                results = await self._in_files(delivery.deliver_ours, group)
            except Exception as error:
                logger.exception("queue.local_delivery_failed")
                results = [delivery.trouble(parcel, started_at, "local", error) for parcel, _ in group]
            finally:
                self._beside.end(number)
            self._ended(results)

    async def _read(self, message_id: str) -> bytes | None:
        return (await self._in_files(content.read_many, [message_id])).get(message_id)

    def _fill_lanes(self) -> None:
        """Start the deliveries that may begin (`queue.lanes`)."""
        while not self._is_stopping and (begun := self._pacer.begin()) is not None:
            self._spawn(self._deliver_foreign(*begun))

    def _companions(self, first: Parcel) -> Callable[[Parcel], bool] | None:
        """Return what tells whether another recipient's mail goes by the relay of this one's (`queue.router`)."""
        goes = self._router.companions(delivery.destination_of(first)) if isinstance(self._router, Router) else None
        return None if goes is None else lambda parcel: goes(delivery.destination_of(parcel))

    async def _deliver_foreign(self, number: int, parcels: list[Parcel]) -> None:
        first = parcels[0]
        started_at = timezone.now()
        results: list[Result] = []
        try:
            octets = first.content
            if octets is None:
                octets = await self._read(first.message_id)
            if octets is None:
                self._ended([delivery.content_missing(parcel, started_at) for parcel in parcels])
                return
            results = await delivery.deliver_foreign(
                list(parcels),
                octets,
                router=self._router,
                signer=self._signer,
                transport=self._transport,
                set_apart=partial(self._set_apart, parcels),
            )
            self._ended(results)
        except Exception as error:
            logger.exception("queue.delivery_failed", message_id=first.message_id, trace_id=first.trace_id)
            self._ended([delivery.trouble(parcel, started_at, "smtp", error) for parcel in parcels])
        finally:
            of_domain = [result for result in results if result.parcel.domain == first.domain and result.is_attempt]
            self._pacer.end(number, [result.outcome for result in of_domain])
            self._held.unload(parcels)
            if self._pacer.others or self._pacer.lanes.is_hungry:
                self._claimer.wake()  # perhaps there is room again
            self._fill_lanes()

    def _set_apart(self, begun: list[Parcel], others: Sequence[Parcel]) -> None:
        """Give back those of a delivery that do not share its way: nothing was said of them yet.

        They are claimed anew and wait for their own turn; what people did to them meanwhile counts.
        """
        apart = {parcel.entry_id for parcel in others}
        begun[:] = [parcel for parcel in begun if parcel.entry_id not in apart]
        self._spawn(self._claim_anew(others))

    async def _claim_anew(self, parcels: Sequence[Parcel]) -> None:
        await self._held.give_back(parcels)
        self._claimer.ring([parcel.entry_id for parcel in parcels])

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _ended(self, results: Sequence[Result]) -> None:
        self._settler.add(results)

    def _settled(self, batch: Sequence[Result], new_ids: Sequence[int]) -> None:
        self._held.let_go(result.parcel for result in batch)
        if _standard_logger.isEnabledFor(logging.INFO):
            for result in batch:
                _log(result, self.worker)
        self._claimer.ring(new_ids)

    def _after_beat(self, has_opened: bool) -> None:
        is_idle = self._pacer.others > 0 and not self._pacer.lanes.waiting
        if has_opened or is_idle:  # others may have been rung for more than they can soon begin
            self._claimer.sweep()
        self._fill_lanes()

    def _clock_jumped(self, by: dt.timedelta) -> None:
        """After a jump ahead everybody's leases look expired: claim nothing until they can have been renewed."""
        if by > dt.timedelta(0):
            self._claimer.wait(self._lease.total_seconds() / 2)
        else:
            self._upkeep.mend()

    async def _finish(self) -> None:
        """End at shutdown: give back what was not begun, wait for the rest, write all down."""
        ends_at = asyncio.get_running_loop().time() + self._drain_seconds
        await self._held.give_back(self._pacer.lanes.empty())
        while self._held.parcels and asyncio.get_running_loop().time() < ends_at:  # noqa: ASYNC110  (once, at the end)
            await asyncio.sleep(0.02)
        for task in list(self._jobs):
            task.cancel()
        unsettled = {result.parcel.entry_id for result in self._settler.waiting}
        await self._held.give_back(
            [parcel for parcel in self._held.parcels.values() if parcel.entry_id not in unsettled]
        )

    # --- threads ------------------------------------------------------------------------------------------------------

    async def _in_database(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._database, lambda: guarded(function, *arguments, **named)
        )

    async def _in_files(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, lambda: guarded(function, *arguments))


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


async def _nowhere(destinations: Sequence[Destination]) -> dict[Destination, Route | Outcome]:
    return dict.fromkeys(destinations, Route(()))


_engines = OneAProcess(Engine)


def current() -> Engine:
    """Return this process's engine, made and started at first use."""
    engine = _engines.current()
    engine.start()
    return engine


def drain() -> None:
    """Drain this process's engine, where there is one."""
    if (engine := _engines.existing()) is not None:
        engine.drain()
