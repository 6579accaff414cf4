"""Shared budgets in memory, for tests: the same answers as `redis_budgets.py` (docs/adr/0009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailflow.limits.ledger import Lease, LeaseRequest


@dataclass(slots=True)
class _Budget:
    started_at_ms: int
    taken: int


class MemoryBudgets:
    """One for all the processes that share; each `lease` is atomic."""

    def __init__(self) -> None:
        self._budgets: dict[bytes, _Budget] = {}

    def lease(self, requests: Sequence[LeaseRequest], now: float) -> list[Lease]:
        return [self._lease(request, int(now * 1000)) for request in requests]

    def forget(self) -> None:
        """Lose everything, as an emptied Redis does."""
        self._budgets.clear()

    def _lease(self, request: LeaseRequest, now_ms: int) -> Lease:
        budget = self._budgets.get(request.key)
        if budget is None or now_ms >= budget.started_at_ms + request.window_ms:
            budget = _Budget(now_ms, 0)
        left = max(0, request.rule.limit - budget.taken - request.debt)
        granted = min(left, max(request.need, min(request.block, left // 4)))
        if granted + request.debt:
            budget.taken += granted + request.debt
            self._budgets[request.key] = budget
        return Lease(budget.started_at_ms, granted, left - granted)
