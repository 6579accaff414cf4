"""The group commit: many waiting sessions, one transaction, one sync (docs/adr/0003).

One writer thread a process takes whatever arrived while the last commit ran; nobody waits for a batch to fill. Content
above 1 MiB is first committed in chunks by another thread, a transaction each, so that it holds up nobody's commit.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog
from django.db import DataError, IntegrityError, OperationalError, connection, transaction

from mailflow import events, handoff
from mailflow.content import split
from mailflow.errors import Unavailable
from mailflow.smtp.reply import Reply
from mailflow.spool import write
from mailflow.spool.accepted import Accepted, Receipt

MAX_BATCH_MESSAGES = 100
MAX_BATCH_OCTETS = 8 << 20
MAX_WAITING_OCTETS = 256 << 20
MAX_WAITING_NOTES = 10_000

logger = structlog.get_logger(__name__)

STORAGE_FULL = Reply(452, "3.1", "Insufficient system storage; try again later")
NO_STORAGE = Reply(451, "3.0", "Message cannot be stored just now; try again later")


class Done(Protocol):
    """Who is to hear how it went: `resolve` is called once, on the thread of `loop`, or where that is None on any."""

    loop: asyncio.AbstractEventLoop | None

    def resolve(self, result: Receipt | Exception) -> None: ...


class Waiter:
    """What a thread waits on."""

    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self._event = threading.Event()
        self._result: Receipt | Exception | None = None

    def resolve(self, result: Receipt | Exception) -> None:
        self._result = result
        self._event.set()

    def wait(self, seconds: float) -> Receipt:
        """Return the receipt, raise what the commit raised, or `Unavailable` after `seconds` (it may yet be stored)."""
        if not self._event.wait(seconds):
            raise Unavailable(NO_STORAGE, f"no commit within {seconds} s")
        if isinstance(self._result, Exception):
            raise self._result
        if self._result is None:
            raise Unavailable(NO_STORAGE, "woken without a result")
        return self._result


@dataclass(frozen=True, slots=True)
class _Waiting:
    """`digest` only where the content was hashed and committed ahead."""

    accepted: Accepted
    done: Done
    digest: str = ""

    @property
    def octets(self) -> int:
        """What its commit has to write."""
        return 0 if self.digest else len(self.accepted.content)

    def encoded(self) -> write.Encoded:
        return (
            write.Encoded(self.accepted, self.digest, chunks_stored=True)
            if self.digest
            else write.encode(self.accepted)
        )


class GroupCommit:
    """The spool of one process; safe to call from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._waiting: list[_Waiting] = []
        self._notes: list[events.NewEvent] = []
        self._dropped_notes = 0
        self._octets = 0
        self._idle = False
        self._large = ThreadPoolExecutor(2, thread_name_prefix="spool-large")
        threading.Thread(target=self._run, name="spool", daemon=True).start()

    def put(self, accepted: Accepted, done: Done) -> None:
        """Queue a message for the next commit; `done` gets a `Receipt` or `Unavailable`, which is raised when full."""
        size = _octets_in_memory(accepted)
        with self._changed:
            if self._octets + size > MAX_WAITING_OCTETS and self._octets:
                raise Unavailable(NO_STORAGE, f"{self._octets} octets are waiting for the database already")
            self._octets += size
        if write.is_large(accepted):
            self._large.submit(self._store_large, accepted, done)
        else:
            self._append(_Waiting(accepted, done))

    def note(self, event: events.NewEvent) -> None:
        """Write an event with the next commit; used for refusals, where no reply waits for it."""
        with self._changed:
            if len(self._notes) >= MAX_WAITING_NOTES:
                self._dropped_notes += 1
                return
            self._notes.append(event)
            self._wake()

    def _append(self, waiting: _Waiting) -> None:
        with self._changed:
            self._waiting.append(waiting)
            self._wake()

    def _wake(self) -> None:
        if self._idle:
            self._idle = False
            self._changed.notify()

    def _run(self) -> None:
        while True:
            batch, notes = self._take()
            ids = self._commit(batch, notes)
            if ids:
                _ring(ids)

    def _take(self) -> tuple[list[_Waiting], list[events.NewEvent]]:
        with self._changed:
            while not self._waiting and not self._notes:
                self._idle = True
                self._changed.wait()
            count, octets = 0, 0
            for waiting in self._waiting[:MAX_BATCH_MESSAGES]:
                octets += waiting.octets
                if count and octets > MAX_BATCH_OCTETS:
                    break
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            notes, self._notes = self._notes[:1000], self._notes[1000:]
            if self._dropped_notes:
                notes.append(_dropped_event(self._dropped_notes))
                self._dropped_notes = 0
        return batch, notes

    def _commit(self, batch: list[_Waiting], notes: list[events.NewEvent]) -> list[int]:
        """Commit and answer; what fails together because of one message's data is tried one by one."""
        try:
            ids = _write([waiting.encoded() for waiting in batch], notes)
        except (DataError, IntegrityError, ValueError) as error:
            if len(batch) + len(notes) > 1:
                ids = [entry for waiting in batch for entry in self._commit([waiting], [])]
                for note in notes:
                    self._commit([], [note])
                return ids
            self._answer([(waiting, _unavailable(error)) for waiting in batch])
            return []
        except Exception as error:  # noqa: BLE001  (whatever it is: the sessions must be told, the thread must live)
            self._answer([(waiting, _unavailable(error)) for waiting in batch])
            return []
        self._answer([(waiting, Receipt(waiting.accepted.message_id)) for waiting in batch])
        return ids

    def _answer(self, results: Sequence[tuple[_Waiting, Receipt | Exception]]) -> None:
        """Wake the sessions; those of one event loop with a single call into it."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Done, Receipt | Exception]]] = {}
        with self._changed:
            self._octets -= sum(_octets_in_memory(waiting.accepted) for waiting, _ in results)
        for waiting, result in results:
            done = waiting.done
            if done.loop is None:
                done.resolve(result)
            else:
                by_loop.setdefault(done.loop, []).append((done, result))
        for loop, answers in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed: its sessions are gone, their messages are kept
                loop.call_soon_threadsafe(_resolve, answers)

    def _store_large(self, accepted: Accepted, done: Done) -> None:
        digest = hashlib.sha256()
        try:
            for ordinal, chunk in enumerate(split(accepted.content)):
                digest.update(chunk)
                with transaction.atomic():
                    write.write_chunk(accepted.message_id, ordinal, chunk)
        except Exception as error:  # noqa: BLE001  (as in _commit)
            self._answer([(_Waiting(accepted, done), _unavailable(error))])
        else:
            self._append(_Waiting(accepted, done, digest.hexdigest()))


def _ring(entry_ids: Sequence[int]) -> None:
    try:
        handoff.current().ring(entry_ids)
    except Exception:  # a bell that breaks must not end the spool: the sweep finds the entries
        logger.exception("spool.ring_failed")


def _write(batch: Sequence[write.Encoded], notes: Sequence[events.NewEvent]) -> list[int]:
    with transaction.atomic():
        return write.write_accepted(batch, notes)


def _resolve(answers: Sequence[tuple[Done, Receipt | Exception]]) -> None:
    for done, result in answers:
        try:
            done.resolve(result)
        except Exception:  # one session's trouble must not keep the others waiting
            logger.exception("spool.answer_failed")


def _octets_in_memory(accepted: Accepted) -> int:
    return len(accepted.content) if isinstance(accepted.content, bytes) else 0


def _unavailable(error: Exception) -> Unavailable:
    """Translate a failed commit: a full disk is 452, all else 451; the next commit gets a fresh connection."""
    cause = f"{type(error).__name__}: {error}"
    logger.error("spool.commit_failed", cause=cause)
    try:
        connection.close()
    except Exception as closing:  # noqa: BLE001  (it is broken already)
        logger.warning("spool.close_failed", cause=str(closing))
    full = isinstance(error, OperationalError) and any(
        words in str(error).lower() for words in ("disk is full", "no space left", "could not extend file")
    )
    return Unavailable(STORAGE_FULL if full else NO_STORAGE, cause)


def _dropped_event(count: int) -> events.NewEvent:
    return events.NewEvent(kind="refused", summary=f"{count} further refusals were too many to note one by one.")


_lock = threading.Lock()
_instance: GroupCommit | None = None
_instance_pid = 0


def current() -> GroupCommit:
    """Return this process's spool; made at first use, so that every process after a fork has a thread of its own."""
    global _instance, _instance_pid
    if _instance is None or _instance_pid != os.getpid():
        with _lock:
            if _instance is None or _instance_pid != os.getpid():
                _instance, _instance_pid = GroupCommit(), os.getpid()
    return _instance
