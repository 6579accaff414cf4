"""Sessions kept open between messages, a few for each next hop."""

from __future__ import annotations

import asyncio

from queue.transports.base import NextHop
from queue.transports.options import SmtpOptions
from queue.transports.session import Session

# Sessions of the smarthost are logged in with our credentials, so the same host as a plain MX is something else.
Key = tuple[NextHop, bool]


class SessionPool:
    """Belongs to one event loop. A session is either here, idle, or in the hands of one delivery."""

    def __init__(self, options: SmtpOptions) -> None:
        self._options = options
        self._idle: dict[Key, list[Session]] = {}
        self._total = 0
        self._leaving: set[asyncio.Task[None]] = set()
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
            self._total -= 1
            if not kept:
                del self._idle[key]
            if session.is_quiet and now - session.idle_since < self._options.idle_seconds:
                return session
            self._retire(session)
        return None

    def give(self, session: Session) -> None:
        """Keep a session for the next message, or end it."""
        options = self._options
        key = (session.hop, session.smarthost)
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
        if self._reaper is None:
            self._reaper = loop.call_later(options.idle_seconds / 2, self._reap)

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
                self._retire(session)
        self._idle.clear()
        self._total = 0
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
                self._total -= 1
                self._retire(session)
        self._idle[key] = staying
        if not staying:
            del self._idle[key]

    def _retire(self, session: Session) -> None:
        if not session.is_quiet:
            session.abort()
            return
        task = asyncio.get_running_loop().create_task(session.quit())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
