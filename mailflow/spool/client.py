"""The listener's end of its writer process (`spool.writer`): hands over, hears the results, starts it if it dies.

While there is no writer, and for what is large, the listener commits by itself (`spool.group`): a writer that is slow
to start, or dead, costs speed and no mail. Whoever waited for one that died hears 451, for nobody knows whether it had
committed (RFC 5321 §6.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings

from mailflow.errors import Refused, Unavailable
from mailflow.events import NewEvent
from mailflow.spool import write
from mailflow.spool.accepted import Accepted, Receipt
from mailflow.spool.commit import MAX_WAITING_NOTES, NO_STORAGE, dropped
from mailflow.spool.frames import Frames, Work, pack_work
from mailflow.spool.group import MAX_WAITING_OCTETS, Done, GroupCommit

logger = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds before a dead writer is started again, doubled each time
PATIENCE_SECONDS = 90.0  # longer than SQLite waits for its lock: a writer that says nothing for so long is ended
END_SECONDS = 3.0  # what the writer gets for its last commit


def start_process(their_end: socket.socket) -> subprocess.Popen[bytes]:
    """Start a writer that inherits its end of the socket pair; it ends when ours is closed, however that happens."""
    number = their_end.fileno()
    argv = [sys.executable, str(settings.BASE_DIR / "manage.py"), "spoolwriter", "--fd", str(number)]
    return subprocess.Popen(argv, pass_fds=[number], stdin=subprocess.DEVNULL)


class WriterClient(asyncio.Protocol):
    """The spool of a listener (`spool.group.Spool`); what does not come from its loop goes to the one behind it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        start: Callable[[socket.socket], subprocess.Popen[bytes]] = start_process,
    ) -> None:
        self._loop = loop
        self._start_process = start
        self._own = GroupCommit()
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: Any = None  # asyncio's; uvloop's is no subclass of it
        self._frames = Frames()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[Accepted, Done]] = {}
        self._octets = 0
        self._messages: list[tuple[int, Accepted]] = []
        self._notes: list[NewEvent] = []
        self._dropped_notes = 0
        self._is_ready = False
        self._is_stopping = False
        self._is_sending = False  # `_send` will be called
        self._pause = FIRST_PAUSE
        self._again: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a writer takes messages just now."""
        return self._is_ready

    # --- the writer's life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a writer; it is used from the moment that it says it is ready."""
        self._again = None
        self._starting = self._loop.create_task(self._start())

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = self._start_process(theirs)
            self._frames = Frames()
            self._ended.clear()
            await self._loop.create_unix_connection(lambda: self, sock=ours)
        except OSError as error:
            ours.close()
            logger.error("spool.writer_not_started", cause=str(error))
            self._start_again()

    def _start_again(self) -> None:
        if not self._is_stopping:
            self._again = self._loop.call_later(self._pause, self.start)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def stop(self) -> None:
        """Let the writer commit what it has, and end it."""
        self._is_stopping = True
        if self._again is not None:
            self._again.cancel()
        if self._starting is not None:
            await self._starting
        if self._transport is not None:
            self._send(is_last=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._ended.wait()
            if self._transport is not None:
                self._transport.abort()
        if self._process is not None:
            await asyncio.to_thread(_reap, self._process)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """The writer is gone: what it had is in doubt, what it had not got yet is committed here."""
        was_ready, self._is_ready, self._transport = self._is_ready, False, None
        if self._watch is not None:
            self._watch.cancel()
        self._ended.set()
        unsent = {number for number, _ in self._messages}
        in_doubt = [(number, *found) for number, found in self._waiting.items()]
        self._waiting.clear()
        self._octets = 0
        self._messages.clear()
        for number, accepted, done in in_doubt:
            if number in unsent:
                self._put_own(accepted, done)
            else:
                _resolve(done, Unavailable(NO_STORAGE, "the writer process ended"))
        for note in self._take_notes():
            self._own.note(note)
        if self._is_stopping:
            return
        logger.error("spool.writer_died", waited=len(in_doubt), was_ready=was_ready)
        if self._process is not None:
            self._loop.run_in_executor(None, _reap, self._process)
        self._start_again()

    # --- work out, results in -----------------------------------------------------------------------------------------

    def put(self, accepted: Accepted, done: Done) -> None:
        if not self._is_ready or write.is_large(accepted) or done.loop is not self._loop:
            self._own.put(accepted, done)
            return
        size = len(accepted.content)
        if self._octets + size > MAX_WAITING_OCTETS and self._octets:
            raise Unavailable(NO_STORAGE, f"{self._octets} octets are waiting for the database already")
        self._octets += size
        if not self._waiting:
            self._heard_at = self._loop.time()
        number = next(self._numbers)
        self._waiting[number] = (accepted, done)
        self._messages.append((number, accepted))
        self._send_soon()

    def note(self, event: NewEvent) -> None:
        if not self._is_ready:
            self._own.note(event)
        elif len(self._notes) >= MAX_WAITING_NOTES:
            self._dropped_notes += 1
        else:
            self._notes.append(event)
            self._send_soon()

    def _send_soon(self) -> None:
        """Send with whatever else comes in this turn of the loop."""
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send)

    def _send(self, *, is_last: bool = False) -> None:
        self._is_sending = False
        if self._transport is None or not (self._messages or self._notes or is_last):
            return
        messages, self._messages = self._messages, []
        self._transport.write(pack_work(Work(messages, self._take_notes(), is_last)))

    def _take_notes(self) -> list[NewEvent]:
        notes, self._notes = self._notes, []
        if self._dropped_notes:
            notes.append(dropped(self._dropped_notes))
            self._dropped_notes = 0
        return notes

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._frames.feed(data)
        for results in self._frames.results():
            if not self._is_ready:
                self._is_ready = True
                self._pause = FIRST_PAUSE
                self._look()
                logger.info("spool.writer_ready")
            for number, reply, why, rule in results:
                accepted, done = self._waiting.pop(number)
                self._octets -= len(accepted.content)
                if reply is None:
                    _resolve(done, Receipt(accepted.message_id))
                else:
                    _resolve(done, Refused(reply, why, rule=rule) if rule else Unavailable(reply, why))

    def _look(self) -> None:
        """End a writer that has work and says nothing: its sessions would wait for as long as their clients do."""
        if not self._is_ready or self._transport is None:
            return
        if self._waiting and self._heard_at + PATIENCE_SECONDS < self._loop.time():
            logger.error("spool.writer_is_stuck", waiting=len(self._waiting))
            if self._process is not None:
                self._process.kill()
            self._transport.abort()
            return
        self._watch = self._loop.call_later(PATIENCE_SECONDS / 10, self._look)

    def _put_own(self, accepted: Accepted, done: Done) -> None:
        try:
            self._own.put(accepted, done)
        except Unavailable as error:
            done.resolve(error)


def _resolve(done: Done, result: Receipt | Exception) -> None:
    try:
        done.resolve(result)
    except Exception:  # one session's trouble must not keep the others waiting
        logger.exception("spool.answer_failed")


def _reap(process: subprocess.Popen[Any]) -> None:
    """Wait for the end of a process whose socket is closed; it has nothing left to do."""
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
