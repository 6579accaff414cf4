"""The rate limits as a listener asks for them: at once where a block is in hand, else by Redis (contract §2).

Everything runs on one event loop's thread. No answer waits for Redis longer than `timeout_seconds`; while Redis is away
nothing waits, and this process counts by itself (docs/adr/0009).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence

import structlog
from django.conf import settings

from mailflow.limits import subjects
from mailflow.limits.breaker import Breaker
from mailflow.limits.ledger import Answer, Ledger
from mailflow.limits.presence import OtherListeners, report
from mailflow.limits.redis_budgets import RedisBudgets
from mailflow.limits.rules import WITHIN, Rule, Verdict
from mailflow.limits.waiting import Waiter, Waiting

logger = structlog.get_logger(__name__)

TIMEOUT_SECONDS = 0.25
BEAT_SECONDS = 1.0
MIN_SECONDS_BETWEEN_REPORTS = 0.1
LARGE_CHANGE = 5  # connections; told before the next beat


class Limits:
    """One per process; made once and closed once. Its methods are for the thread of the loop that it is used on."""

    def __init__(
        self,
        redis_url: str,
        *,
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = TIMEOUT_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self.other_connections = 0  # of the other listeners, as last heard; 0 while Redis is away
        self._clock = clock
        self._timeout = timeout_seconds
        self._beat_seconds = beat_seconds
        self._budgets = RedisBudgets(redis_url)
        self._ledger = Ledger()
        self._breaker = Breaker()
        self._waiting = Waiting(self._ledger)
        self._others = OtherListeners()
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}".encode()
        self._beat = 0
        self._open_now = 0
        self._reported = 0
        self._reported_at = 0.0
        self._closed = False
        self._tasks: dict[str, asyncio.Task[None]] = {}  # at most one of each kind

    # --- limits -------------------------------------------------------------------------------------------------------

    def is_exempt(self, client_address: str) -> bool:
        """Whether SMTP_RATE_LIMIT_EXEMPT names the client; no limit is for it then."""
        ip = subjects.of_client(client_address).ip
        return ip is not None and any(ip in network for network in settings.SMTP_RATE_LIMIT_EXEMPT)

    def take(self, rule: Rule, subject: str, amount: int = 1) -> Verdict | asyncio.Future[Verdict]:
        """Count `amount`, or say that it would be over the limit: then nothing is counted.

        A limit of 0 and the subject "" are never exceeded.
        """
        if not rule.limit or not subject:
            return WITHIN
        now = self._clock()
        answer = self._ledger.spend(rule, subject, amount, now)
        if answer is Answer.WITHIN:
            return WITHIN
        if answer is Answer.EXCEEDED or amount > rule.limit:
            return self._ledger.exceeded(rule, subject, now)
        return self._ask(rule, subject, amount, now)

    def take_all(self, counted: Sequence[tuple[Rule, str]], amount: int = 1) -> Verdict | asyncio.Future[Verdict]:
        """`take` under each rule in turn, until one is exceeded; what was taken before that one stays taken."""
        for place, (rule, subject) in enumerate(counted):
            verdict = self.take(rule, subject, amount)
            if not isinstance(verdict, Verdict):
                return asyncio.ensure_future(self._take_rest(verdict, counted[place + 1 :], amount))
            if verdict.exceeded:
                return verdict
        return WITHIN

    def would_exceed(self, rule: Rule, subject: str) -> Verdict | asyncio.Future[Verdict]:
        """Whether one more would be over the limit; nothing is counted, and nothing is kept back for whoever asked."""
        if not rule.limit or not subject:
            return WITHIN
        now = self._clock()
        answer = self._ledger.look(rule, subject, now)
        if answer is Answer.WITHIN:
            return WITHIN
        if answer is Answer.EXCEEDED:
            return self._ledger.exceeded(rule, subject, now)
        return self._ask(rule, subject, 0, now)

    async def _take_rest(
        self, first: asyncio.Future[Verdict], rest: Sequence[tuple[Rule, str]], amount: int
    ) -> Verdict:
        verdict: Verdict | asyncio.Future[Verdict] = await first
        if isinstance(verdict, Verdict) and not verdict.exceeded and rest:
            verdict = self.take_all(rest, amount)
        return verdict if isinstance(verdict, Verdict) else await verdict

    # --- asking Redis -------------------------------------------------------------------------------------------------

    def _ask(self, rule: Rule, subject: str, amount: int, now: float) -> Verdict | asyncio.Future[Verdict]:
        if self._breaker.is_open or self._closed:
            self._try_again(now)
            return self._ledger.spend_alone(rule, subject, amount, now)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Verdict] = loop.create_future()
        self._waiting.add(rule, subject, Waiter(amount, answered, loop.time() + self._timeout))
        self._run("lease", self._lease)
        return answered

    async def _lease(self) -> None:
        """Ask for all that is waited for, batch by batch; whoever comes meanwhile is in the next one."""
        while self._waiting:
            now = self._clock()
            if self._breaker.is_open:
                self._waiting.settle_alone(now)
                return
            batch = self._waiting.next_batch(now)
            if not batch.groups:
                continue
            try:
                async with asyncio.timeout_at(batch.deadline):
                    leases = await self._budgets.lease(batch.requests, now)
                self._waiting.enter(batch, leases, now)
            except Exception as error:  # noqa: BLE001  (whatever the client raises: nobody may be left waiting)
                self._away(error)
            finally:
                self._waiting.take_back(batch, self._clock())

    # --- away and back ------------------------------------------------------------------------------------------------

    def _away(self, error: Exception) -> None:
        self.other_connections = 0
        self._others.forget()
        if self._breaker.failed(self._clock()):
            logger.warning("limits.redis_away", cause=type(error).__name__, effect="each listener counts by itself")

    def _try_again(self, now: float) -> None:
        if self._breaker.may_try(now):
            self._breaker.trying(now)
            self._run("report", self._report)

    # --- connections of all listeners ---------------------------------------------------------------------------------

    def publish_connections(self, open_now: int) -> None:
        """Say how many connections are open here; the first call starts a beat that repeats it every second."""
        self._open_now = open_now
        self._run("beat", self._keep_beating)
        soon = self._clock() - self._reported_at >= MIN_SECONDS_BETWEEN_REPORTS
        if abs(open_now - self._reported) >= LARGE_CHANGE and soon and not self._breaker.is_open:
            self._run("report", self._report)

    async def _keep_beating(self) -> None:
        while True:
            if self._breaker.is_open:
                self._try_again(self._clock())
            else:
                self._run("report", self._report)
            await asyncio.sleep(self._beat_seconds)

    async def _report(self) -> None:
        """Tell and hear; while Redis is away, this is the try that may bring it back."""
        self._beat += 1
        self._reported, self._reported_at = self._open_now, self._clock()
        try:
            async with asyncio.timeout(self._timeout):
                if self._breaker.is_open:
                    await self._budgets.drop()
                said = report(self._beat, self._reported)
                reports = await self._budgets.exchange(self._name, said, self._others.gone)
                if self._breaker.is_open:
                    await self._budgets.lease([], self._clock())  # the script must do, too
        except Exception as error:  # noqa: BLE001  (as in `_lease`)
            self._away(error)
            return
        self.other_connections = self._others.hear(reports, self._clock())
        if self._breaker.is_open:
            self._breaker.succeeded()
            logger.info("limits.redis_back", effect="the listeners share their limits again")

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _run(self, kind: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Start the work, unless work of its kind runs already."""
        if kind not in self._tasks and not self._closed:
            self._tasks[kind] = asyncio.get_running_loop().create_task(self._work(kind, work), name=f"limits.{kind}")

    async def _work(self, kind: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await work()
        finally:
            del self._tasks[kind]  # at once, not in a callback: whoever comes next starts it anew

    async def close(self) -> None:
        """Answer who still waits by our own count, take our report back and let Redis go; may be called twice."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()  # a task that never began did not do it
        self._waiting.settle_alone(self._clock())
        with contextlib.suppress(Exception):  # Redis may be away; the report ends by itself
            async with asyncio.timeout(self._timeout):
                if self._beat and not self._breaker.is_open:
                    await self._budgets.withdraw(self._name)
                await self._budgets.drop()
