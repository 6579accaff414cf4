"""Replies of a peer, read from octets strictly and with limits (RFC 5321 §4.2); pure."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LINE_OCTETS = 2048  # four times RFC 5321 §4.5.3.1.5
MAX_LINES = 128
MAX_TEXT_CHARACTERS = 1000  # what people, rows and DSNs get to see of a reply

# A whole reply of one printable line, as nearly all are; everything else is looked at line by line.
_PLAIN = re.compile(rb"([2-5][0-9][0-9]) ([\x20-\x7e]{0,2042})\r\n")
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)
_NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]+")
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3} ")


class MalformedReply(Exception):
    """What came is no SMTP reply; the text says how, and never quotes it."""


class PeerReply(NamedTuple):
    """`lines` are the texts after the code, on one line each, without control characters."""

    code: int
    lines: tuple[str, ...]

    @property
    def is_positive(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_permanent(self) -> bool:
        return self.code >= 500

    @property
    def text(self) -> str:
        """The words on one line; an enhanced code that every line repeats is kept once (RFC 2034 §4)."""
        if len(self.lines) == 1:
            return self.lines[0][:MAX_TEXT_CHARACTERS]
        found = _ENHANCED.match(self.lines[0])
        enhanced = found[0] if found else ""
        rest = (line.removeprefix(enhanced) for line in self.lines)
        return (enhanced + " ".join(rest))[:MAX_TEXT_CHARACTERS]


class ReplyReader:
    """Collects octets and hands out replies, one when asked for one: what nobody asked for stays raw."""

    __slots__ = ("_buffer", "_code", "_lines")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code = 0
        self._lines: list[str] = []

    @property
    def has_octets(self) -> bool:
        """Whether something came that has not been handed out."""
        return bool(self._buffer or self._lines)

    @property
    def octets(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def forget(self) -> None:
        self._buffer.clear()
        self._lines.clear()

    def take(self) -> PeerReply | None:
        """Return the next whole reply, None where octets are missing; raise `MalformedReply`."""
        if not self._buffer:
            return None
        if not self._lines and (plain := _PLAIN.match(self._buffer)):
            reply = PeerReply(int(plain[1]), (plain[2].decode("ascii"),))
            end = plain.end()
            del plain  # it holds the buffer, which could not be cut
            del self._buffer[:end]
            return reply
        while True:
            end = self._buffer.find(b"\n")
            if end >= MAX_LINE_OCTETS or (end < 0 and len(self._buffer) >= MAX_LINE_OCTETS):
                raise MalformedReply(f"a reply line of more than {MAX_LINE_OCTETS} octets")
            if end < 0:
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if not line.endswith(b"\r"):
                raise MalformedReply("a reply line that does not end with CR LF")
            if self._add(line[:-1]):
                reply = PeerReply(self._code, tuple(self._lines))
                self._lines.clear()
                return reply

    def _add(self, line: bytes) -> bool:
        """Take one line, and say whether it was the last of its reply."""
        found = _LINE.match(line)
        if found is None:
            raise MalformedReply("a line that is no SMTP reply")
        code = int(found[1])
        if self._lines and code != self._code:
            raise MalformedReply("a reply whose lines have different codes")
        if len(self._lines) >= MAX_LINES:
            raise MalformedReply(f"a reply of more than {MAX_LINES} lines")
        self._code = code
        text = (found[3] or b"").decode("utf-8", "replace")
        self._lines.append(text if text.isprintable() else _NOT_PRINTABLE.sub("?", text))
        return found[2] != b"-"
