"""The group commit of one process: many waiting sessions, one transaction, one sync (docs/adr/0003).

One writer thread takes whatever arrived while the last commit ran; nobody waits for a batch to fill. Content above 1
MiB is first committed in chunks by another thread, a transaction each, so that it holds up nobody's commit. A listener,
which commits more than all others, has a process for it (`spool.writer`), and this for what is large.
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
from django.db import transaction

from mailflow import events
from mailflow.content import split
from mailflow.errors import Unavailable
from mailflow.spool import write
from mailflow.spool.accepted import Accepted, Receipt
from mailflow.spool.commit import (
    MAX_BATCH_MESSAGES,
    MAX_BATCH_NOTES,
    MAX_WAITING_NOTES,
    NO_STORAGE,
    PAUSE_SECONDS,
    Item,
    commit,
    dropped,
    how_many,
    unavailable,
)

MAX_WAITING_OCTETS = 256 << 20

logger = structlog.get_logger(__name__)


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
            raise Unavailable(NO_STORAGE, f"no commit within {seconds} s", in_doubt=True)
        if isinstance(self._result, Exception):
            raise self._result
        if self._result is None:
            raise Unavailable(NO_STORAGE, "woken without a result")
        return self._result


class Spool(Protocol):
    """Where accepted messages go, and refusals; for any thread."""

    def put(self, accepted: Accepted, done: Done) -> None:
        """Queue a message for the next commit; `done` gets a `Receipt` or `Unavailable`, which is raised when full."""
        ...

    def note(self, event: events.NewEvent) -> None:
        """Write an event with the next commit; used for refusals, where no reply waits for it."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    item: Item
    done: Done


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
        size = _octets_in_memory(accepted)
        with self._changed:
            if self._octets + size > MAX_WAITING_OCTETS and self._octets:
                raise Unavailable(NO_STORAGE, f"{self._octets} octets are waiting for the database already")
            self._octets += size
        if write.is_large(accepted):
            self._large.submit(self._store_large, accepted, done)
        else:
            self._append(_Waiting(Item(accepted), done))

    def note(self, event: events.NewEvent) -> None:
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
            outcome = commit([waiting.item for waiting in batch], notes)
            self._answer(list(zip(batch, outcome.results, strict=True)))
            if outcome.unwritten:
                self._keep(outcome.unwritten)

    def _keep(self, notes: Sequence[events.NewEvent]) -> None:
        """Put events back that could not be written; where only they wait, they are tried again after a pause."""
        with self._changed:
            kept = notes[: max(0, MAX_WAITING_NOTES - len(self._notes))]
            self._notes[:0] = kept
            self._dropped_notes += len(notes) - len(kept)
            if not self._waiting:
                self._idle = True
                self._changed.wait(PAUSE_SECONDS)
                self._idle = False

    def _take(self) -> tuple[list[_Waiting], list[events.NewEvent]]:
        with self._changed:
            while not self._waiting and not self._notes:
                self._idle = True
                self._changed.wait()
            count = how_many([waiting.item.octets for waiting in self._waiting[:MAX_BATCH_MESSAGES]])
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            notes, self._notes = self._notes[:MAX_BATCH_NOTES], self._notes[MAX_BATCH_NOTES:]
            if self._dropped_notes:
                notes.append(dropped(self._dropped_notes))
                self._dropped_notes = 0
        return batch, notes

    def _answer(self, results: Sequence[tuple[_Waiting, Receipt | Exception]]) -> None:
        """Wake the sessions; those of one event loop with a single call into it."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Done, Receipt | Exception]]] = {}
        with self._changed:
            self._octets -= sum(_octets_in_memory(waiting.item.accepted) for waiting, _ in results)
        for waiting, result in results:
            done = waiting.done
            if done.loop is None:
                done.resolve(result)
            else:
                by_loop.setdefault(done.loop, []).append((done, result))
        for loop, answers in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed: its sessions are gone, their messages are kept
                loop.call_soon_threadsafe(resolve_all, answers)

    def _store_large(self, accepted: Accepted, done: Done) -> None:
        digest = hashlib.sha256()
        try:
            for ordinal, chunk in enumerate(split(accepted.content)):
                digest.update(chunk)
                with transaction.atomic():
                    write.write_chunk(accepted.message_id, ordinal, chunk)
        except Exception as error:  # noqa: BLE001  (as in _commit)
            self._answer([(_Waiting(Item(accepted), done), unavailable(error))])
        else:
            self._append(_Waiting(Item(accepted, digest.hexdigest()), done))


def resolve_all(answers: Sequence[tuple[Done, Receipt | Exception]]) -> None:
    """Tell those of one event loop, on its thread."""
    for done, result in answers:
        try:
            done.resolve(result)
        except Exception:  # one session's trouble must not keep the others waiting
            logger.exception("spool.answer_failed")


def _octets_in_memory(accepted: Accepted) -> int:
    return len(accepted.content) if isinstance(accepted.content, bytes) else 0


_lock = threading.Lock()
_instance: Spool | None = None
_instance_pid = 0


def current() -> Spool:
    """Return this process's spool; made at first use, so that every process after a fork has a thread of its own."""
    global _instance, _instance_pid
    if _instance is None or _instance_pid != os.getpid():
        with _lock:
            if _instance is None or _instance_pid != os.getpid():
                _instance, _instance_pid = GroupCommit(), os.getpid()
    return _instance


def use(spool: Spool | None) -> None:
    """Make `spool` this process's from now on; None for one of its own again."""
    global _instance, _instance_pid
    with _lock:
        _instance, _instance_pid = spool, os.getpid()
