"""The octets of DATA and BDAT as they arrive: the end, transparency dots, line ends (RFC 5321 §4.1.1.4, §4.5.2); pure.

Only CRLF "." CRLF ends the data: a dot between bare LFs or CRs is text (SMTP smuggling). All of it works on whole
pieces, never line by line.
"""

from __future__ import annotations

_END = b"\r\n.\r\n"


class DataWindow:
    """What DATA has brought so far. `feed` it; it is complete when `feed` returns the octets behind the end.

    A caller that wants to hold little takes ready pieces out with `drain`; the pieces and `finish`, in order, are the
    message without transparency dots.
    """

    __slots__ = ("_buffer", "_is_fresh")

    def __init__(self) -> None:
        # The leading CRLF makes an empty message, and a dot in the first column, no special case.
        self._buffer = bytearray(b"\r\n")
        self._is_fresh = True

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes | bytearray) -> bytes | None:
        """Take octets; return None while more are needed, else what stands behind the end of data."""
        buffer = self._buffer
        start = max(0, len(buffer) - len(_END) + 1)
        buffer += data
        end = buffer.find(_END, start)
        if end < 0:
            return None
        rest = bytes(buffer[end + len(_END) :])
        del buffer[end + 2 :]
        return rest

    def drain(self) -> bytes:
        """Take out all that no later octet can change; a CRLF, and what follows it, stays for its dot."""
        buffer = self._buffer
        cut = buffer.rfind(b"\r\n")
        if cut <= 0:  # one endless line
            cut = len(buffer) - buffer.endswith(b"\r")
            if cut <= len(_END):
                return b""
        return self._take(cut)

    def finish(self) -> bytes:
        """Return what is left, after the end was seen."""
        return self._take(len(self._buffer))

    def _take(self, octets: int) -> bytes:
        buffer = self._buffer
        if octets == len(buffer):
            piece, self._buffer = buffer, bytearray()
        else:
            piece = buffer[:octets]
            del buffer[:octets]
        if b"\r\n." in piece:
            piece = piece.replace(b"\r\n.", b"\r\n")
        start, self._is_fresh = 2 * self._is_fresh, False
        return bytes(memoryview(piece)[start:])


class ChunkWindow:
    """The same for BDAT: octets as they come, of any chunks (RFC 3030 §2)."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def drain(self) -> bytes:
        """Take out all but a CR at the end, which may be half of a line end."""
        buffer = self._buffer
        keep = int(buffer.endswith(b"\r"))
        piece = bytes(memoryview(buffer)[: len(buffer) - keep])
        self._buffer = bytearray(b"\r" * keep)
        return piece

    def finish(self) -> bytes:
        piece, self._buffer = bytes(self._buffer), bytearray()
        return piece


def has_bare_line_end(octets: bytes) -> bool:
    """Whether a CR or LF stands alone. Of pieces each is judged by itself, so no CRLF may be cut in two."""
    pairs = octets.count(b"\r\n")
    return octets.count(b"\n") != pairs or octets.count(b"\r") != pairs


def with_whole_line_ends(octets: bytes) -> bytes:
    """Return the octets with each bare CR or LF made a CRLF."""
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
