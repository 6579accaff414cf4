"""DNS answers kept in the process, bounded in number and in time (RFC 2308 §5 for the negative ones)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from accounts.dns.base import Answer

Records = Answer[Any] | None  # None: the name does not exist
Key = tuple[str, str]  # name and record type

MAX_TTL_SECONDS = 3600.0
MAX_NEGATIVE_TTL_SECONDS = 300.0  # a domain that somebody just set up must not stay missing for long


class AnswerCache:
    """The least recently used answers go first; an answer outlives neither its TTL nor the limits above."""

    def __init__(self, max_entries: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._answers: OrderedDict[Key, tuple[float, Records]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Key) -> Records:
        """Return what is known, or raise `KeyError`."""
        expires, records = self._answers[key]
        if expires <= self._clock():
            del self._answers[key]
            raise KeyError(key)
        self._answers.move_to_end(key)
        return records

    def put(self, key: Key, records: Records, ttl_seconds: float) -> None:
        kept_for = min(ttl_seconds, MAX_TTL_SECONDS if records else MAX_NEGATIVE_TTL_SECONDS)
        if kept_for <= 0:
            return
        self._answers[key] = (self._clock() + kept_for, records)
        self._answers.move_to_end(key)
        if len(self._answers) > self._max_entries:
            self._answers.popitem(last=False)
