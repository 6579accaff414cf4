"""One HTTP request as its octets come in: when it is whole, and where the next one begins (RFC 9112 §6).

Pure but for the temporary file of a large body. What the request says is the server's to judge: here only the end of
the head and the length of the body are looked for, so that no thread has to wait for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import IO

MAX_HEAD = 128 << 10  # octets
KEPT_IN_MEMORY = 64 << 10  # of a body; more goes to a file

_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r?\n)", re.IGNORECASE)
_CODING = re.compile(rb"\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_EXPECTATION = re.compile(rb"\nexpect:[ \t]*100-continue[ \t]*\r?(?=\n)", re.IGNORECASE)


class Arrival:
    """`room`: how long a body in a file may be now; a longer one is not collected, but read by who needs it.

    is_whole: all is here that anybody waits for. is_open: the head is here, and the body is for the server to
    read. is_too_long: the head has no end within `MAX_HEAD`.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._octets = bytearray()
        self._file: IO[bytes] | None = None
        self.missing = 0  # octets of the body
        self.in_file = 0  # octets that its file will have
        self.has_head = self.is_whole = self.is_open = self.is_too_long = False
        self.wants_continue = False

    @property
    def is_awaited(self) -> bool:
        """Whether more has to come before anybody can do anything."""
        return not (self.is_whole or self.is_open or self.is_too_long)

    @property
    def has_begun(self) -> bool:
        return bool(self._octets)

    def feed(self, data: bytes) -> bytes:
        """Take octets in and return those that belong to the next request."""
        if self.has_head:
            return self._take_body(data)
        before = len(self._octets)
        self._octets += data if before else data.lstrip(b"\r\n")  # empty lines may stand before it (RFC 9112 §2.2)
        end = _END.search(self._octets, max(0, before - 3))
        if end is None:
            self.is_too_long = len(self._octets) > MAX_HEAD
            return b""
        rest = bytes(self._octets[end.end() :])
        del self._octets[end.end() :]
        self._read_head()
        return self._take_body(rest)

    def _read_head(self) -> None:
        self.has_head = True
        lengths = _LENGTH.findall(self._octets)
        if _CODING.search(self._octets) or len(lengths) > 1:
            self.is_open = True
        elif not lengths or (length := int(lengths[0])) == 0:
            self.is_whole = True
        elif length > KEPT_IN_MEMORY and length > self._room():
            self.is_open = True
        else:
            self.missing = length
            self._expect()
            if length > KEPT_IN_MEMORY:
                self.in_file = length
                self._file = TemporaryFile()  # noqa: SIM115  (the server closes it)

    def _expect(self) -> None:
        """Note that the client waits for a word before it sends the body; the server need not say it again."""
        if b" HTTP/1.0" not in self._octets[: self._octets.find(b"\n")]:
            self.wants_continue = bool(_EXPECTATION.search(self._octets))
            self._octets[:] = _EXPECTATION.sub(b"", self._octets)

    def _take_body(self, data: bytes) -> bytes:
        if not self.missing:
            return data
        mine = data[: self.missing]
        if self._file is not None:
            self._file.write(mine)
        else:
            self._octets += mine
        self.missing -= len(mine)
        self.wants_continue = self.wants_continue and not mine
        if not self.missing:
            self.is_whole = True
            if self._file is not None:
                self._file.seek(0)
        return data[len(mine) :]

    def taken(self) -> tuple[bytes, IO[bytes] | None]:
        """Return head and body, or the head and a file with the body."""
        return bytes(self._octets), self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
