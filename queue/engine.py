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
import random
import secrets
import signal
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
import uvloop
from django.conf import settings
from django.db import connection
from django.utils import timezone

from accounts.addresses import Resolution
from accounts.dns.base import Resolver
from accounts.dns.dnspython import DnsPythonResolver
from mailflow import content, runtime
from mailflow.models import RestartRequest
from mailflow.runtime import RuntimeConfig, SmtpConfig
from queue import claim, delivery, dialup, double_bounces, finding, recall, routing
from queue.beside import Beside
from queue.claim import Parcel
from queue.finding import KINDS, Finder, Found
from queue.hops import Destination
from queue.outcome import Outcome
from queue.pacing import inheritance, ledger, warmup
from queue.pacing.beats import Beats
from queue.pacing.ledger import Grant, Want
from queue.pacing.pacer import Pacer
from queue.patrol import Patrol
from queue.results import Result, without_attempt
from queue.router import Router
from queue.settler import Settler
from queue.signer import Signer
from queue.simulation import clock, sandbox
from queue.simulation.sandbox import Sandbox
from queue.threads import OneAProcess, guarded
from queue.transports import options
from queue.transports.base import Route, Transport
from queue.transports.sandbox import SandboxTransport
from queue.transports.smtp import SmtpTransport

logger = structlog.get_logger(__name__)
_standard_logger = logging.getLogger(__name__)  # asked first: to have a line dropped by structlog is not free
T = TypeVar("T")

MAX_IN_FLIGHT = 5000  # entries under lease; more wait in the database
CLAIM_BATCH = 100
WAITING_A_DELIVERY = 4  # entries that wait for each delivery that may run, where other workers are alive
MAX_HUNGRY = 10  # lanes that are filled by one claim
MAX_SIMULATED = 1000  # of them entries of the sandbox
MAX_LOADED_OCTETS = 128 << 20
READ_AHEAD_OCTETS = 8 << 20  # a claim
SIMULATED_WAIT = dt.timedelta(seconds=5)
DRAIN_SECONDS = 4.0
PUNCTUAL_SECONDS = 1.0
PAUSE_AFTER_TROUBLE_SECONDS = 1.0


class Engine:
    """Made by `current()`; `ring`, `sweep` and `drain` may be called from any thread.

    Tests give a transport and a resolver of their own, which then take all foreign mail; without them the settings say
    how it goes, but for the sandbox's, which goes to the simulated internet whatever they say.
    """

    def __init__(self, *, transport: Transport | None = None, resolver: Resolver | None = None) -> None:
        self.worker = f"{socket.gethostname()[:20]}:{os.getpid()}:{secrets.token_hex(3)}"
        self._transport = transport
        self._resolver = resolver
        self._lease = dt.timedelta(seconds=settings.QUEUE_LEASE_SECONDS)
        self._rung: OrderedDict[int, None] = OrderedDict()
        self._in_flight: dict[int, Parcel] = {}
        self._beside = Beside(timezone.now)
        self._limits = runtime.current()
        self._finder = Finder(self.worker, clock.Watch())
        self._patrol = Patrol(self.worker, self._lease)
        self._watcher = runtime.Watcher(RestartRequest.Service.WORKER)
        self._sandbox: Sandbox | None = None
        self._simulated = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._due_wanted = dict.fromkeys(KINDS, True)
        self._turn = 0
        self._claims_from = 0.0  # by the loop's clock
        self._stopping = False
        self._loaded_octets = 0
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
        self._call(self._take_ring, list(entry_ids))

    def sweep(self) -> None:
        """Look for due entries that nobody rang for."""
        self._call(self._want_sweep)

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
        self._wake = asyncio.Event()
        self._mend_wanted = asyncio.Event()
        self._pacer = Pacer(
            max_running=self._limits.max_workers,
            default_cap=self._limits.pool_size,
            wall=timezone.now,
            steady=self._loop.time,
            kept=lambda domain: self._transport.kept(domain) if isinstance(self._transport, SmtpTransport) else 0,
            trim=self._trim,
            companions=self._companions,
        )
        self._beats = Beats(
            self.worker,
            self._pacer,
            lease=self._lease,
            in_database=self._in_database,
            beside=self._beside,
            facts=lambda: (len(self._in_flight), len(self._rung)),
            give_back=self._give_back,
            give_back_changed=self._give_back_changed,
            after=self._after_beat,
            jumped=self._clock_jumped,
        )
        self._drain_seconds = DRAIN_SECONDS
        if self._transport is None:
            self._transport, self._router = _way_out(self._in_database)
            self._sandbox = Sandbox(self._read, self._signer)
        else:
            assert self._resolver is not None
            self._router = Router(self._resolver, routing.policy_from_settings(), self._in_database)
        if isinstance(self._transport, SmtpTransport):
            self._transport.idle_limit = self._pacer.idle_limit
        self._apply(runtime.current())
        self._ready.set()
        logger.info("queue.engine_started", worker=self.worker)
        await self._take_over()
        await self._beats.begin()
        settler = asyncio.create_task(self._settler.forever())
        helpers = [
            asyncio.create_task(forever)
            for forever in (
                self._beats.forever(),
                self._renew_forever(),
                self._sweep_forever(),
                self._keep_time(),
                self._mend_forever(),
            )
        ]
        if isinstance(self._router, Router):
            await self._router.begin()
            helpers.append(asyncio.create_task(self._router.keep_up()))
        await self._claim_forever()
        await self._finish()
        for task in [*helpers, settler]:
            task.cancel()
        await asyncio.gather(*helpers, settler, return_exceptions=True)
        with suppress(Exception):  # what it held is free when its lease ends
            await self._beats.leave()
        await self._transport.close()
        if self._sandbox is not None:
            await self._sandbox.close()
        if isinstance(self._router, Router):
            await self._router.flush()
        logger.info("queue.engine_stopped", worker=self.worker)

    async def _take_over(self) -> None:
        try:
            await self._in_database(inheritance.take_over, timezone.now(), self._lease)
        except Exception as error:  # noqa: BLE001  (the leases of the dead run out)
            logger.error("queue.take_over_failed", cause=f"{type(error).__name__}: {error}")

    def _trim(self, domain: str, count: int) -> None:
        if isinstance(self._transport, SmtpTransport):
            self._transport.trim(domain, count)

    def _take_ring(self, entry_ids: Iterable[int]) -> None:
        for entry_id in entry_ids:
            if entry_id not in self._in_flight:
                self._rung[entry_id] = None
        while len(self._rung) > 10 * MAX_IN_FLIGHT:  # the database remembers them
            self._rung.popitem(last=False)
            self._due_wanted = dict.fromkeys(KINDS, True)
        self._wake.set()

    def _want_sweep(self) -> None:
        self._due_wanted = dict.fromkeys(KINDS, True)
        self._wake.set()

    def _stop(self, seconds: float) -> None:
        self._stopping = True
        self._drain_seconds = seconds
        self._wake.set()

    def _apply(self, limits: SmtpConfig) -> None:
        """Work with these limits; deliveries over a smaller one end first, those that a larger one allows begin."""
        self._limits = limits
        self._pacer.apply(max_running=limits.max_workers, default_cap=limits.pool_size)
        self._beats.soon()
        if isinstance(self._transport, SmtpTransport):
            self._transport.change(timeouts=options.timeouts_of(limits), pool_size=limits.pool_size)
        self._fill_lanes()

    async def _claim_forever(self) -> None:
        """Claim while there is room, from each source by turns: were one always first, others might wait for ever."""
        while not self._stopping:
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
                self._want_sweep()
                await self._pause(PAUSE_AFTER_TROUBLE_SECONDS)
                continue
            if not found.is_all and kind is not None:
                self._due_wanted[kind] = True
            self._dispatch(found, grants)
            if source == self._from_hungry:
                for domain in {parcel.domain for parcel in found.foreign}:
                    self._pacer.lanes.expect_more(domain)

    def _has_room(self) -> bool:
        """Whether more may be claimed: beside other workers no more than it can soon begin, lest they stand idle."""
        if MAX_IN_FLIGHT - len(self._in_flight) < CLAIM_BATCH:
            return False
        return not self._pacer.others or self._pacer.lanes.waiting < max(
            CLAIM_BATCH, WAITING_A_DELIVERY * self._limits.max_workers
        )

    def _next_source(self) -> tuple[Callable[[], Callable[[], Found]] | None, str | None]:
        """Return where to claim from next: what was rung for, full lanes that have room again, what is due."""
        sources: list[tuple[bool, Callable[[], Callable[[], Found]], str | None]] = [
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

    def _from_rung(self) -> Callable[[], Found]:
        ids = [self._rung.popitem(last=False)[0] for _ in range(min(CLAIM_BATCH, len(self._rung)))]
        return partial(self._finder.claim_rung, ids, **self._terms())

    def _from_hungry(self) -> Callable[[], Found]:
        return partial(self._finder.claim_of, self._pacer.lanes.hungry(MAX_HUNGRY), **self._terms())

    def _from_due(self, kind: str) -> Callable[[], Found]:
        self._due_wanted[kind] = False  # unless there is more than is found now
        return partial(self._finder.claim_due, kind, workers=1 + self._pacer.others, **self._terms())

    def _terms(self) -> dict[str, Any]:
        room = None if self._sandbox is None else self._simulated < MAX_SIMULATED
        return {"limit": CLAIM_BATCH, "lease": self._lease, "closed": replace(self._pacer.closed(), sandbox=room)}

    def _read_ahead_octets(self) -> int:
        return min(READ_AHEAD_OCTETS, MAX_LOADED_OCTETS - self._loaded_octets)

    def _claim(self, find: Callable[[], Found], octets: int) -> tuple[delivery.Sorted, dict[str, Grant]]:
        """Claim, and get slots of the destinations that are new to this worker; in the database thread."""
        found = delivery.claim_due(self.worker, find, read_ahead_octets=octets)
        counts = Counter(parcel.domain for parcel in found.foreign if not self._is_for_sandbox(parcel))
        wants = {domain: Want(counts[domain]) for domain in self._pacer.unknown(counts)}
        if not wants:
            return found, {}
        cap = self._pacer.default_cap
        try:
            return found, ledger.share_out(self.worker, wants, now=timezone.now(), default_cap=cap, lease=self._lease)
        except Exception as error:  # noqa: BLE001  (the next beat asks again; what is claimed waits in its lane)
            logger.error("queue.share_failed", cause=f"{type(error).__name__}: {error}")
            connection.close()
            return found, {}

    async def _pause(self, seconds: float) -> None:
        """Wait out a trouble, but not a shutdown."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._stopping:
                    await self._wake.wait()
                    self._wake.clear()

    def _dispatch(self, found: delivery.Sorted, grants: Mapping[str, Grant]) -> None:
        """Begin what was claimed.

        After an outage longer than a lease the claim brings entries back that are under way here already: their lease
        is longer now, and that is all that is to be done.
        """
        ours = [(parcel, resolution) for parcel, resolution in found.ours if self._is_new(parcel)]
        foreign = [parcel for parcel in found.foreign if self._is_new(parcel)]
        self._ended([result for result in found.decided if self._is_new(result.parcel)])
        if self._sandbox is not None:
            self._simulate(self._sandbox, [parcel for parcel in foreign if _is_simulated(parcel)])
            foreign = [parcel for parcel in foreign if not _is_simulated(parcel)]
        if ours:
            self._spawn(self._deliver_ours(ours))
        self._loaded_octets += sum(len(parcel.content or b"") for parcel in foreign)
        self._pacer.granted(grants)
        if self._pacer.add(foreign):
            self._beats.soon()
        self._fill_lanes()

    def _is_new(self, parcel: Parcel) -> bool:
        return self._in_flight.setdefault(parcel.entry_id, parcel) is parcel

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

    def _is_for_sandbox(self, parcel: Parcel) -> bool:
        return self._sandbox is not None and _is_simulated(parcel)

    def _simulate(self, simulated: Sandbox, parcels: Sequence[Parcel]) -> None:
        """Deliver sandbox mail beside the lanes. What is too much for a simulated host goes back for a moment."""
        for group in sandbox.groups(parcels):
            if simulated.admit(group):
                self._simulated += len(group)
                self._loaded_octets += sum(len(parcel.content or b"") for parcel in group)
                self._spawn(self._deliver_simulated(simulated, group))
            else:
                self._spawn(self._return(group, wait=SIMULATED_WAIT + group[0].ahead))
                asyncio.get_running_loop().call_later(SIMULATED_WAIT.total_seconds(), self._want_sweep)

    async def _deliver_simulated(self, simulated: Sandbox, parcels: list[Parcel]) -> None:
        started_at = timezone.now()
        number = self._beside.add(parcels, asyncio.current_task())
        try:
            self._ended(await simulated.deliver(parcels, begin=partial(self._beside.begin, number)))
        except Exception as error:
            logger.exception("queue.simulation_failed", message_id=parcels[0].message_id)
            self._ended([delivery.trouble(parcel, started_at, "smtp", error) for parcel in parcels])
        finally:
            self._beside.end(number)
            simulated.left(parcels)
            was_full = self._simulated >= MAX_SIMULATED
            self._simulated -= len(parcels)
            self._loaded_octets -= sum(len(parcel.content or b"") for parcel in parcels)
            if was_full and self._simulated < MAX_SIMULATED:
                self._want_sweep()

    async def _read(self, message_id: str) -> bytes | None:
        return (await self._in_files(content.read_many, [message_id])).get(message_id)

    def _fill_lanes(self) -> None:
        """Start the deliveries that may begin (`queue.lanes`)."""
        while not self._stopping and (begun := self._pacer.begin()) is not None:
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
            assert self._transport is not None
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
            self._loaded_octets -= sum(len(parcel.content or b"") for parcel in parcels)
            if self._pacer.others or self._pacer.lanes.is_hungry:
                self._wake.set()  # perhaps there is room again
            self._fill_lanes()

    def _set_apart(self, begun: list[Parcel], others: Sequence[Parcel]) -> None:
        """Give back those of a delivery that do not share its way: nothing was said of them yet.

        They are claimed anew and wait for their own turn; what people did to them meanwhile counts.
        """
        apart = {parcel.entry_id for parcel in others}
        begun[:] = [parcel for parcel in begun if parcel.entry_id not in apart]
        self._spawn(self._claim_anew(others))

    async def _claim_anew(self, parcels: Sequence[Parcel]) -> None:
        await self._give_back(parcels)
        self._take_ring([parcel.entry_id for parcel in parcels])

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _ended(self, results: Sequence[Result]) -> None:
        self._settler.add(results)

    def _settled(self, batch: Sequence[Result], new_ids: Sequence[int]) -> None:
        for result in batch:
            self._in_flight.pop(result.parcel.entry_id, None)
        if _standard_logger.isEnabledFor(logging.INFO):
            for result in batch:
                _log(result, self.worker)
        self._take_ring(new_ids)
        self._wake.set()

    async def _renew_forever(self) -> None:
        """Keep the leases of what is in flight; a worker that dies stops doing so, and others take over.

        What a person has put on hold, and waits here for its turn, goes back.
        """
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            ids = list(self._in_flight)
            held: set[int] = set()
            for start in range(0, len(ids), 500):
                until = timezone.now() + self._lease
                try:
                    held.update(
                        await self._in_database(claim.renew, self.worker, ids[start : start + 500], until=until)
                    )
                except Exception as error:  # noqa: BLE001  (as above)
                    logger.error("queue.renew_failed", cause=f"{type(error).__name__}: {error}")
            if held:
                await self._put_back(held)

    async def _give_back_changed(self) -> None:
        """Give back what people have changed and what waits here for its turn: held, or to go another way."""
        routes = {entry_id: parcel.route for entry_id, parcel in self._in_flight.items()}
        ids, changed = list(routes), set[int]()
        for start in range(0, len(ids), 500):
            part = {entry_id: routes[entry_id] for entry_id in ids[start : start + 500]}
            changed.update(await self._in_database(recall.changed, self.worker, part))
        if changed:
            await self._put_back(changed)

    async def _put_back(self, changed: Collection[int]) -> None:
        await self._give_back(self._pacer.lanes.take_out(lambda parcel: parcel.entry_id in changed))
        await self._return(self._beside.take_out(lambda parcel: parcel.entry_id in changed))
        self._want_sweep()  # for those that go another way

    async def _sweep_forever(self) -> None:
        """Look at the database from time to time: rings get lost, leases run out, retries and deadlines come."""
        while True:
            await asyncio.sleep(settings.SWEEP_INTERVAL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            self._end_overdue()
            await self._patrol_step()
            try:
                await self._in_database(dialup.release_moved, timezone.now())
            except Exception as error:  # noqa: BLE001  (as above)
                logger.error("queue.release_failed", cause=f"{type(error).__name__}: {error}")
            self._want_sweep()
            await self._tell_the_postmaster()

    async def _keep_time(self) -> None:
        """Look for what has come due within the last moment: a time that somebody chose is not to wait for a sweep."""
        since = timezone.now()
        while True:
            await asyncio.sleep(PUNCTUAL_SECONDS)
            now = timezone.now()
            try:
                if await self._in_database(finding.has_come_due, since, now):
                    self._want_sweep()
                since = now
            except Exception as error:  # noqa: BLE001  (as above; the next look begins where this one did)
                logger.error("queue.look_failed", cause=f"{type(error).__name__}: {error}")

    async def _tell_the_postmaster(self) -> None:
        try:
            self._take_ring(await self._in_database(double_bounces.report_due))
        except Exception as error:  # noqa: BLE001  (as above; what was noted stays noted)
            logger.error("queue.postmaster_not_told", cause=f"{type(error).__name__}: {error}")

    def _end_overdue(self) -> None:
        """End what waits in a lane behind its deadline: a slow domain is no reason to keep its sender waiting."""
        now = timezone.now()
        overdue = self._pacer.lanes.take_out(lambda parcel: delivery.is_only_woken(parcel, now))
        self._loaded_octets -= sum(len(parcel.content or b"") for parcel in overdue)
        self._ended([without_attempt(parcel, now) for parcel in overdue])

    async def _mend_forever(self) -> None:
        """Go through the whole queue at the start, and whenever the clock went back, for times that cannot be."""
        self._mend_wanted.set()
        while True:
            await self._mend_wanted.wait()
            self._mend_wanted.clear()
            has_ended = False
            while not has_ended:
                has_ended = await self._patrol_step(only_mends=True)
            self._want_sweep()

    async def _patrol_step(self, *, only_mends: bool = False) -> bool:
        """Look at some of the queue (`queue.patrol`); return whether a round has ended, or nothing can be seen now."""
        now = timezone.now()
        try:
            results, has_ended = await self._in_database(self._patrol.step, now, only_mends=only_mends)
        except Exception as error:  # noqa: BLE001  (the next sweep looks again)
            logger.error("queue.patrol_failed", cause=f"{type(error).__name__}: {error}")
            return True
        self._ended([result for result in results if self._is_new(result.parcel)])
        return has_ended

    def _after_beat(self, has_opened: bool) -> None:
        is_idle = self._pacer.others > 0 and not self._pacer.lanes.waiting
        if has_opened or is_idle:  # others may have been rung for more than they can soon begin
            self._want_sweep()
        self._fill_lanes()

    def _clock_jumped(self, by: dt.timedelta) -> None:
        """After a jump ahead everybody's leases look expired: claim nothing until they can have been renewed."""
        if by > dt.timedelta(0):
            self._claims_from = asyncio.get_running_loop().time() + self._lease.total_seconds() / 2
        else:
            self._mend_wanted.set()

    async def _finish(self) -> None:
        """End at shutdown: give back what was not begun, wait for the rest, write all down."""
        ends_at = asyncio.get_running_loop().time() + self._drain_seconds
        await self._give_back(self._pacer.lanes.empty())
        while self._in_flight and asyncio.get_running_loop().time() < ends_at:  # noqa: ASYNC110  (once, at the end)
            await asyncio.sleep(0.02)
        for task in list(self._jobs):
            task.cancel()
        unsettled = {result.parcel.entry_id for result in self._settler.waiting}
        await self._give_back([parcel for parcel in self._in_flight.values() if parcel.entry_id not in unsettled])

    async def _give_back(self, parcels: Sequence[Parcel]) -> None:
        """Return what waited in a lane, or ran at the end: its content counts no more."""
        self._loaded_octets -= sum(len(parcel.content or b"") for parcel in parcels)
        await self._return(parcels)

    async def _return(self, parcels: Sequence[Parcel], wait: dt.timedelta = clock.REAL_TIME) -> None:
        for parcel in parcels:
            self._in_flight.pop(parcel.entry_id, None)
        for start in range(0, len(parcels), 500):
            batch = parcels[start : start + 500]
            ids = [parcel.entry_id for parcel in batch]
            try:
                await self._in_database(claim.give_back, self.worker, ids, now=timezone.now() + wait)
                await self._in_database(warmup.give_back, batch, now=timezone.now())
            except Exception as error:  # noqa: BLE001  (their leases run out)
                logger.error("queue.give_back_failed", cause=f"{type(error).__name__}: {error}")

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


def _way_out(in_database: Callable[..., Awaitable[Any]]) -> tuple[Transport, delivery.Router]:
    """Return how foreign mail goes, by the settings: in the sandbox nowhere, and nobody is asked the way."""
    if settings.DELIVERY_MODE == "sandbox":
        return SandboxTransport(), _nowhere
    resolver = DnsPythonResolver(settings.DNS_SERVERS, validates=settings.DNS_VALIDATES)
    router = Router(resolver, routing.policy_from_settings(), in_database)
    return SmtpTransport(options.from_settings(), router.figures.note), router


def _is_simulated(parcel: Parcel) -> bool:
    """Whether it must not leave this machine: it was the sandbox's when it came, or everything is now."""
    return parcel.is_sandbox or settings.DELIVERY_MODE == "sandbox"


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
