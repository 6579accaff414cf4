"""The one place that names whoever takes accepted messages over: a dotted path in the setting HANDOFF.

mailflow knows this protocol and nothing of the queue behind it; tests put `MemoryHandoff` there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string

from mailflow.spool.accepted import Accepted


class Handoff(Protocol):
    """What mailflow asks of the relay leg."""

    def enqueue(self, accepted: Sequence[Accepted]) -> list[int]:
        """Write one queue entry per recipient in the caller's open transaction; return their ids."""
        ...

    def ring(self, entry_ids: Sequence[int]) -> None:
        """Wake the workers after the commit; must not block, may be lost (the sweep finds the entries)."""
        ...


class MemoryHandoff:
    """Keeps what it was given; for tests and benchmarks of the accept leg alone."""

    def __init__(self) -> None:
        self.accepted: list[Accepted] = []
        self.rung: list[int] = []

    def enqueue(self, accepted: Sequence[Accepted]) -> list[int]:
        self.accepted.extend(accepted)
        return list(range(len(self.accepted)))

    def ring(self, entry_ids: Sequence[int]) -> None:
        self.rung.extend(entry_ids)


@lru_cache(maxsize=1)
def current() -> Handoff:
    """Return the configured handoff; one per process."""
    return cast(Handoff, import_string(settings.HANDOFF)())
