"""Admin pages; Django finds them here. The message's page is among them, since it joins the queue and mailflow."""

from queue.admin import (
    attempts,
    destinations,
    entries,
    messages,
    queue_actions,
    routes,
    sandbox_clock,
    suppressions,
    tls,
    warmup,
    workers,
)

__all__ = [
    "attempts",
    "destinations",
    "entries",
    "messages",
    "queue_actions",
    "routes",
    "sandbox_clock",
    "suppressions",
    "tls",
    "warmup",
    "workers",
]
