"""One bounded pass over the header section of a message (RFC 5322 §2.2): all that is read before a 250.

Nothing here parses structure; a hostile message costs no more than its first `MAX_SCANNED_OCTETS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header

MAX_SCANNED_OCTETS = 1 << 20
MAX_DECODED_OCTETS = 4096

_FIELD = re.compile(
    rb"^(received|subject|from|date|message-id)[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)", re.IGNORECASE | re.MULTILINE
)
_FOLD = re.compile(r"\r?\n[ \t]?|[\t\r\n]")


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the accept leg needs to know of a header section; texts are decoded and on one line."""

    received_count: int
    subject: str
    header_from: str
    message_id: str
    has_date: bool


def header_section_end(content: bytes) -> int:
    """Return the offset just behind the last header line: where the empty line begins, or the end of the content."""
    if content.startswith(b"\r\n"):
        return 0
    end = content.find(b"\r\n\r\n")
    return len(content) if end < 0 else end + 2


def scan(content: bytes) -> HeaderFacts:
    """Read the facts from the header section; the first field counts where one stands twice."""
    section = content[: min(header_section_end(content), MAX_SCANNED_OCTETS)]
    received = 0
    found: dict[bytes, bytes] = {}
    for match in _FIELD.finditer(section):
        name = match[1].lower()
        if name == b"received":
            received += 1
        else:
            found.setdefault(name, match[2])
    return HeaderFacts(
        received_count=received,
        subject=decode_text(found.get(b"subject", b"")),
        header_from=decode_text(found.get(b"from", b"")),
        message_id=decode_text(found.get(b"message-id", b""))[:998],
        has_date=b"date" in found,
    )


def decode_text(value: bytes) -> str:
    """Return a header value as text on one line: encoded words decoded (RFC 2047), octets of any kind survived."""
    raw = value[:MAX_DECODED_OCTETS].decode("utf-8", "replace").strip()
    text = _FOLD.sub(" ", raw) if "\n" in raw or "\t" in raw or "\r" in raw else raw
    if "=?" in text:
        text = _decode_words(text)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text


def _decode_words(text: str) -> str:
    try:
        parts = decode_header(text)
    except (HeaderParseError, ValueError):
        return text
    decoded = []
    for part, charset in parts:
        if isinstance(part, str):
            decoded.append(part)
            continue
        try:
            decoded.append(part.decode(charset or "ascii", "replace"))
        except LookupError:
            decoded.append(part.decode("ascii", "replace"))
    return _FOLD.sub(" ", "".join(decoded))
