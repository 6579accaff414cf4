"""How the accept leg reaches the queue: mailflow's `Handoff`, answered with rows and a doorbell."""

from __future__ import annotations

from collections.abc import Sequence

from mailflow.spool.accepted import Accepted
from queue import enqueue
from queue.ringer import Ringer


class QueueHandoff:
    """One per process; named by the setting HANDOFF."""

    def __init__(self) -> None:
        self._ringer = Ringer()

    def enqueue(self, accepted: Sequence[Accepted]) -> list[int]:
        return enqueue.write_entries(accepted)

    def ring(self, entry_ids: Sequence[int]) -> None:
        self._ringer.ring(entry_ids)
