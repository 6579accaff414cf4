"""The one place that names whoever takes accepted messages over: a dotted path in the setting HANDOFF.

mailflow knows this protocol and nothing of the queue behind it; tests put `MemoryHandoff` there.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string

from mailflow.spool.accepted import Accepted


class Turn(enum.Enum):
    """What came of the wish to turn a session around (RFC 2645 §4)."""

    NO_MAIL = "no mail"
    UNABLE = "unable"  # there is mail, and it cannot be given over this session just now


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

    def turn(self, domains: Sequence[str]) -> Turn:
        """Whether, and how, mail for the domains can be given over the session that asks (RFC 2645)."""
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

    def turn(self, domains: Sequence[str]) -> Turn:
        return Turn.UNABLE if any(self.waiting.get(domain) for domain in domains) else Turn.NO_MAIL


@lru_cache(maxsize=1)
def current() -> Handoff:
    """Return the configured handoff; one per process."""
    return cast(Handoff, import_string(settings.HANDOFF)())
