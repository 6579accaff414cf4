"""Content too large for memory: in a temporary file that no name leads to, so that nothing of it outlives the process.

It is not durable and need not be: the spool copies it into the database before anybody hears 250.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from mailflow.smtp.data import has_bare_line_end


class SpoolFile:
    """Octets appended in pieces, then read any number of times; one thread at a time, and `close` once.

    `append`, `head` and `pieces` touch the disk and raise OSError: never on an event loop.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (open for as long as the message)
        self._octets = 0
        self.has_bare_line_end = False

    def __len__(self) -> int:
        return self._octets

    def append(self, piece: bytes) -> None:
        """Write one piece; no CRLF may be cut in two by its ends."""
        self.has_bare_line_end = self.has_bare_line_end or has_bare_line_end(piece)
        written, view = 0, memoryview(piece)
        while written < len(piece):
            written += self._file.write(view[written:]) or 0
        self._octets += len(piece)

    def head(self, octets: int) -> bytes:
        """Return the first octets."""
        self._file.seek(0)
        return self._read(octets)

    def pieces(self, first: int, others: int) -> Iterator[bytes]:
        """Yield all octets: a piece of at most `first`, then pieces of at most `others`."""
        self._file.seek(0)
        piece = self._read(first)
        while piece:
            yield piece
            piece = self._read(others)

    def _read(self, octets: int) -> bytes:
        parts, left = [], octets
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Give the room back; may be called twice."""
        self._file.close()


class LargeContent:
    """A large message as it will be stored: our trace fields on top of the file."""

    __slots__ = ("_file", "_top")

    def __init__(self, top: bytes, file: SpoolFile) -> None:
        self._top = top
        self._file = file

    def __len__(self) -> int:
        return len(self._top) + len(self._file)

    def pieces(self, octets: int) -> Iterator[bytes]:
        """Yield the message in pieces of at most that many octets (more than the trace fields have)."""
        top = self._top
        for piece in self._file.pieces(octets - len(top), octets):
            yield top + piece if top else piece
            top = b""

    def close(self) -> None:
        self._file.close()


Content = bytes | LargeContent
