"""The writer process: commits what one listener accepts, in a process where no event loop wants the interpreter's lock.

Run by `manage.py spoolwriter`, which a listener starts (docs/adr/0011). It commits whatever has come while its last
commit ran, as `spool.group` does, and answers; it ends when the listener does.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress

from mailflow.errors import Refused, Unavailable
from mailflow.events import NewEvent
from mailflow.spool.accepted import Accepted
from mailflow.spool.commit import (
    MAX_BATCH_MESSAGES,
    MAX_BATCH_NOTES,
    MAX_WAITING_NOTES,
    PAUSE_SECONDS,
    Item,
    commit,
    how_many,
)
from mailflow.spool.frames import Frames, Result, pack_results

READ_OCTETS = 1 << 20


def serve(listener: socket.socket) -> None:
    """Commit until the listener says that it was its last, or is gone; what is uncommitted then was never answered."""
    writer = _Writer(listener)
    with suppress(ConnectionError):  # nobody is left to be told
        listener.sendall(pack_results([]))  # ready
        while writer.read():
            writer.commit()


class _Writer:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._frames = Frames()
        self._messages: deque[tuple[int, Accepted]] = deque()
        self._notes: deque[NewEvent] = deque()
        self._is_last = False

    def read(self) -> bool:
        """Take what has come, waiting only where nothing is to do; False at the end."""
        while True:
            has_work = bool(self._messages or self._notes)
            if self._is_last or len(self._messages) >= MAX_BATCH_MESSAGES:
                return has_work
            try:
                data = self._listener.recv(READ_OCTETS, socket.MSG_DONTWAIT if has_work else 0)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._frames.feed(data)
            for work in self._frames.work():
                self._messages.extend(work.messages)
                self._notes.extend(work.notes)
                self._is_last = self._is_last or work.is_last

    def commit(self) -> None:
        """Commit one batch and tell how it went."""
        first = [self._messages[place] for place in range(min(len(self._messages), MAX_BATCH_MESSAGES))]
        batch = [self._messages.popleft() for _ in range(how_many([len(accepted.content) for _, accepted in first]))]
        notes = [self._notes.popleft() for _ in range(min(len(self._notes), MAX_BATCH_NOTES))]
        outcome = commit([Item(accepted) for _, accepted in batch], notes)
        if batch:
            told = [_told(number, result) for (number, _), result in zip(batch, outcome.results, strict=True)]
            self._listener.sendall(pack_results(told))
        if outcome.unwritten:
            room = max(0, MAX_WAITING_NOTES - len(self._notes))
            self._notes.extendleft(reversed(outcome.unwritten[:room]))
            if not self._messages:  # nobody waits for an answer, and the database is in trouble
                select.select([self._listener], [], [], PAUSE_SECONDS)


def _told(number: int, result: object) -> Result:
    if isinstance(result, Unavailable):
        return number, result.reply, result.cause, ""
    if isinstance(result, Refused):
        return number, result.reply, result.reason, result.rule
    return number, None, "", ""
