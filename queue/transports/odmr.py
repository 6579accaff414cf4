"""On-demand mail relay: a domain's host opened the session, turned it around, and gets its mail there (RFC 2645 §5.3).

The same client as for any next hop (`session`, `transaction`), on a line that we did not open. It runs on the loop of
the connection, message by message; the database is asked in threads. Entries are leased in small batches and their ends
written down while the next message is on its way, so that ten thousand of them take the memory of a few.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from mailflow import content, runtime
from mailflow.handoff import Caller
from queue import claim, delivery, dialup, return_paths, suppress
from queue.claim import Parcel
from queue.lanes import MAX_JOB_RECIPIENTS
from queue.outcome import Kind, Outcome
from queue.results import Result, batch_length, kept_back, left_to_host, without_attempt
from queue.signer import Signer
from queue.threads import guarded
from queue.transports import options
from queue.transports.base import NextHop
from queue.transports.handshake import SessionFailed, greet_turned
from queue.transports.line import Line
from queue.transports.options import SmtpOptions
from queue.transports.session import Session
from queue.transports.smtp import prepared

logger = structlog.get_logger(__name__)
T = TypeVar("T")

TRANSPORT = "odmr"
DATABASE_THREADS = 2
BATCH = 50  # entries leased at a time
READ_AHEAD_OCTETS = 2 << 20  # of small messages, with each batch
MAX_SESSIONS = 50  # turned at once, in one listener
LARGE_OCTETS = 1 << 20
MAX_LARGE = 2  # larger messages in memory at once, over all sessions
SWITCH_SECONDS = 0.0005  # after which these threads let the listener's loop go on, which would else wait ten times that
LARGE_SECONDS = 120.0  # for which a host is kept waiting until there is room for one; then it is to come again
SETTLE_BATCH = 100
MAX_IN_HAND = 200  # leased and not written down; with more the session waits for the database
SETTLE_TRIES = 30  # once a second, while the database is in trouble; after that a lease runs out
TROUBLE_SECONDS = 1.0


class Exchange:
    """What the turned sessions of one process share: threads for the database, and how many there may be.

    The threads are there while a session is, and for so long the interpreter switches between threads more often.
    """

    def __init__(self, ring: Callable[[Sequence[int]], None]) -> None:
        self.ring = ring
        self.sessions = 0
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._switch_seconds = 0.0
        self._options: SmtpOptions | None = None
        self._large: asyncio.Semaphore | None = None
        self._large_loop: asyncio.AbstractEventLoop | None = None

    def large(self) -> asyncio.Semaphore:
        """Return what a message over `LARGE_OCTETS` must hold while it is in memory."""
        loop = asyncio.get_running_loop()
        if self._large is None or self._large_loop is not loop:
            self._large, self._large_loop = asyncio.Semaphore(MAX_LARGE), loop
        return self._large

    @property
    def threads(self) -> ThreadPoolExecutor:
        assert self._threads is not None
        return self._threads

    def begin(self, domains: Sequence[str], caller: Caller) -> TurnedSession | None:
        """In a database thread: lease the first mail of dial-up domains, or return None where there is none."""
        supply = dialup.Supply(_worker(), domains, dt.timedelta(seconds=settings.QUEUE_LEASE_SECONDS))
        batch = _take(supply)
        if not batch.parcels:
            self._write_at_once(batch.ended, supply.worker)
            return None
        if self._options is None:
            self._options = options.from_settings()  # reads the machine's certificates: not on the loop
        timeouts = options.timeouts_of(runtime.current())
        with self._lock:
            self.sessions += 1
            if self._threads is None:
                self._switch_seconds = sys.getswitchinterval()
                sys.setswitchinterval(SWITCH_SECONDS)
                self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="odmr")
        return TurnedSession(self, supply, batch, caller, replace(self._options, timeouts=timeouts))

    def _write_at_once(self, results: Sequence[Result], worker: str) -> None:
        if results:
            self.ring(delivery.write_down(results, worker=worker))

    def end(self) -> None:
        """A session is over, and all of it written down."""
        with self._lock:
            self.sessions -= 1
            if self.sessions == 0 and self._threads is not None:
                sys.setswitchinterval(self._switch_seconds)
                self._threads.shutdown(wait=False)
                self._threads = None


def _worker() -> str:
    return f"odmr:{os.getpid()}:{secrets.token_hex(6)}"


@dataclass(slots=True)
class _Hand:
    """What the session has leased: what waits for its turn, and everything that is not written down yet."""

    waiting: deque[Parcel]
    leased: dict[int, Parcel]

    def add(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            self.waiting.append(parcel)
            self.leased[parcel.entry_id] = parcel

    def next_message(self) -> list[Parcel]:
        """Take the next message with those of its recipients that follow one another in the same domain."""
        first = self.waiting.popleft()
        taken = {first.recipient: first}
        while self.waiting and len(taken) < MAX_JOB_RECIPIENTS:
            parcel = self.waiting[0]
            if (parcel.message_id, parcel.domain) != (first.message_id, first.domain) or parcel.recipient in taken:
                break
            taken[parcel.recipient] = self.waiting.popleft()
        return list(taken.values())


class TurnedSession:
    """Implements `mailflow.handoff.Turned`; `begin` makes it with the first batch in hand."""

    def __init__(
        self,
        exchange: Exchange,
        supply: dialup.Supply,
        batch: _Batch,
        caller: Caller,
        smtp_options: SmtpOptions,
    ) -> None:
        self._exchange = exchange
        self._supply = supply
        self._caller = caller
        self._hop = NextHop(caller.helo or caller.address, caller.address, caller.port)
        self._lease = supply.lease
        self._options = smtp_options
        self._signer = Signer(self._in_thread)
        self._hand = _Hand(deque(), {})
        self._hand.add(batch.parcels)
        self._results: list[Result] = list(batch.ended)  # they are written down with the next that end
        self._settling: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._delivered = 0

    @property
    def worker(self) -> str:
        return self._supply.worker

    # --- what the listener calls --------------------------------------------------------------------------------------

    async def run(self, transport: asyncio.Transport, take_over: Callable[[asyncio.Protocol], None]) -> None:
        line = Line()
        line.connection_made(transport)
        take_over(line)
        renewal = asyncio.create_task(self._renew_forever())
        try:
            await self._serve(line)
        except Exception:
            logger.exception("odmr.session_broke", worker=self.worker, account=self._caller.account)
        finally:
            line.abort()
            await self._end(renewal)

    async def give_back(self) -> None:
        await self._end(None)

    def wind_down(self) -> None:
        self._is_stopping = True

    # --- the session --------------------------------------------------------------------------------------------------

    async def _serve(self, line: Line) -> None:
        logger.info("odmr.turned", account=self._caller.account, next_hop=str(self._hop), worker=self.worker)
        started_at = timezone.now()
        try:
            session = await greet_turned(line, self._hop, self._options, transport=TRANSPORT)
        except SessionFailed as error:
            self._refused(error.outcome, started_at)
            return
        while not self._is_stopping and session.is_quiet:
            parcels = await self._next_message()
            if not parcels:
                break
            self._ended(await self._deliver(session, parcels))
            if len(self._hand.leased) > MAX_IN_HAND and self._settling is not None:
                await asyncio.wait([self._settling])
        if session.is_quiet:
            await session.quit()

    def _refused(self, outcome: Outcome, started_at: dt.datetime) -> None:
        """The host did not become a server. That is an attempt for the first message, and never final for anybody."""
        logger.info("odmr.not_greeted", account=self._caller.account, next_hop=str(self._hop), cause=outcome.reply)
        if outcome.kind is Kind.FAILED:
            outcome = replace(outcome, kind=Kind.DEFERRED, enhanced_code="4.3.2")
        now = timezone.now()
        self._ended([Result(parcel, outcome, started_at, now, waits=True) for parcel in self._hand.next_message()])

    async def _next_message(self) -> list[Parcel]:
        """Return the recipients of the next message that may still be handed over; what is too late for it ends."""
        while True:
            if not self._hand.waiting:
                batch = await self._in_thread(_take, self._supply)
                self._hand.add(batch.parcels)
                self._ended(batch.ended)
                if not batch.parcels:
                    return []
            now = timezone.now()
            parcels = self._hand.next_message()
            self._ended([_overdue(parcel, now) for parcel in parcels if dialup.is_over(parcel, now)])
            parcels = [parcel for parcel in parcels if not dialup.is_over(parcel, now)]
            if parcels:
                return parcels

    async def _deliver(self, session: Session, parcels: Sequence[Parcel]) -> list[Result]:
        if parcels[0].size_octets <= LARGE_OCTETS:
            return await self._attempt(session, parcels)
        room = self._exchange.large()
        try:
            async with asyncio.timeout(LARGE_SECONDS):
                await room.acquire()
        except TimeoutError:
            logger.warning("odmr.no_room", message_id=parcels[0].message_id, account=self._caller.account)
            self._hand.waiting.extendleft(reversed(parcels))
            self._is_stopping = True
            return []
        try:
            return await self._attempt(session, parcels)
        finally:
            room.release()

    async def _attempt(self, session: Session, parcels: Sequence[Parcel]) -> list[Result]:
        started_at = timezone.now()
        try:
            outcomes, remarks = await self._transact(session, parcels)
        except Exception as error:
            logger.exception("odmr.delivery_failed", message_id=parcels[0].message_id, trace_id=parcels[0].trace_id)
            return [delivery.trouble(parcel, started_at, TRANSPORT, error) for parcel in parcels]
        if outcomes is None:
            return [delivery.content_missing(parcel, started_at) for parcel in parcels]
        ended_at = timezone.now()
        return [
            Result(one, outcomes[one.recipient], started_at, ended_at, remarks=remarks, waits=True) for one in parcels
        ]

    async def _transact(self, session: Session, parcels: Sequence[Parcel]) -> tuple[dict[str, Outcome] | None, str]:
        """Return the outcome for each recipient, and what there is to remark; None where the content is not found."""
        first = parcels[0]
        octets = first.content
        if octets is None:
            octets = (await self._in_thread(content.read_many, [first.message_id])).get(first.message_id)
        if octets is None:
            return None, ""
        signed = await self._signer.sign(first, octets)
        if signed.obstacle is not None:
            obstacle = replace(signed.obstacle, transport=TRANSPORT, next_hop=str(self._hop))
            return {parcel.recipient: obstacle for parcel in parcels}, signed.words
        job = delivery.job_of(parcels, signed.fields + octets if signed.fields else octets)
        outcomes, message = await prepared(job, transport=TRANSPORT)
        if message is not None:
            del octets, job  # what goes on the wire is a copy, and the two may be large
            others = [parcel.recipient for parcel in parcels if parcel.recipient not in outcomes]
            outcomes |= (await session.deliver(message, others)).outcomes
        return outcomes, signed.words

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _ended(self, results: Sequence[Result]) -> None:
        """Write the results down while the session goes on; whatever ends meanwhile goes with the next commit."""
        self._results.extend(results)
        self._delivered += sum(result.outcome.kind is Kind.DELIVERED for result in results)
        if self._results and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self._settle_all())

    async def _settle_all(self) -> None:
        while self._results:
            count = batch_length(self._results[:SETTLE_BATCH])
            batch, self._results = self._results[:count], self._results[count:]
            new_ids = await self._write_down(batch)
            for result in batch:
                self._hand.leased.pop(result.parcel.entry_id, None)
            if new_ids:
                self._exchange.ring(new_ids)

    async def _write_down(self, batch: Sequence[Result]) -> list[int]:
        """Commit; a database in trouble is waited for, and a result that cannot be written is tried alone."""
        for _ in range(SETTLE_TRIES):
            try:
                return await self._in_thread(delivery.write_down, batch, worker=self.worker)
            except (OperationalError, InterfaceError) as error:
                logger.error("odmr.settle_failed", cause=f"{type(error).__name__}: {error}", results=len(batch))
                await asyncio.sleep(TROUBLE_SECONDS)
            except Exception as error:
                logger.exception("odmr.settle_broke", results=len(batch))
                if len(batch) > 1:
                    return [new_id for result in batch for new_id in await self._write_down([result])]
                result = batch[0]
                trouble = delivery.trouble(result.parcel, result.started_at, TRANSPORT, error)
                if result.outcome.reply == trouble.outcome.reply:
                    break  # that could not be written either: its lease runs out
                batch = [trouble]
        return []

    async def _end(self, renewal: asyncio.Task[None] | None) -> None:
        """Leave nothing in hand: what was not begun waits for its host as before."""
        now = timezone.now()
        self._ended([left_to_host(parcel, now) for parcel in self._hand.waiting])
        self._hand.waiting.clear()
        try:
            if self._settling is not None:
                await self._settling
        finally:
            if renewal is not None:
                renewal.cancel()
            self._exchange.end()
            logger.info("odmr.ended", account=self._caller.account, delivered=self._delivered, worker=self.worker)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            until = timezone.now() + self._lease
            try:
                await self._in_thread(claim.renew, self.worker, list(self._hand.leased), until=until)
            except Exception as error:  # noqa: BLE001  (whatever the database says: it may be back the next time)
                logger.error("odmr.renew_failed", cause=f"{type(error).__name__}: {error}")

    async def _in_thread(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._exchange.threads, partial(guarded, function, *arguments, **named))


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one claim brought: to be handed over, and ended at once since it may not be."""

    parcels: Sequence[Parcel] = ()
    ended: Sequence[Result] = ()


def _take(supply: dialup.Supply) -> _Batch:
    """Lease the next batch that has anything to hand over, with the contents of what is small.

    `host` says of each that its domain's host asked for it, so that it goes on waiting where it is not delivered.
    """
    ended: list[Result] = []
    while claimed := supply.take(BATCH):
        now = timezone.now()
        hits = suppress.blocked(claimed, now)
        ended += [kept_back(one, hits[one.entry_id], now) for one in claimed if one.entry_id in hits]
        free = [replace(one, host="") for one in claimed if one.entry_id not in hits]
        if free:
            return _Batch(delivery.read_ahead(return_paths.marked(free), READ_AHEAD_OCTETS), ended)
    return _Batch((), ended)


def _overdue(parcel: Parcel, now: dt.datetime) -> Result:
    is_sender_s = dialup.is_too_late(parcel, now)
    return without_attempt(parcel, now) if is_sender_s else left_to_host(parcel, now)
