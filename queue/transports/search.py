"""Which host of a route is tried next, and when the search ends (RFC 5321 §5.1, §4.5.4.1); pure but for what it keeps.

Time ends a search, but not before two hosts were tried: one that says nothing must not hide the next for ever.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from queue.transports.base import NextHop

MAX_MARKS = 1000
Place = tuple[str, int]  # address and port: whoever hangs there hangs for all domains that lead there
K = TypeVar("K", bound=Hashable)


def place_of(hop: NextHop) -> Place:
    return hop.address, hop.port


class Marks(Generic[K]):
    """What did badly, and until when it is tried last. Of too many the oldest is forgotten, in favour of its host."""

    def __init__(self) -> None:
        self._until: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def put(self, key: K, until: float) -> None:
        self._until.pop(key, None)  # so that they stand in the order of their times
        self._until[key] = until
        if len(self._until) > MAX_MARKS:
            del self._until[next(iter(self._until))]

    def renew(self, key: K, until: float) -> None:
        """Somebody finds out whether it is better now; until that is known, the others need not."""
        if key in self._until:
            self.put(key, until)

    def clear(self, key: K) -> None:
        self._until.pop(key, None)

    def until(self, key: K, now: float) -> float:
        """Return when its mark ends, 0 where it has none: least is best."""
        until = self._until.get(key, 0.0)
        return until if until > now else 0.0


class Search:
    """Gives the hops of one attempt, one after the other."""

    def __init__(self, hops: Iterable[NextHop], ends_at: float) -> None:
        self._left = list(hops)
        self._tried: list[NextHop] = []
        self._ends_at = ends_at

    @property
    def is_cut_short(self) -> bool:
        """Whether there are hops that were not tried, which for all that is known might have taken the mail."""
        return bool(self._left)

    def next(self, now: float) -> NextHop | None:
        left = self._owed() if self._tried and now >= self._ends_at else self._left
        if not left:
            return None
        hop = left[0]
        self._left.remove(hop)
        self._tried.append(hop)
        return hop

    def _owed(self) -> Sequence[NextHop]:
        """Return what is tried although the time is over: a second host, or where there is none a second address."""
        hosts = {hop.host for hop in self._tried}
        places = {place_of(hop) for hop in self._tried}
        if len(hosts) > 1 and len(places) > 1:
            return ()
        elsewhere = [hop for hop in self._left if place_of(hop) not in places]
        others = [hop for hop in elsewhere if hop.host not in hosts]
        return others or (elsewhere if len(places) == 1 else ())
