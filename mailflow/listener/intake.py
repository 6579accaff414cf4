"""One message on its way in: a bounded piece of it in memory, the rest in a file that a thread writes.

The event loop only appends to a buffer. What the disk cannot take as fast as it comes makes the connection stop
reading, so that a hundred sessions with fifty megabytes each need a hundred times `MEMORY_OCTETS` and no more.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import structlog

from mailflow.errors import Unavailable
from mailflow.smtp.data import ChunkWindow, DataWindow, has_bare_line_end, with_whole_line_ends
from mailflow.smtp.reply import Reply
from mailflow.spool.large import SpoolFile

logger = structlog.get_logger(__name__)

MEMORY_OCTETS = 1 << 20  # what a message may have before it goes to a file; equals a chunk of the spool
LEAST_MEMORY_OCTETS = 64 << 10
SHARED_OCTETS = 128 << 20  # beyond this, together, messages go to their files sooner
BEHIND_OCTETS = 1 << 20  # waiting for the disk

STORAGE_FULL = Reply(452, "3.1", "Insufficient system storage; try again later")


class Rooms:
    """What the intakes of one event loop share: the folder, the threads, how many they are."""

    def __init__(self, folder: Path, threads: Executor, loop: asyncio.AbstractEventLoop) -> None:
        self.folder = folder
        self.threads = threads
        self.loop = loop
        self.open = 0

    @property
    def memory_octets(self) -> int:
        """How much of a message may stay in memory just now."""
        return max(LEAST_MEMORY_OCTETS, min(MEMORY_OCTETS, SHARED_OCTETS // max(1, self.open)))


class Intake:
    """Feed it what arrives; ask for its content when it is complete; `close` it in any case.

    `mend` makes bare line ends whole. `on_relief` is called on the loop when the disk has caught up after `is_behind`.
    """

    def __init__(self, limit: int, rooms: Rooms, on_relief: Callable[[], None], *, mend: bool) -> None:
        self._limit = limit
        self._rooms = rooms
        self._mend = mend
        self._window: DataWindow | ChunkWindow = DataWindow()
        self._writer: _FileWriter | None = None
        self._on_relief = on_relief
        self._gone = 0  # octets that left the window
        self._is_open = True
        self.is_over_limit = False  # so far that what came was thrown away
        rooms.open += 1

    @property
    def octets(self) -> int:
        """How much has arrived; of DATA the latest transparency dots are among it."""
        return self._gone + len(self._window)

    @property
    def is_behind(self) -> bool:
        """Whether the connection should stop reading until `on_relief`."""
        return self._writer is not None and self._writer.waiting_octets > BEHIND_OCTETS

    def feed_data(self, data: bytes | bytearray) -> bytes | None:
        """Take octets of DATA; return None while more are needed, else what stands behind the end of data."""
        window = self._window
        assert isinstance(window, DataWindow)
        rest = window.feed(data)
        if rest is None and len(window) > LEAST_MEMORY_OCTETS:
            self._make_room()
        return rest

    def begin_chunks(self) -> None:
        """What comes is BDAT's, not DATA's; call it before anything was fed."""
        self._window = ChunkWindow()

    def feed_chunk(self, data: bytes | bytearray) -> None:
        window = self._window
        assert isinstance(window, ChunkWindow)
        window.feed(data)
        if len(window) > LEAST_MEMORY_OCTETS:
            self._make_room()

    def _make_room(self) -> None:
        # The slack is for transparency dots that are still in the window.
        if self.is_over_limit or self.octets > self._limit + MEMORY_OCTETS:
            self.is_over_limit = True
            self._gone += len(self._window.drain())
        elif len(self._window) > self._rooms.memory_octets:
            piece = self._window.drain()
            self._gone += len(piece)
            if self._writer is None:
                self._writer = _FileWriter(self._rooms, self._on_relief, mend=self._mend)
            self._writer.write(piece)

    def small_content(self) -> bytes | None:
        """Return the whole message where it is in memory, else None; once, when it is complete."""
        if self._writer is not None:
            return None
        octets = self._window.finish()
        return with_whole_line_ends(octets) if self._mend and has_bare_line_end(octets) else octets

    async def large_content(self) -> SpoolFile:
        """Return the file that has it where `small_content` does not; once. Raises `Unavailable` for a full disk."""
        writer = self._writer
        assert writer is not None
        writer.write(self._window.finish())
        return await writer.finished()

    def close(self) -> None:
        """Give back memory and disk; may be called twice."""
        if self._is_open:
            self._is_open = False
            self._rooms.open -= 1
        if self._writer is not None:
            self._writer.close()


class _FileWriter:
    """Writes pieces in order, one job in the threads at a time; for the loop's thread, but where it says otherwise."""

    def __init__(self, rooms: Rooms, on_relief: Callable[[], None], *, mend: bool) -> None:
        self._rooms = rooms
        self._mend = mend
        self._on_relief = on_relief
        self._lock = threading.Lock()
        self._pieces: deque[bytes] = deque()
        self._file: SpoolFile | None = None
        self._error: Exception | None = None
        self._is_writing = False
        self._is_closed = False
        self._finished: asyncio.Future[None] | None = None
        self.waiting_octets = 0

    def write(self, piece: bytes) -> None:
        if not piece:
            return
        with self._lock:
            self._pieces.append(piece)
            self.waiting_octets += len(piece)
            if self._is_writing:
                return
            self._is_writing = True
        self._rooms.threads.submit(self._work)

    async def finished(self) -> SpoolFile:
        """Wait until all is written; raises `Unavailable`."""
        with self._lock:
            if self._is_writing:
                self._finished = self._rooms.loop.create_future()
        if self._finished is not None:
            await self._finished
        if self._error is not None or self._file is None:
            raise Unavailable(STORAGE_FULL, f"the file of an incoming message: {self._error}")
        return self._file

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._pieces.clear()
            if self._file is not None and not self._is_writing:
                self._file.close()

    def _work(self) -> None:
        """In a thread: write until nothing waits."""
        while (piece := self._next()) is not None:
            try:
                if self._file is None:
                    self._file = SpoolFile(self._rooms.folder)
                if self._error is None:
                    mend = self._mend and has_bare_line_end(piece)
                    self._file.append(with_whole_line_ends(piece) if mend else piece)
            except Exception as error:  # noqa: BLE001  (whatever it is: the session waits for the end of this)
                logger.error("smtp.intake_failed", cause=f"{type(error).__name__}: {error}")
                self._error = error
            with self._lock:
                self.waiting_octets -= len(piece)
                relieved = self.waiting_octets <= BEHIND_OCTETS
            if relieved:
                self._call(self._on_relief)

    def _next(self) -> bytes | None:
        with self._lock:
            if self._pieces:
                return self._pieces.popleft()
            self._is_writing = False
            if self._is_closed and self._file is not None:
                self._file.close()
            finished = self._finished
        if finished is not None:
            self._call(lambda: _set(finished))
        return None

    def _call(self, function: Callable[[], object]) -> None:
        if not self._rooms.loop.is_closed():
            self._rooms.loop.call_soon_threadsafe(function)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
