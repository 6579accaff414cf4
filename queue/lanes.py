"""What waits for each domain and how much of it is under way; pure bookkeeping for the engine's loop.

A few deliveries of one domain run at once and never more, domains take turns, and what waits for one domain is bounded:
a slow one fills its own lane and nobody else's.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from queue.claim import Parcel

MAX_WAITING = 200  # parcels a domain; more of them stay in the database
MAX_JOB_RECIPIENTS = 100


@dataclass(slots=True)
class _Lane:
    waiting: deque[Parcel] = field(default_factory=deque)
    running: int = 0
    was_full: bool = False

    def take(self) -> list[Parcel]:
        """Take the next message with those of its recipients that follow one another."""
        first = self.waiting.popleft()
        taken = {first.recipient: first}
        while (
            self.waiting
            and self.waiting[0].message_id == first.message_id
            and self.waiting[0].recipient not in taken
            and len(taken) < MAX_JOB_RECIPIENTS
        ):
            parcel = self.waiting.popleft()
            taken[parcel.recipient] = parcel
        return list(taken.values())


class Lanes:
    """The lanes of one engine; belongs to its event loop. `per_domain` may be changed at any time."""

    def __init__(self, per_domain: int) -> None:
        self.per_domain = per_domain
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()

    def add(self, parcel: Parcel) -> None:
        self._lanes.setdefault(parcel.domain, _Lane()).waiting.append(parcel)

    def next(self) -> list[Parcel] | None:
        """Return what to deliver next, and count it as running; None where nothing may begin."""
        for domain, lane in self._lanes.items():
            if lane.waiting and lane.running < self.per_domain:
                self._lanes.move_to_end(domain)
                lane.running += 1
                return lane.take()
        return None

    def ended(self, domain: str) -> bool:
        """Count a delivery out; return whether a lane that was full has room again."""
        lane = self._lanes[domain]
        lane.running -= 1
        has_room = lane.was_full and len(lane.waiting) < MAX_WAITING // 2
        if has_room:
            lane.was_full = False
        if not lane.waiting and not lane.running:
            del self._lanes[domain]
        return has_room

    def full(self) -> list[str]:
        """Return the domains that nothing more should be claimed for now."""
        found = [domain for domain, lane in self._lanes.items() if len(lane.waiting) >= MAX_WAITING]
        for domain in found:
            self._lanes[domain].was_full = True
        return found

    def take_out(self, is_meant: Callable[[Parcel], bool]) -> list[Parcel]:
        """Take those out that have not begun and are meant."""
        taken: list[Parcel] = []
        for domain, lane in list(self._lanes.items()):
            found = [parcel for parcel in lane.waiting if is_meant(parcel)]
            if found:
                lane.waiting = deque(parcel for parcel in lane.waiting if not is_meant(parcel))
                taken += found
                if not lane.waiting and not lane.running:
                    del self._lanes[domain]
        return taken

    def empty(self) -> list[Parcel]:
        """Take everything out that has not begun."""
        waiting = [parcel for lane in self._lanes.values() for parcel in lane.waiting]
        for lane in self._lanes.values():
            lane.waiting.clear()
        return waiting
