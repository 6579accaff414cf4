"""Identifiers made by the application: sortable by time, unique without asking the database."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import secrets
import threading
import time

_EPOCH_MS = 1_704_067_200_000  # 2024-01-01, so that 41 bits of milliseconds last until 2093

MESSAGE_ID_PREFIX = "msg_"
MESSAGE_ID_LENGTH = len(MESSAGE_ID_PREFIX) + 26


def new_message_id() -> str:
    """Return `msg_` and 26 hexadecimal digits: 48 bits of milliseconds, then 56 random bits."""
    return f"{MESSAGE_ID_PREFIX}{time.time_ns() // 1_000_000:012x}{os.urandom(7).hex()}"


def time_prefix(moment: dt.datetime) -> str:
    """Return what message ids made at `moment` have behind their prefix; it compares with ids as a string."""
    return f"{int(moment.timestamp() * 1000):012x}"


def first_message_id(at: dt.datetime) -> str:
    """Return the lower bound of the ids made at or after that moment: a time range as a range of the primary key."""
    return MESSAGE_ID_PREFIX + time_prefix(at)


def first_row_id(at: dt.datetime) -> int:
    """The same for `new_row_id`."""
    return max(int(at.timestamp() * 1000) - _EPOCH_MS, 0) << 22


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
