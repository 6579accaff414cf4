"""The one place that names whoever takes accepted messages over: a dotted path in the setting HANDOFF.

mailflow knows this protocol and nothing of the queue behind it; tests put `MemoryHandoff` there.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string

from mailflow.spool.accepted import Accepted


class Turn(enum.Enum):
    """Why a session is not turned around (RFC 2645 §5.2.1)."""

    NO_MAIL = "no mail"
    UNABLE = "unable"  # there may be mail, and it cannot be given over this session just now


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for the mail of its domains: what it called itself, its address and port, and the account."""

    helo: str
    address: str
    port: int
    account: str


class Turned(Protocol):
    """Mail in hand for a session that turns around; exactly one of `run` and `give_back` is called, once.

    For the thread of the connection's loop. Whatever becomes of the session, each recipient ends delivered, bounced or
    waiting as before.
    """

    async def run(self, transport: asyncio.Transport, take_over: Callable[[asyncio.Protocol], None]) -> None:
        """Be the client on the connection until there is no more mail, and end it; returns when all is written down.

        `take_over` is called at once with who gets what the connection brings from then on.
        """
        ...

    async def give_back(self) -> None:
        """The session was lost before it could be turned."""
        ...

    def wind_down(self) -> None:
        """Say QUIT after the message that is under way: the listener stops."""
        ...


class Handoff(Protocol):
    """What mailflow asks of the relay leg."""

    def enqueue(self, accepted: Sequence[Accepted]) -> list[int]:
        """Write one queue entry per recipient in the caller's open transaction; return their ids."""
        ...

    def ring(self, entry_ids: Sequence[int]) -> None:
        """Wake the workers after the commit; must not block, may be lost (the sweep finds the entries)."""
        ...

    def start_domain(self, domain: str, *, actor: str) -> int:
        """Make all that waits for the domain due at once (RFC 1985); return how many recipients that were."""
        ...

    def turn(self, domains: Sequence[str], caller: Caller) -> Turned | Turn:
        """Take mail of the domains in hand for the session that asks, or say why not (RFC 2645)."""
        ...


class MemoryHandoff:
    """Keeps what it was given; for tests and benchmarks of the accept leg alone."""

    def __init__(self) -> None:
        self.accepted: list[Accepted] = []
        self.rung: list[int] = []
        self.waiting: dict[str, int] = {}  # recipients by domain
        self.started: list[tuple[str, str]] = []

    def enqueue(self, accepted: Sequence[Accepted]) -> list[int]:
        self.accepted.extend(accepted)
        return list(range(len(self.accepted)))

    def ring(self, entry_ids: Sequence[int]) -> None:
        self.rung.extend(entry_ids)

    def start_domain(self, domain: str, *, actor: str) -> int:
        self.started.append((domain, actor))
        return self.waiting.get(domain, 0)

    def turn(self, domains: Sequence[str], caller: Caller) -> Turned | Turn:
        return Turn.UNABLE if any(self.waiting.get(domain) for domain in domains) else Turn.NO_MAIL


@lru_cache(maxsize=1)
def current() -> Handoff:
    """Return the configured handoff; one per process."""
    return cast(Handoff, import_string(settings.HANDOFF)())
