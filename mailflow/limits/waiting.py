"""Who waits for a lease: grouped by budget, asked for in batches, answered in the order of coming.

No Redis here: `Limits` carries a batch there and brings the answer. Futures are this loop's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mailflow.limits.ledger import Answer, Lease, LeaseRequest, Ledger
from mailflow.limits.rules import WITHIN, Rule, Verdict

MAX_BUDGETS_A_BATCH = 500  # Redis does nothing else while it serves one


@dataclass(slots=True)
class Waiter:
    """One question: `amount` is 0 for a look; `deadline` is in the loop's time."""

    amount: int
    answered: asyncio.Future[Verdict]
    deadline: float


@dataclass(slots=True)
class Group:
    """All who wait for one budget."""

    rule: Rule
    subject: str
    waiters: list[Waiter]

    @property
    def need(self) -> int:
        return sum(waiter.amount for waiter in self.waiters)


@dataclass(slots=True)
class Batch:
    """Groups on their way to Redis, with a request for each; `deadline` is that of whoever has waited longest."""

    groups: list[Group] = field(default_factory=list)
    requests: list[LeaseRequest] = field(default_factory=list)
    deadline: float = float("inf")
    is_answered: bool = False


class Waiting:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._groups: OrderedDict[tuple[str, str], Group] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, rule: Rule, subject: str, waiter: Waiter) -> None:
        group = self._groups.get((rule.name, subject))
        if group is None:
            self._groups[rule.name, subject] = Group(rule, subject, [waiter])
        else:
            group.waiters.append(waiter)

    def next_batch(self, now: float) -> Batch:
        """Take out the next groups, without those whom the last lease can serve; it may be empty."""
        batch = Batch()
        while self._groups and len(batch.groups) < MAX_BUDGETS_A_BATCH:
            _, group = self._groups.popitem(last=False)
            self._settle(group, now, looked=False)
            if group.waiters:
                batch.groups.append(group)
                batch.requests.append(self._ledger.request(group.rule, group.subject, group.need, now))
                batch.deadline = min(batch.deadline, *(waiter.deadline for waiter in group.waiters))
        return batch

    def enter(self, batch: Batch, leases: Sequence[Lease], asked_at: float) -> None:
        for request, lease in zip(batch.requests, leases, strict=True):
            self._ledger.granted(request, lease, asked_at)
        batch.is_answered = True

    def take_back(self, batch: Batch, now: float) -> None:
        """Answer whom the leases serve; the others wait on, before those who came meanwhile."""
        for group in batch.groups:
            self._settle(group, now, looked=batch.is_answered)
            if group.waiters:
                later = self._groups.pop((group.rule.name, group.subject), None)
                group.waiters += later.waiters if later else []
                self._groups[group.rule.name, group.subject] = group

    def settle_alone(self, now: float) -> None:
        """Answer everybody by this process's own count."""
        groups, self._groups = self._groups, OrderedDict()
        for group in groups.values():
            self._settle(group, now, looked=False)
            for waiter in group.waiters:
                if not waiter.answered.done():
                    verdict = self._ledger.spend_alone(group.rule, group.subject, waiter.amount, now)
                    waiter.answered.set_result(verdict)

    def _settle(self, group: Group, now: float, *, looked: bool) -> None:
        """Answer whom the ledger can answer; `looked`: the shared budget was asked, so what is not empty has some."""
        rest = []
        for waiter in group.waiters:
            if waiter.answered.done():  # its session is gone
                continue
            if waiter.amount:
                answer = self._ledger.spend(group.rule, group.subject, waiter.amount, now)
            else:
                answer = self._ledger.look(group.rule, group.subject, now)
                answer = Answer.WITHIN if looked and answer is Answer.ASK else answer
            if answer is Answer.ASK:
                rest.append(waiter)
            else:
                within = answer is Answer.WITHIN
                waiter.answered.set_result(WITHIN if within else self._ledger.exceeded(group.rule, group.subject, now))
        group.waiters = rest
