"""The transport that answers as it is told: for tests of whoever uses a transport."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Mapping

from queue.outcome import Outcome, from_reply
from queue.transports.base import Job, Route

DELIVERED = from_reply(250, "2.0.0 taken", transport="memory", next_hop="memory")


class MemoryTransport:
    """Implements `queue.transports.base.Transport`.

    `script[recipient]` holds outcomes to give in turn; without one the answer is `DELIVERED`. `jobs` are the deliveries
    asked for, noted before they are answered. While `gate` is cleared, deliveries wait; it may be set from any thread.
    """

    name = "memory"

    def __init__(self) -> None:
        self.jobs: list[tuple[Job, Route]] = []
        self.script: defaultdict[str, deque[Outcome]] = defaultdict(deque)
        self.gate = threading.Event()
        self.gate.set()
        self.is_closed = False

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
        self.jobs.append((job, route))
        if not self.gate.is_set():
            await asyncio.to_thread(self.gate.wait)
        return {recipient: self._answer(recipient) for recipient in job.recipients}

    async def close(self) -> None:
        self.is_closed = True

    def _answer(self, recipient: str) -> Outcome:
        planned = self.script.get(recipient)
        return planned.popleft() if planned else DELIVERED
