"""What waits for each domain and how much of it is under way; pure bookkeeping for the engine's loop.

A domain has a lane, and in it first attempts and retries wait apart and begin by turns. How many deliveries may run is
what the lane was given (`queue.pacing`). Lanes take turns, and what waits in one is bounded: a domain fills its own
lane and nobody else's. Of all deliveries, those to slow domains get half at most, and some are kept for domains that
are known to answer soon, so that hosts which hang are never all there is to wait for.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from queue.claim import Parcel

MAX_WAITING = 200  # parcels of one kind in a lane; more of them stay in the database
MAX_JOB_RECIPIENTS = 100
RESERVE_SHARE = 6  # one in so many deliveries is for domains that are known to answer soon


class Speed(enum.Enum):
    """What is known of a domain: its last delivery ended soon, nothing, or it was slow or out of reach."""

    FAST = "fast"
    UNKNOWN = "unknown"
    SLOW = "slow"

    __hash__ = object.__hash__  # each is itself and no other; Enum's own is written in Python, and asked all the time


_SPEEDS = tuple(Speed)


@dataclass(slots=True)
class Lane:
    """`limit`: deliveries at once; `messages`: how many may begin, None for any number.

    `has_more`: the database has more for it, which is fetched once there is room.
    """

    first: deque[Parcel] = field(default_factory=deque)
    retries: deque[Parcel] = field(default_factory=deque)
    limit: int = 0
    messages: int | None = None
    speed: Speed = Speed.UNKNOWN
    running: int = 0
    running_retries: int = 0
    is_turn_of_retries: bool = False
    has_more: bool = False

    @property
    def waiting(self) -> int:
        return len(self.first) + len(self.retries)

    @property
    def may_begin(self) -> bool:
        has_work = bool(self.first) or (bool(self.retries) and self._retries_may)
        return has_work and self.running < self.limit and self.messages != 0

    @property
    def _retries_may(self) -> bool:
        """Whether a retry leaves a connection for new mail, which must not wait for the end of what is slow."""
        return self.running_retries < max(1, self.limit - 1)

    def take(self) -> list[Parcel]:
        """Take the next message with those of its recipients that follow one another."""
        use_retries = bool(self.retries) and self._retries_may and (self.is_turn_of_retries or not self.first)
        self.is_turn_of_retries = not use_retries
        waiting = self.retries if use_retries else self.first
        first = waiting.popleft()
        taken = {first.recipient: first}
        while (
            waiting
            and _travel_together(waiting[0], first)
            and waiting[0].recipient not in taken
            and len(taken) < MAX_JOB_RECIPIENTS
        ):
            parcel = waiting.popleft()
            taken[parcel.recipient] = parcel
        self.running += 1
        self.running_retries += use_retries
        if self.messages is not None:
            self.messages -= 1
        return list(taken.values())


def is_retry(parcel: Parcel) -> bool:
    return parcel.attempts > 0


def _travel_together(one: Parcel, other: Parcel) -> bool:
    return one.message_id == other.message_id and one.route == other.route and one.is_sandbox == other.is_sandbox


class Lanes:
    """The lanes of one engine; belongs to its event loop. `max_running` may be changed at any time."""

    def __init__(self, max_running: int) -> None:
        self.max_running = max_running
        self.waiting = 0
        self._lanes: dict[str, Lane] = {}
        self._ready: dict[Speed, OrderedDict[str, None]] = {speed: OrderedDict() for speed in Speed}
        self._running = dict.fromkeys(Speed, 0)
        self._turn = 0
        self._full: dict[bool, set[str]] = {False: set(), True: set()}  # by whether retries are meant
        self._hungry: OrderedDict[str, None] = OrderedDict()
        self._domains: dict[str, dict[str, int]] = {}  # by message: where it waits, and how many of its parcels do

    def __contains__(self, domain: object) -> bool:
        return domain in self._lanes

    def __iter__(self) -> Iterator[tuple[str, Lane]]:
        return iter(self._lanes.items())

    @property
    def running(self) -> int:
        return sum(self._running.values())

    def running_of(self, domain: str) -> int:
        lane = self._lanes.get(domain)
        return 0 if lane is None else lane.running

    def demand_of(self, domain: str) -> int:
        """Return how many deliveries could run at once, at most."""
        lane = self._lanes.get(domain)
        return 0 if lane is None else min(lane.waiting + lane.running, self.max_running)

    def add(self, parcel: Parcel) -> None:
        lane = self._lanes.get(parcel.domain)
        if lane is None:
            lane = self._lanes[parcel.domain] = Lane()
        retry = is_retry(parcel)
        kind = lane.retries if retry else lane.first
        kind.append(parcel)
        self.waiting += 1
        domains = self._domains.setdefault(parcel.message_id, {})
        domains[parcel.domain] = domains.get(parcel.domain, 0) + 1
        if len(kind) >= MAX_WAITING:
            self._full[retry].add(parcel.domain)
            lane.has_more = True
        self._update(parcel.domain, lane)

    def give(self, domain: str, *, limit: int, messages: int | None, speed: Speed) -> None:
        """Set what a lane may do; nothing happens where there is none."""
        lane = self._lanes.get(domain)
        if lane is None:
            return
        lane.limit, lane.messages = limit, messages
        if speed is not lane.speed:
            self._ready[lane.speed].pop(domain, None)
            self._running[lane.speed] -= lane.running
            self._running[speed] += lane.running
            lane.speed = speed
        self._update(domain, lane)

    def next(self) -> list[Parcel] | None:
        """Return what to deliver next, and count it as running; None where nothing may begin."""
        for offset in range(len(_SPEEDS)):
            speed = _SPEEDS[(self._turn + offset) % len(_SPEEDS)]
            if self._ready[speed] and self._has_room(speed):
                self._turn += offset + 1
                domain = next(iter(self._ready[speed]))
                self._ready[speed].move_to_end(domain)
                return self._take(domain)
        return None

    def has_others(self, parcel: Parcel) -> bool:
        """Whether recipients of its message wait in other domains."""
        return any(domain != parcel.domain for domain in self._domains.get(parcel.message_id, ()))

    def take_along(self, taken: Sequence[Parcel], go_along: Callable[[Parcel], bool]) -> list[Parcel]:
        """Take out recipients of the message in other domains that may begin and are to go along.

        Not a word is said to their own hosts, so nothing of their domains is used up. A domain whose messages are
        counted, or that has to wait, keeps its own.
        """
        first = taken[0]
        found: dict[str, Parcel] = {}
        for domain in [domain for domain in self._domains.get(first.message_id, ()) if domain != first.domain]:
            if (room := MAX_JOB_RECIPIENTS - len(taken) - len(found)) <= 0:
                break
            lane = self._lanes[domain]
            if not lane.may_begin or lane.messages is not None:
                continue
            theirs = [
                parcel
                for waiting in (lane.first, lane.retries)
                for parcel in waiting
                if _travel_together(parcel, first) and go_along(parcel)
            ]
            found.update((parcel.recipient, parcel) for parcel in reversed(theirs[:room]))  # of two alike the first
            self._take_from(domain, lane, lambda parcel: found.get(parcel.recipient) is parcel)
        return list(found.values())

    def ended(self, domain: str, *, was_retry: bool) -> None:
        """Count a delivery out."""
        lane = self._lanes[domain]
        lane.running -= 1
        lane.running_retries -= was_retry
        self._running[lane.speed] -= 1
        self._update(domain, lane)

    def full(self, *, retries: bool) -> frozenset[str]:
        """Return the domains of which nothing more of this kind should be claimed for now."""
        return frozenset(self._full[retries])

    def hungry(self, count: int) -> list[str]:
        """Return domains for which more waits in the database, and whose lanes have room for it."""
        return [self._hungry.popitem(last=False)[0] for _ in range(min(count, len(self._hungry)))]

    def expect_more(self, domain: str) -> None:
        """Note that some of a domain's entries were fetched, and there may be more."""
        lane = self._lanes.get(domain)
        if lane is not None:
            lane.has_more = True
            self._update(domain, lane)

    @property
    def is_hungry(self) -> bool:
        return bool(self._hungry)

    def take_out(self, is_meant: Callable[[Parcel], bool]) -> list[Parcel]:
        """Take those out that have not begun and are meant."""
        return [parcel for domain in list(self._lanes) for parcel in self.take_out_of(domain, is_meant)]

    def take_out_of(self, domain: str, is_meant: Callable[[Parcel], bool] = lambda _: True) -> list[Parcel]:
        """The same for one domain."""
        lane = self._lanes.get(domain)
        if lane is None:
            return []
        return self._take_from(domain, lane, is_meant)

    def _take_from(self, domain: str, lane: Lane, is_meant: Callable[[Parcel], bool]) -> list[Parcel]:
        taken = [parcel for kind in (lane.first, lane.retries) for parcel in kind if is_meant(parcel)]
        if taken:
            lane.first = deque(parcel for parcel in lane.first if not is_meant(parcel))
            lane.retries = deque(parcel for parcel in lane.retries if not is_meant(parcel))
            self._count_out(taken)
            self._update(domain, lane)
        return taken

    def _count_out(self, parcels: Sequence[Parcel]) -> None:
        """Count parcels out that wait no more."""
        self.waiting -= len(parcels)
        for parcel in parcels:
            domains = self._domains[parcel.message_id]
            domains[parcel.domain] -= 1
            if not domains[parcel.domain]:
                del domains[parcel.domain]
                if not domains:
                    del self._domains[parcel.message_id]

    def empty(self) -> list[Parcel]:
        """Take everything out that has not begun."""
        return self.take_out(lambda _: True)

    def _take(self, domain: str) -> list[Parcel]:
        lane = self._lanes[domain]
        parcels = lane.take()
        self._count_out(parcels)
        self._running[lane.speed] += 1
        self._update(domain, lane)
        return parcels

    def _has_room(self, speed: Speed) -> bool:
        if self.running >= self.max_running:
            return False
        if speed is Speed.FAST:
            return True
        doubtful = self._running[Speed.SLOW] + self._running[Speed.UNKNOWN]
        if doubtful >= self.max_running - self.max_running // RESERVE_SHARE:
            return False
        return speed is Speed.UNKNOWN or self._running[Speed.SLOW] < max(1, self.max_running // 2)

    def _update(self, domain: str, lane: Lane) -> None:
        """Bring what is kept beside the lanes up to date with one."""
        if lane.may_begin:
            self._ready[lane.speed].setdefault(domain)
        else:
            self._ready[lane.speed].pop(domain, None)
        for retry, kind in ((False, lane.first), (True, lane.retries)):
            if domain in self._full[retry] and len(kind) < MAX_WAITING // 2:
                self._full[retry].discard(domain)
        if lane.has_more and not any(domain in full for full in self._full.values()):
            lane.has_more = False
            self._hungry[domain] = None
        if not lane.waiting and not lane.running:
            self._ready[lane.speed].pop(domain, None)
            del self._lanes[domain]
