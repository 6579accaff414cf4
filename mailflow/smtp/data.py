"""Collect the octets of DATA until CRLF.CRLF (RFC 5321 §4.1.1.4, §4.5.2): in bulk, never line by line; pure.

Only CRLF "." CRLF ends the data: a dot between bare LFs or CRs is text (SMTP smuggling). Over the limit the octets are
counted and thrown away, so that the session can go on after its 552.
"""

from __future__ import annotations

_END = b"\r\n.\r\n"


class DataCollector:
    """Feed it what arrives; `content` is ready when `feed` returned the octets behind the end."""

    def __init__(self, limit: int) -> None:
        # The leading CRLF makes an empty message, and a dot in the first column, no special case.
        self._buffer = bytearray(b"\r\n")
        self._limit = limit
        self._dropped = 0

    @property
    def octets(self) -> int:
        """How much has arrived, thrown away or not."""
        return len(self._buffer) - 2 + self._dropped

    @property
    def over_limit(self) -> bool:
        return self._dropped > 0 or len(self._buffer) - 2 > self._limit

    def feed(self, data: bytes | bytearray) -> bytes | None:
        """Take octets; return None while more are needed, else what stands behind the end of data."""
        buffer = self._buffer
        start = max(0, len(buffer) - len(_END) + 1)
        buffer += data
        end = buffer.find(_END, start)
        if end >= 0:
            rest = bytes(buffer[end + len(_END) :])
            del buffer[end + 2 :]
            return rest
        if len(buffer) > self._limit + (64 << 10):
            # Too much already: keep just enough to see the end of data when it comes.
            self._dropped += len(buffer) - len(_END)
            del buffer[: len(buffer) - len(_END)]
        return None

    def content(self) -> bytes:
        """Return the message without transparency dots; call it once, after the end and when not over the limit."""
        buffer = self._buffer
        if b"\n." in buffer:
            buffer = buffer.replace(b"\r\n.", b"\r\n")
        self._buffer = bytearray()
        return bytes(memoryview(buffer)[2:])
