"""Rings the workers after a commit: ids in batches, from a thread of its own, so that a missing Redis holds up nobody.

A task costs Celery about a millisecond, whatever it carries: a lone message rings at once, a stream of them fifty times
a second. A ring may be lost; the sweep finds the entries (docs/adr/0002).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

import structlog

from queue.tasks import deliver

logger = structlog.get_logger(__name__)

MAX_IDS_A_TASK = 100
MAX_WAITING_IDS = 20_000
PAUSE_AFTER_FAILURE_SECONDS = 1.0
MIN_SECONDS_BETWEEN_RINGS = 0.05  # a ring costs Celery's client as much as the message cost us
RING_EXPIRES_SECONDS = 60  # without workers Redis must not fill with rings


class Ringer:
    """Batches whatever came while the last ring was sent."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ids: list[int] = []
        self._pid = 0
        self._away = False
        self._rang_at = 0.0

    def ring(self, entry_ids: Sequence[int]) -> None:
        """Queue the ids for ringing; never blocks."""
        with self._changed:
            if self._pid != os.getpid():  # at first use, and again after a fork
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="ringer", daemon=True).start()
            if len(self._ids) < MAX_WAITING_IDS:
                self._ids.extend(entry_ids)
            if len(self._ids) >= MAX_IDS_A_TASK or len(self._ids) == len(entry_ids):
                self._changed.notify()  # else the thread is awake, or sleeps with an end

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ids:
                    self._changed.wait()
                self._collect()
                batch, self._ids = self._ids[:MAX_IDS_A_TASK], self._ids[MAX_IDS_A_TASK:]
            self._send(batch)

    def _collect(self) -> None:
        """Wait, with the lock, until a task is full or the last ring is long enough ago."""
        while len(self._ids) < MAX_IDS_A_TASK:
            left = self._rang_at + MIN_SECONDS_BETWEEN_RINGS - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _send(self, batch: list[int]) -> None:
        self._rang_at = time.monotonic()
        try:
            deliver.apply_async((batch,), retry=False, expires=RING_EXPIRES_SECONDS)
        except Exception as error:  # noqa: BLE001  (whatever the broker's client raises: the sweep finds the entries)
            if not self._away:
                logger.warning("queue.ring_failed", cause=f"{type(error).__name__}: {error}")
            self._away = True
            with self._changed:
                self._changed.wait(PAUSE_AFTER_FAILURE_SECONDS)
        else:
            self._away = False
