"""Collect the octets of DATA until CRLF.CRLF (RFC 5321 §4.1.1.4, §4.5.2): in bulk, never line by line; pure.

Only CRLF "." CRLF ends the data: a dot between bare LFs or CRs is text (SMTP smuggling). Over the limit, or where all
collectors together hold too much, the octets are counted and thrown away, so that the session can go on after its
552 or 452.
"""

from __future__ import annotations

_END = b"\r\n.\r\n"
_SLACK_OCTETS = 64 << 10
_SLICE_OCTETS = 1 << 20


class OctetBudget:
    """What the collectors of one event loop may hold together; for that loop's thread alone."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def is_spent(self) -> bool:
        return self.used >= self.limit

    def take(self, octets: int) -> bool:
        if self.used + octets > self.limit:
            return False
        self.used += octets
        return True

    def give_back(self, octets: int) -> None:
        self.used -= octets


class DataCollector:
    """Feed it what arrives; `content` is ready when `feed` returned the octets behind the end. Then `release` it."""

    def __init__(self, limit: int, budget: OctetBudget) -> None:
        # The leading CRLF makes an empty message, and a dot in the first column, no special case.
        self._buffer = bytearray(b"\r\n")
        self._limit = limit
        self._budget = budget
        self._taken = 0
        self._dropped = 0
        self.is_starved = False  # the budget was spent: part of the message is gone

    @property
    def octets(self) -> int:
        """How much has arrived, thrown away or not."""
        return len(self._buffer) - 2 + self._dropped

    @property
    def over_limit(self) -> bool:
        return self.octets > self._limit

    def feed(self, data: bytes | bytearray) -> bytes | None:
        """Take octets; return None while more are needed, else what stands behind the end of data."""
        self._take(len(data))
        buffer = self._buffer
        start = max(0, len(buffer) - len(_END) + 1)
        buffer += data
        end = buffer.find(_END, start)
        if end >= 0:
            rest = bytes(buffer[end + len(_END) :])
            del buffer[end + 2 :]
            return rest
        if self._dropped or self.is_starved or len(buffer) > self._limit + _SLACK_OCTETS:
            self._drop()
        return None

    def content(self) -> bytes:
        """Return the message without transparency dots; call it once, after the end, when nothing was thrown away.

        A large one is taken apart in slices: between them a thread that does this lets the event loop's run.
        """
        buffer, self._buffer = self._buffer, bytearray()
        if b"\n." not in buffer:
            return bytes(memoryview(buffer)[2:])
        if len(buffer) <= _SLICE_OCTETS:
            return bytes(memoryview(buffer.replace(b"\r\n.", b"\r\n"))[2:])
        parts, start = [], 0
        while start < len(buffer):
            cut = buffer.find(b"\r\n", start + _SLICE_OCTETS)  # no slice ends between a line end and its dot
            stop = len(buffer) if cut < 0 else cut
            parts.append(buffer[start:stop].replace(b"\r\n.", b"\r\n"))
            start = stop
        del parts[0][:2]
        return b"".join(parts)

    def release(self) -> None:
        """Give back what the budget lent; may be called twice."""
        self._budget.give_back(self._taken)
        self._taken = 0

    def _take(self, octets: int) -> None:
        if self._dropped or self.is_starved:
            return
        if self._budget.take(octets):
            self._taken += octets
        else:
            self.is_starved = True

    def _drop(self) -> None:
        """Throw away all but what is needed to see the end of data when it comes."""
        keep = min(len(self._buffer), len(_END))
        self._dropped += len(self._buffer) - keep
        del self._buffer[: len(self._buffer) - keep]
        self.release()
