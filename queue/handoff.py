"""How the accept leg reaches the queue: mailflow's `Handoff`, answered with rows and a doorbell."""

from __future__ import annotations

from collections.abc import Sequence

from mailflow.handoff import Turn
from mailflow.spool.accepted import Accepted
from queue import control, enqueue
from queue.models import Entry
from queue.ringer import Ringer


class QueueHandoff:
    """One per process; named by the setting HANDOFF."""

    def __init__(self) -> None:
        self._ringer = Ringer()

    def enqueue(self, accepted: Sequence[Accepted]) -> list[int]:
        return enqueue.write_entries(accepted)

    def ring(self, entry_ids: Sequence[int]) -> None:
        self._ringer.ring(entry_ids)

    def start_domain(self, domain: str, *, actor: str) -> int:
        return control.retry_now(Entry.objects.filter(domain=domain, status__in=Entry.OPEN), actor=actor)

    def turn(self, domains: Sequence[str]) -> Turn:
        """Say whether there is mail. To hand it over a session that the client opened is not possible yet."""
        waits = Entry.objects.filter(domain__in=domains, status__in=Entry.OPEN).exists()
        return Turn.UNABLE if waits else Turn.NO_MAIL
