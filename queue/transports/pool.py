"""Sessions kept open between messages, a few for each next hop."""

from __future__ import annotations

import asyncio
from collections import Counter

from queue.transports.base import NextHop, Relay
from queue.transports.options import SmtpOptions
from queue.transports.session import Session

# A session with a relay is logged in with somebody's account, and the hop has what TLS was asked for: whoever wants
# another account or another proof of the same host gets another session.
Key = tuple[NextHop, Relay | None]


class SessionPool:
    """Belongs to one event loop. A session is either here, idle, or in the hands of one delivery."""

    def __init__(self, options: SmtpOptions) -> None:
        self._options = options
        self._idle: dict[Key, list[Session]] = {}
        self._total = 0
        self._leaving: dict[asyncio.Task[None], str] = {}  # with the destination that it counts for
        self._kept: Counter[str] = Counter()  # idle and leaving ones, by destination
        self._reaper: asyncio.TimerHandle | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return self._total

    def take(self, key: Key) -> Session | None:
        """Return the session used last; those that died or grew old meanwhile are dropped on the way."""
        now = asyncio.get_running_loop().time()
        kept = self._idle.get(key)
        while kept:
            session = kept.pop()
            self._uncount(session)
            if not kept:
                del self._idle[key]
            if session.is_quiet and now - session.idle_since < self._options.idle_seconds:
                return session
            self._retire(session)
        return None

    def give(self, session: Session) -> None:
        """Keep a session for the next message, or end it."""
        options = self._options
        key = (session.hop, session.relay)
        kept = self._idle.get(key, [])
        if (
            self._is_closed
            or not session.is_quiet
            or session.transactions >= options.messages_per_session
            or session.timeouts != options.timeouts
            or len(kept) >= options.pool_size
            or self._total >= options.pool_total
        ):
            self._retire(session)
            return
        loop = asyncio.get_running_loop()
        session.idle_since = loop.time()
        kept.append(session)
        self._idle[key] = kept
        self._total += 1
        self._kept[session.destination] += 1
        if self._reaper is None:
            self._reaper = loop.call_later(options.idle_seconds / 2, self._reap)

    def kept(self, destination: str) -> int:
        """Return how many connections of the destination are open and in no delivery's hands."""
        return self._kept.get(destination, 0)

    def trim(self, destination: str, count: int) -> None:
        """End the destination's idle sessions that are more than `count`."""
        idle = self.kept(destination) - sum(leaving == destination for leaving in self._leaving.values())
        for key, kept in list(self._idle.items()):
            if idle <= count:
                return
            mine = [session for session in kept if session.destination == destination][: idle - count]
            idle -= len(mine)
            self._keep(key, [session for session in kept if session not in mine])

    async def make_room(self, destination: str, count: int) -> None:
        """The same, for a new connection of the destination: returns when they are closed."""
        if self.kept(destination) > count:
            self.trim(destination, count)
            leaving = [task for task, name in self._leaving.items() if name == destination]
            if leaving:
                await asyncio.wait(leaving)  # each is bounded by the timeout of QUIT

    def change(self, options: SmtpOptions) -> None:
        """Obey other options from now on; idle sessions that these would not keep are ended."""
        self._options = options
        for key, kept in list(self._idle.items()):
            staying = [session for session in kept if session.timeouts == options.timeouts][-options.pool_size :]
            self._keep(key, staying)

    async def close(self) -> None:
        """Say QUIT on every idle session, all at once; no session is kept from now on."""
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        for kept in self._idle.values():
            for session in kept:
                self._uncount(session)
                self._retire(session)
        self._idle.clear()
        if self._leaving:
            await asyncio.wait(self._leaving)  # each is bounded by the timeout of QUIT

    def _reap(self) -> None:
        """End what has been idle for too long; runs while anything is idle."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._options.idle_seconds
        for key, kept in list(self._idle.items()):
            self._keep(key, [session for session in kept if session.is_quiet and session.idle_since > oldest])
        self._reaper = loop.call_later(self._options.idle_seconds / 2, self._reap) if self._idle else None

    def _keep(self, key: Key, staying: list[Session]) -> None:
        """Leave only these of the idle sessions for one next hop."""
        for session in self._idle[key]:
            if session not in staying:
                self._uncount(session)
                self._retire(session)
        self._idle[key] = staying
        if not staying:
            del self._idle[key]

    def _retire(self, session: Session) -> None:
        if not session.is_quiet:
            session.abort()
            return
        task = asyncio.get_running_loop().create_task(session.quit())
        self._leaving[task] = session.destination
        self._kept[session.destination] += 1
        task.add_done_callback(self._has_left)

    def _has_left(self, task: asyncio.Task[None]) -> None:
        self._forget(self._leaving.pop(task))

    def _uncount(self, session: Session) -> None:
        self._total -= 1
        self._forget(session.destination)

    def _forget(self, destination: str) -> None:
        self._kept[destination] -= 1
        if not self._kept[destination]:
            del self._kept[destination]
