"""What came from elsewhere, made harmless for a report, and octets made fit for a line (RFC 2045 §2.7, RFC 6533 §3).

No control character passes, nor a line end or a direction mark; lengths are bounded. Pure.
"""

from __future__ import annotations

import quopri
from dataclasses import dataclass

MAX_LINE_OCTETS = 998  # RFC 5322 §2.1.1, without CRLF
MAX_NAME = 320
_JOINERS = "\u200c\u200d"  # invisible, but letters of several scripts are not whole without them


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the report, ready but for its boundary."""

    content_type: str
    transfer_encoding: str
    octets: bytes


def clean(text: str, limit: int) -> str:
    """Drop what is not printable (controls, line ends, direction marks, lone surrogates) and runs of space."""
    printable = "".join(char if char.isprintable() or char in _JOINERS else " " for char in text[: 4 * limit])
    one_line = " ".join(printable.split())
    return one_line if len(one_line) <= limit else one_line[: limit - 3] + "..."


def field_text(text: str, limit: int = MAX_NAME) -> str:
    """Make a text fit for a structured field: one line of printable ASCII, the rest as `\\x{…}`."""
    ascii_text = "".join(char if char.isascii() else f"\\x{{{ord(char):X}}}" for char in clean(text, limit))
    return ascii_text if len(ascii_text) <= limit else ascii_text[: limit - 3] + "..."


def encoded(octets: bytes, *, allow_8bit: bool) -> tuple[str, bytes]:
    """Return the transfer encoding and the octets in it: as they are where a line can carry them."""
    if is_7bit(octets):
        return "7bit", octets
    if allow_8bit and has_fitting_lines(octets):
        return "8bit", octets
    return "quoted-printable", quoted_printable(octets)


def is_7bit(octets: bytes) -> bool:
    """RFC 2045 §2.7: ASCII without NUL, CR and LF only together, lines that fit."""
    return octets.isascii() and has_fitting_lines(octets)


def has_fitting_lines(octets: bytes) -> bool:
    """RFC 2045 §2.8: no NUL, CR and LF only together, lines that fit."""
    pairs = octets.count(b"\r\n")
    return (
        b"\0" not in octets
        and octets.count(b"\r") == pairs == octets.count(b"\n")
        and max(map(len, octets.split(b"\r\n"))) <= MAX_LINE_OCTETS
    )


def quoted_printable(octets: bytes) -> bytes:
    """Encode with lines of at most 76 octets; a bare CR or LF becomes a line end, as in any text part."""
    lines = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return quopri.encodestring(lines).replace(b"\n", b"\r\n")


def fields(*lines: str) -> bytes:
    """Return lines of a header section, or of a group of report fields, ready for the wire."""
    return b"".join(line.encode() + b"\r\n" for line in lines)
