"""The transport of the demo: mail to the outside is captured (the queue keeps and shows it) and never sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from queue.outcome import Kind, Outcome
from queue.transports.base import Job, Route

CAPTURED = Outcome(
    Kind.DELIVERED,
    "captured by the sandbox; nothing left this machine",
    transport="sandbox",
    code=250,
    enhanced_code="2.0.0",
    next_hop="sandbox",
)
NOT_FILED = replace(
    CAPTURED, reply="captured by the sandbox, since it was sent with a test key; no mailbox got it", next_hop=""
)


class SandboxTransport:
    """Implements `queue.transports.base.Transport`; opens no connection, asks no DNS."""

    name = "sandbox"

    async def deliver(self, job: Job, route: Route) -> Mapping[str, Outcome]:
        return dict.fromkeys(job.recipients, CAPTURED)

    async def close(self) -> None:
        return None
