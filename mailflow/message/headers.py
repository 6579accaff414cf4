"""One bounded pass over the header section of a message (RFC 5322 §2.2, RFC 6532): all that is read before a 250.

Nothing here parses structure; a hostile message costs a few milliseconds, for an event loop waits for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header

MAX_SCANNED_OCTETS = 1 << 20  # what is behind them is not looked at
MAX_DECODED_OCTETS = 4096

# On lower-cased octets, for a literal start without IGNORECASE is found by a fast search.
_SUBJECT = re.compile(rb"\r\nsubject[ \t]*:")
_FROM = re.compile(rb"\r\nfrom[ \t]*:")
_DATE = re.compile(rb"\r\ndate[ \t]*:")
_MESSAGE_ID = re.compile(rb"\r\nmessage-id[ \t]*:")
_REFERENCES = re.compile(rb"\r\nreferences[ \t]*:")
_IN_REPLY_TO = re.compile(rb"\r\nin-reply-to[ \t]*:")
_MSG_ID = re.compile(r"<[^<>\s]{1,250}@[^<>\s]{1,250}>")
_RECEIVED = re.compile(rb"\r\nreceived[ \t]*:")  # a blank before the colon is obsolete and read (RFC 5322 §4.5)
_VALUE = re.compile(rb"[^\r]*(?:\r\n[ \t][^\r]*)*")
# Encoded words (RFC 2047 §2) that stand together; what stands between two of them is no text.
_WORDS = re.compile(r"=\?[^\s?]{1,75}\?[bBqQ]\?[^?]*\?=(?:\s+=\?[^\s?]{1,75}\?[bBqQ]\?[^?]*\?=)*")
_FOLD = re.compile(r"\r?\n[ \t]?|[\t\r\n]")


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """What the accept leg needs to know of a header section; texts are decoded and on one line."""

    received_count: int
    subject: str
    header_from: str
    message_id: str
    has_message_id: bool  # be it empty
    has_date: bool
    thread_root: str = ""  # the Message-ID that it answers in the end (RFC 5322 §3.6.4); empty where it answers none


def header_section_end(content: bytes) -> int:
    """Return the offset just behind the last header line: where the empty line begins, or the end of the content."""
    if content.startswith(b"\r\n"):
        return 0
    end = content.find(b"\r\n\r\n")
    return len(content) if end < 0 else end + 2


def scan(content: bytes) -> HeaderFacts:
    """Read the facts from the header section; the first field counts where one stands twice.

    Of a section that goes on behind what is scanned nobody can say that it has no Date or Message-ID, so it counts as
    having them: none is added where one may be.
    """
    end = min(header_section_end(content), MAX_SCANNED_OCTETS)
    is_cut = end == MAX_SCANNED_OCTETS
    lowered = b"\r\n" + content[:end].lower()

    def text_of(field: re.Pattern[bytes]) -> str:
        match = field.search(lowered)
        if match is None:
            return ""
        start = match.end() - 2
        value = _VALUE.match(content, start, min(end, start + MAX_DECODED_OCTETS + 1))
        return decode_text(value[0]) if value else ""

    return HeaderFacts(
        received_count=len(_RECEIVED.findall(lowered)),
        subject=text_of(_SUBJECT),
        header_from=text_of(_FROM),
        message_id=text_of(_MESSAGE_ID)[:998],
        has_message_id=is_cut or _MESSAGE_ID.search(lowered) is not None,
        has_date=is_cut or _DATE.search(lowered) is not None,
        thread_root=_first_id(text_of(_REFERENCES)) or _first_id(text_of(_IN_REPLY_TO)),
    )


def _first_id(text: str) -> str:
    found = _MSG_ID.search(text)
    return found[0] if found else ""


def decode_text(value: bytes) -> str:
    """Return a header value as text on one line: encoded words decoded (RFC 2047), UTF-8 as it is (RFC 6532 §3.2).

    Octets of any kind are survived: each that is no UTF-8 becomes U+FFFD.
    """
    raw = _cut(value).decode("utf-8", "replace").strip()
    text = _FOLD.sub(" ", raw) if "\n" in raw or "\t" in raw or "\r" in raw else raw
    text = decode_words(text)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text


def decode_words(text: str) -> str:
    """Return a text with its encoded words decoded (RFC 2047) and the rest as it is, whatever the rest holds."""
    return _WORDS.sub(_decoded_words, text) if "=?" in text else text


def _cut(value: bytes) -> bytes:
    """Return the first octets, without the beginning of a character that would not be whole."""
    if len(value) <= MAX_DECODED_OCTETS:
        return value
    end = MAX_DECODED_OCTETS
    while end > MAX_DECODED_OCTETS - 3 and value[end] & 0xC0 == 0x80:
        end -= 1
    return value[:end]


def _decoded_words(match: re.Match[str]) -> str:
    """Decode encoded words; the text around them is none of the decoder's business, which takes it for ASCII."""
    words = match[0]
    if not words.isascii():
        return words
    try:
        parts = decode_header(words)
    except (HeaderParseError, ValueError):
        return words
    decoded = []
    for part, charset in parts:
        if isinstance(part, str):
            decoded.append(part)
            continue
        try:
            decoded.append(part.decode(charset or "ascii", "replace"))
        except (LookupError, ValueError):
            decoded.append(part.decode("ascii", "replace"))
    return _FOLD.sub(" ", "".join(decoded))
