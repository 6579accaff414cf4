"""How sandbox mail is delivered: by SMTP to the simulated hosts, and captured where none of them takes it.

The relay leg's own steps (`delivery`) do the work, signatures included. Nothing here counts against the limits of live
mail: a host has slots of its own, and what is too much for a slow one waits in the database.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence

from django.utils import timezone

from queue import delivery
from queue.claim import Parcel
from queue.hops import Destination
from queue.outcome import Outcome
from queue.results import Result
from queue.signer import Signer
from queue.simulation.host import Pause
from queue.simulation.internet import IMPATIENCE_SECONDS, SESSIONS, SimulatedTransport, host_of
from queue.simulation.personas import Host
from queue.transports.base import Route, Transport
from queue.transports.sandbox import SandboxTransport

CAPTURES = 50  # messages that are captured at once
MAX_WAITING = 200  # parcels for a host that takes its time
_LEISURELY = (Host.SLOW, Host.SILENT)

Read = Callable[[str], Awaitable[bytes | None]]  # from a message's id to its octets


class Sandbox:
    """Belongs to one event loop. `read` loads the content of a message that was not read ahead."""

    def __init__(
        self, read: Read, signer: Signer, *, pause: Pause = asyncio.sleep, impatience: float = IMPATIENCE_SECONDS
    ) -> None:
        self._read = read
        self._signer = signer
        self._simulated = SimulatedTransport(pause=pause, impatience=impatience)
        self._captured = SandboxTransport()
        self._slots = {host: asyncio.Semaphore(SESSIONS if host else CAPTURES) for host in (*Host, None)}
        self._waiting: Counter[Host | None] = Counter()

    async def close(self) -> None:
        await self._simulated.close()

    def admit(self, group: Sequence[Parcel]) -> bool:
        """Say whether the host of a group can do with more, and count it where it can, until it has `left`.

        Who takes seconds for a message must not fill the worker with them.
        """
        host = host_of(group[0].recipient)
        if host in _LEISURELY and self._waiting[host] >= MAX_WAITING:
            return False
        self._waiting[host] += len(group)
        return True

    def left(self, group: Sequence[Parcel]) -> None:
        self._waiting[host_of(group[0].recipient)] -= len(group)

    async def deliver(self, parcels: Sequence[Parcel], begin: Callable[[], None] = lambda: None) -> list[Result]:
        """Deliver one message to recipients of one host, or capture it, as `groups` put them together.

        `begin` is called when their turn has come.
        """
        first = parcels[0]
        host = host_of(first.recipient)
        transport: Transport = self._captured if host is None else self._simulated
        async with self._slots[host]:
            begin()
            octets = first.content or await self._read(first.message_id)
            if octets is None:
                return [delivery.content_missing(parcel, timezone.now()) for parcel in parcels]
            return await delivery.deliver_foreign(
                parcels, octets, router=_nowhere, signer=self._signer, transport=transport
            )


def groups(parcels: Sequence[Parcel]) -> list[list[Parcel]]:
    """Put together what travels together: one message, one host or none, one time of its clock."""
    found: defaultdict[object, list[Parcel]] = defaultdict(list)
    for parcel in parcels:
        found[parcel.message_id, host_of(parcel.recipient), parcel.ahead].append(parcel)
    return list(found.values())


async def _nowhere(destinations: Sequence[Destination]) -> dict[Destination, Route | Outcome]:
    return dict.fromkeys(destinations, Route(()))
