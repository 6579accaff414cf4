"""Count what happens, in memory, and add it to the database about once a second.

The sums are the whole system's and outlive every process; what a process had counted in its last second may die with
it. A process that counts calls `start()` once; without it (tests, commands) nothing is written until `flush()`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from django.db import Error, connection, transaction
from django.utils import timezone

from mailflow.models.counter import Counter, Gauge

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
RENEW_SECONDS = 5.0
STARTED = "process.started_at_ms"

HISTOGRAMS: Mapping[str, tuple[int, ...]] = {
    "processing_ms": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
    "message_octets": (1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
}
OVER = "inf"
MAX_COUNTED = 2000  # single counts kept before they are summed up


def bucket_name(name: str, bound: object) -> str:
    return f"{name}.le_{bound}"


_BUCKET_NAMES = {name: [bucket_name(name, bound) for bound in (*bounds, OVER)] for name, bounds in HISTOGRAMS.items()}
_SUM_NAMES = {name: f"{name}.sum_thousandths" for name in HISTOGRAMS}


class Counters:
    """One per process; its methods may be called from any thread and never touch the database, except `flush`."""

    def __init__(self) -> None:
        self._started = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._sums: dict[str, int] = defaultdict(int)
        self._counted: deque[tuple[str, int]] = deque()
        self._gauges: dict[str, int] = {}
        self._changed = False
        self._renewed = 0.0
        self._thread: threading.Thread | None = None
        self._process = f"{socket.gethostname()[:60]}:{os.getpid()}:{time.time_ns() // 1_000_000}"

    def after_fork(self) -> None:
        """Begin anew in the child: what was counted before the fork is the parent's to write."""
        self._reset()
        if self._started:
            self.gauge(STARTED, time.time_ns() // 1_000_000)

    def forget(self) -> None:
        """Drop what was counted and is not written yet; each test begins so."""
        self._sum_up()
        with self._lock:
            self._sums.clear()

    def add(self, name: str, amount: int = 1) -> None:
        # A deque's append needs no lock, which threads that count at the same time would wait for.
        self._counted.append((name, amount))
        if len(self._counted) > MAX_COUNTED:
            self._sum_up()
        if self._thread is None:
            self._ensure_thread()

    def _sum_up(self) -> None:
        """Add what was counted to the sums."""
        with self._lock:
            for _ in range(len(self._counted)):
                name, amount = self._counted.popleft()
                self._sums[name] += amount

    def gauge(self, name: str, value: int) -> None:
        """Say what a live figure of this process is now."""
        with self._lock:
            self._changed = self._changed or self._gauges.get(name) != value
            self._gauges[name] = value
        if self._thread is None:
            self._ensure_thread()

    def observe(self, name: str, value: float) -> None:
        """Put a value into one of `HISTOGRAMS`; its sum is kept in thousandths."""
        bounds = HISTOGRAMS[name]
        place = bisect_left(bounds, value)
        bucket = _BUCKET_NAMES[name][place]
        self.add(bucket)
        self.add(_SUM_NAMES[name], round(value * 1000))

    def start(self) -> None:
        """Write from now on, in a thread of this process and of every process forked from it."""
        self._started = True
        self.gauge(STARTED, time.time_ns() // 1_000_000)

    def stop(self) -> None:
        """Write what is left and take the process's gauges back; for a clean end."""
        self._started = False
        with self._lock:
            self._gauges.clear()
        self.flush()
        try:
            Gauge.objects.filter(process=self._process).delete()
        except Error as error:
            log.warning("gauges not removed: %s", error)

    def flush(self) -> None:
        """Add what was counted since the last time; on a database error it is kept for the next."""
        with self._flushing:
            self._sum_up()
            with self._lock:
                sums, self._sums = self._sums, defaultdict(int)
                gauges = dict(self._gauges) if self._gauges_are_due() else {}
                self._changed = False
            try:
                self._write(sums, gauges)
                self._renewed = time.monotonic() if gauges else self._renewed
            except Error as error:
                log.warning("counters not written, kept for later: %s", error)
                with self._lock:
                    self._changed = True
                    for name, amount in sums.items():
                        self._sums[name] += amount

    def _gauges_are_due(self) -> bool:
        return self._changed or time.monotonic() - self._renewed > RENEW_SECONDS

    def _write(self, sums: Mapping[str, int], gauges: Mapping[str, int]) -> None:
        if not sums and not gauges:
            return
        now, process = timezone.now(), self._process
        # Sorted, so that two processes take the rows' locks in the same order.
        with transaction.atomic():
            add_now([(name, amount) for name, amount in sorted(sums.items()) if amount])
            rows = [
                Gauge(name=name, process=process, value=value, updated_at=now) for name, value in sorted(gauges.items())
            ]
            Gauge.objects.bulk_create(
                rows, update_conflicts=True, unique_fields=["name", "process"], update_fields=["value", "updated_at"]
            )

    def _ensure_thread(self) -> None:
        if not self._started or self._thread is not None:
            return
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="counters", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._started:
            time.sleep(FLUSH_SECONDS)
            self.flush()
            connection.close_if_unusable_or_obsolete()
        connection.close()


def add_now(amounts: Sequence[tuple[str, int]]) -> None:
    """Add to the counters in the caller's transaction; `amounts` sorted by name, so that no two block each other."""
    if not amounts:
        return
    table = connection.ops.quote_name(Counter._meta.db_table)
    marks = ", ".join("(%s, %s)" for _ in amounts)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (name, value) VALUES {marks}"  # noqa: S608  (constant names)
            f" ON CONFLICT (name) DO UPDATE SET value = {table}.value + excluded.value",
            [value for pair in amounts for value in pair],
        )


_own = Counters()
os.register_at_fork(after_in_child=_own.after_fork)
add = _own.add
gauge = _own.gauge
observe = _own.observe
start = _own.start
stop = _own.stop
flush = _own.flush
forget = _own.forget
