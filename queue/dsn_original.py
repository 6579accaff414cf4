"""What a report gives back of the message it is about (RFC 3464 §2, RFC 3461 §6.2, RFC 6533 §4); pure."""

from __future__ import annotations

from queue.dsn_seven_bit import seven_bit
from queue.dsn_text import Part, encoded, has_fitting_lines
from queue.transports.content import has_utf8_header

MAX_HEADER_OCTETS = 64 * 1024
MAX_FULL_OCTETS = 1024 * 1024
_WHOLE = frozenset(["message/rfc822", "message/global"])


def original_part(content: bytes, *, wants_full: bool, is_smtputf8: bool, allow_8bit: bool) -> Part:
    """Return the whole message or its header section.

    The whole only where the sender asked for it (RET=FULL), it is not large, and a part can hold it: `message/rfc822`
    may not be encoded (RFC 2046 §5.2.1), but its own parts may be (RFC 6522 §3); `message/global` may (RFC 6532 §3.7).
    The sender's choice is a wish (RFC 3461 §4.3). An internationalised message has types of its own.
    """
    is_global = is_smtputf8 and has_utf8_header(content)
    if wants_full and len(content) <= MAX_FULL_OCTETS:
        if is_global and has_fitting_lines(content):
            return Part("message/global", *encoded(content, allow_8bit=allow_8bit))
        if not is_global and (whole := seven_bit(content)) is not None:
            return Part("message/rfc822", "7bit", whole)
    content_type = "message/global-headers" if is_global else "text/rfc822-headers"
    return Part(content_type, *encoded(header_section(content), allow_8bit=allow_8bit and is_global))


def is_whole(part: Part) -> bool:
    return part.content_type in _WHOLE


def header_section(content: bytes) -> bytes:
    """Return the header section, cut after a whole line where it is too long; ends in CRLF."""
    window = content[:MAX_HEADER_OCTETS]
    if window.startswith(b"\r\n"):
        return b""
    head, empty_line, _ = window.partition(b"\r\n\r\n")
    if empty_line or len(content) <= MAX_HEADER_OCTETS:
        return head.removesuffix(b"\r\n") + b"\r\n"
    return head[: head.rfind(b"\r\n") + 2] if b"\r\n" in head else head + b"\r\n"
