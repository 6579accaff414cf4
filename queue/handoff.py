"""How the accept leg reaches the queue: mailflow's `Handoff`, answered with rows and a doorbell."""

from __future__ import annotations

from collections.abc import Sequence

from accounts.models import TrailEntry
from mailflow.handoff import Caller, Turn, Turned
from mailflow.spool.accepted import Accepted
from queue import control, dialup, enqueue
from queue.models import Entry
from queue.ringer import Ringer
from queue.transports import odmr


class QueueHandoff:
    """One per process; named by the setting HANDOFF."""

    def __init__(self) -> None:
        self._ringer = Ringer()
        self._turned = odmr.Exchange(self.ring)

    def enqueue(self, accepted: Sequence[Accepted]) -> list[int]:
        return enqueue.write_entries(accepted)

    def ring(self, entry_ids: Sequence[int]) -> None:
        self._ringer.ring(entry_ids)

    def start_domain(self, domain: str, *, actor: str) -> int:
        if dialup.among([domain]):
            dialup.mark(domain)
        count = control.retry_now(Entry.objects.filter(domain=domain, status__in=Entry.OPEN), actor=actor)
        if count:  # hosts ask every few minutes, and mostly nothing waits
            words = f"{count:,} recipient{'s' if count != 1 else ''} attempted at once."
            TrailEntry.objects.create(kind="queue.etrn", actor=actor[:254], subject=domain[:254], detail=words)
        return count

    def turn(self, domains: Sequence[str], caller: Caller) -> Turned | Turn:
        """Mail of a domain that is delivered here waits for nobody, whatever its state."""
        if self._turned.sessions >= odmr.MAX_SESSIONS:
            return Turn.UNABLE
        return self._turned.begin(dialup.among(domains), caller) or Turn.NO_MAIL
