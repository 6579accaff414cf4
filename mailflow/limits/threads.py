"""The shared limits for code in threads (the API): the same budgets and the same words as for the listeners.

One trip to Redis for a block, none while the block lasts. While Redis is away each process counts by itself, and tries
again after a pause (docs/adr/0009).
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import structlog
from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mailflow.limits.breaker import Breaker
from mailflow.limits.ledger import Answer, Lease, LeaseRequest, Ledger
from mailflow.limits.redis_budgets import LEASE, PREFIX
from mailflow.limits.rules import Rule

logger = structlog.get_logger(__name__)

TIMEOUT_SECONDS = 0.25
MAX_LEFT = 50_000


@dataclass(frozen=True, slots=True)
class Budget:
    """What a caller has of a limit: whether this one was within it, how many more are, and when it begins anew."""

    allowed: bool
    rule: Rule
    remaining: int
    resets_in_seconds: int
    words: str = ""


class ThreadLimits:
    """One per process; safe for many threads."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(
            url, socket_connect_timeout=TIMEOUT_SECONDS, socket_timeout=TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0)
        )
        self._script: Any = self._client.register_script(LEASE)
        self._ledger = Ledger()
        self._left: dict[tuple[str, str], int] = {}  # of the shared budget, when it was last asked
        self._breaker = Breaker()
        self._lock = threading.Lock()

    def take(self, rule: Rule, subject: str, amount: int = 1) -> Budget | None:
        """Spend, and say what is left; None where the rule is off or there is nobody to count."""
        return self._decide(rule, subject, amount) if rule.limit and subject else None

    def look(self, rule: Rule, subject: str) -> Budget | None:
        """Say what one more would hear, without counting it."""
        return self._decide(rule, subject, 0) if rule.limit and subject else None

    def _decide(self, rule: Rule, subject: str, amount: int) -> Budget:
        with self._lock:  # a trip to Redis is short, and has an end
            now = time.time()
            answer = self._ledger_says(rule, subject, amount, now)
            if answer is Answer.ASK:
                answer = self._ask(rule, subject, amount, now)
            return self._budget(rule, subject, answer, now)

    def _ledger_says(self, rule: Rule, subject: str, amount: int, now: float) -> Answer:
        if amount:
            return self._ledger.spend(rule, subject, amount, now)
        return self._ledger.look(rule, subject, now)

    def _ask(self, rule: Rule, subject: str, amount: int, now: float) -> Answer:
        if self._breaker.is_open and not self._breaker.may_try(now):
            return self._alone(rule, subject, amount, now)
        self._breaker.trying(now)
        request = self._ledger.request(rule, subject, amount, now)
        try:
            lease = self._lease(request, now)
        except Exception as error:  # noqa: BLE001  (whatever the client raises: the request goes on)
            if self._breaker.failed(now):
                logger.warning("limits.redis_away", cause=type(error).__name__, effect="each process counts by itself")
            return self._alone(rule, subject, amount, now)
        if self._breaker.is_open:
            self._breaker.succeeded()
            logger.info("limits.redis_back", effect="the processes share their limits again")
        self._ledger.granted(request, lease, now)
        if len(self._left) >= MAX_LEFT:
            self._left.clear()
        self._left[rule.name, subject] = lease.left
        answer = self._ledger_says(rule, subject, amount, now)
        if answer is Answer.ASK:  # a look found something left; a wish was not granted
            return Answer.EXCEEDED if amount else Answer.WITHIN
        return answer

    def _lease(self, request: LeaseRequest, now: float) -> Lease:
        arguments = [int(now * 1000), request.rule.limit, request.window_ms, request.need, request.block, request.debt]
        return Lease(*self._script(keys=[PREFIX + request.key], args=arguments))

    def _alone(self, rule: Rule, subject: str, amount: int, now: float) -> Answer:
        verdict = self._ledger.spend_alone(rule, subject, amount, now)
        return Answer.EXCEEDED if verdict.exceeded else Answer.WITHIN

    def _budget(self, rule: Rule, subject: str, answer: Answer, now: float) -> Budget:
        in_hand, ends_at = self._ledger.state(rule, subject, now)
        seconds = max(1, round(ends_at - now))
        if answer is Answer.EXCEEDED:
            return Budget(False, rule, 0, seconds, rule.words(subject))
        shared = 0 if self._breaker.is_open else self._left.get((rule.name, subject), 0)
        return Budget(True, rule, max(0, min(rule.limit, in_hand + shared)), seconds)


_lock = threading.Lock()


def current() -> ThreadLimits:
    """Return this process's limits; a child after a fork gets its own."""
    with _lock:
        return _of_process(os.getpid(), settings.REDIS_URL)


@lru_cache(maxsize=2)
def _of_process(_pid: int, url: str) -> ThreadLimits:
    return ThreadLimits(url)
