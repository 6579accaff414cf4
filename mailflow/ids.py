"""Identifiers made by the application: sortable by time, unique without asking the database."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import os
import secrets
import threading
import time

_EPOCH_MS = 1_704_067_200_000  # 2024-01-01, so that 41 bits of milliseconds last until 2093

CLOCK_SLACK = dt.timedelta(minutes=1)  # for a clock that was put back a little

MESSAGE_ID_PREFIX = "msg_"
MESSAGE_ID_LENGTH = len(MESSAGE_ID_PREFIX) + 26


class _MessageIds:
    """`msg_` and 26 hexadecimal digits: 48 bits of milliseconds, then 56 random bits.

    Within a millisecond those of a process grow, by a random step each, so that they sort as they were made: lists and
    whoever takes mail in order go by them. Starting in the lower half leaves room for millions of steps.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0, 0

    def __call__(self) -> str:
        now, chance = time.time_ns() // 1_000_000, int.from_bytes(os.urandom(7))
        with self._lock:
            moment, bits = self._last
            bits = bits + 1 + (chance >> 24) if now == moment else chance >> 1
            self._last = now, bits
        return f"{MESSAGE_ID_PREFIX}{now:012x}{bits:014x}"


new_message_id = _MessageIds()


def thread_id_of(internet_message_id: str) -> str:
    """Return `thr_` and 26 hexadecimal digits that tell of a Message-ID: those of a thread share its first one's."""
    return f"thr_{hashlib.sha256(internet_message_id.encode('utf-8', 'replace')).hexdigest()[:26]}"


def time_prefix(moment: dt.datetime) -> str:
    """Return what message ids made at `moment` have behind their prefix; it compares with ids as a string."""
    return f"{int(moment.timestamp() * 1000):012x}"


def first_message_id(at: dt.datetime) -> str:
    """Return the lower bound of the ids made at or after that moment: a time range as a range of the primary key."""
    return MESSAGE_ID_PREFIX + time_prefix(at)


def first_row_id(at: dt.datetime) -> int:
    """The same for `new_row_id`."""
    return max(int(at.timestamp() * 1000) - _EPOCH_MS, 0) << 22


def row_made_at(row_id: int) -> dt.datetime:
    """Return when `new_row_id` made it, in real time."""
    return dt.datetime.fromtimestamp(((row_id >> 22) + _EPOCH_MS) / 1000, dt.UTC)


def is_ahead(at: dt.datetime, row_id: int) -> bool:
    """Whether a row was dated in simulated time: later than it was written down."""
    return at - row_made_at(row_id) > CLOCK_SLACK


def new_trace_id() -> str:
    """Return the 16 characters that tie together all log lines and events of one connection or request."""
    return os.urandom(8).hex()


class _RowIds:
    """63-bit ids: 41 bits of milliseconds, 22 bits of a counter that starts anywhere in each process.

    Two processes share an id only if both count through the same 22-bit value within one millisecond; the unique key
    then refuses one of the two commits, which the client repeats.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._counter = itertools.count()

    def __call__(self) -> int:
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():  # after a fork both sides would count alike
                    self._counter = itertools.count(secrets.randbits(22))
                    self._pid = os.getpid()
        return ((time.time_ns() // 1_000_000 - _EPOCH_MS) << 22) | (next(self._counter) & 0x3FFFFF)


new_row_id = _RowIds()
