"""A message made 7bit part by part, so that a report of any kind can hold the whole of it (RFC 6522 §3); pure.

A part that is 8bit would make the report so: it would have to be declared 8BITMIME, and a next hop that does not offer
that takes nothing. A report that bounces is told to nobody (RFC 5321 §6.1), which is worse than one without the body.
What is encoded says the same to a reader. Only a signature over the octets would not hold, so signed parts are left
alone.

The message was written by a stranger: bounds are few and linear, and what is not plain is not encoded.
"""

from __future__ import annotations

import binascii
import re

from queue import bounce_mime
from queue.dsn_text import is_7bit, quoted_printable

MAX_DEPTH = 8
MAX_PARTS = 1000  # of one multipart
_MAX_HEADER_OCTETS = 64 * 1024
_ASCII = bytes(range(128))
_BASE64_OCTETS = 57  # of a line with 76 characters
_ENCODING = re.compile(rb"^content-transfer-encoding[ \t]*:(?:[^\r\n]|\r\n[ \t])*\r\n", re.IGNORECASE | re.MULTILINE)
_AS_IT_IS = ("", "7bit", "8bit", "binary")
# Their octets are signed, or sealed, or their parts have another default type (RFC 1847 §2.1, RFC 2046 §5.1.5).
_UNTOUCHED = ("multipart/signed", "multipart/encrypted", "multipart/digest")


class _NotPlain(ValueError):
    """This message is not to be encoded."""


def seven_bit(content: bytes) -> bytes | None:
    """Return the message with each part encoded that is not 7bit; None where that cannot be done with certainty."""
    try:
        made = _entity(content, is_message=True, depth=0)
    except _NotPlain:
        return None
    return made if is_7bit(made) else None


def _entity(octets: bytes, *, is_message: bool, depth: int) -> bytes:
    """Return a message, or a part of one, in 7bit: its header section must be so already."""
    if is_7bit(octets):
        return octets
    header, body = _header_and_body(octets)
    fields = bounce_mime.fields_of(header)
    encodings = [value.strip().lower() for value in bounce_mime.every(fields, "content-transfer-encoding")]
    is_plain = len(encodings) == len(_ENCODING.findall(header)) <= 1 >= len(bounce_mime.every(fields, "content-type"))
    if not is_plain or depth > MAX_DEPTH or "".join(encodings) not in _AS_IT_IS:
        raise _NotPlain
    if is_message and not bounce_mime.first(fields, "mime-version").strip().startswith("1.0"):
        raise _NotPlain  # its fields may mean anything
    part = bounce_mime.Part(fields, b"")
    kind = part.content_type
    if kind.startswith("multipart/") and kind not in _UNTOUCHED:
        made = _multipart(body, part.parameter("boundary").encode(), depth)
    elif kind == "message/rfc822":
        made = _entity(body, is_message=True, depth=depth + 1)
    elif kind.startswith(("multipart/", "message/")):
        raise _NotPlain
    else:
        encoding, made = _encoded(body, is_text=kind.startswith("text/"))
        return _with_encoding(header, encoding) + b"\r\n" + made
    return (_with_encoding(header, b"7bit") if encodings else header) + b"\r\n" + made


def _header_and_body(octets: bytes) -> tuple[bytes, bytes]:
    if octets.startswith(b"\r\n"):
        return b"", octets[2:]
    end = octets.find(b"\r\n\r\n", 0, _MAX_HEADER_OCTETS) + 2
    if end == 1 or not is_7bit(octets[:end]):
        raise _NotPlain
    return octets[:end], octets[end + 2 :]


def _with_encoding(header: bytes, encoding: bytes) -> bytes:
    field = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    changed, count = _ENCODING.subn(field, header, count=1)
    return changed if count else header + field


def _multipart(body: bytes, boundary: bytes, depth: int) -> bytes:
    """Return the body with its parts in 7bit; what stands before, between and behind them stays (RFC 2046 §5.1.1)."""
    if not boundary:
        raise _NotPlain
    octets, delimiter = b"\r\n" + body, b"\r\n--" + boundary
    made, start, is_inside, is_closed = bytearray(), 0, False, False
    at = octets.find(delimiter)
    for _ in range(MAX_PARTS):
        if at < 0 or is_closed:
            break
        after = at + len(delimiter)
        end = octets.find(b"\r\n", after)
        end = len(octets) if end < 0 else end
        rest = octets[after:end].strip(b" \t")
        if rest in (b"", b"--"):
            made += _between(octets[start:at], depth, is_part=is_inside) + octets[at:end]
            start, is_inside, is_closed = end, rest == b"", rest == b"--"
        at = octets.find(delimiter, end)
    if not start or (at >= 0 and not is_closed):
        raise _NotPlain
    return bytes(made + _between(octets[start:], depth, is_part=is_inside))[2:]


def _between(octets: bytes, depth: int, *, is_part: bool) -> bytes:
    """Return what stands between two delimiters, with the line end that it begins with."""
    if is_part and octets:
        return octets[:2] + _entity(octets[2:], is_message=False, depth=depth + 1)
    if not is_7bit(octets):
        raise _NotPlain
    return octets


def _encoded(body: bytes, *, is_text: bool) -> tuple[bytes, bytes]:
    """Encode a part that is no composite one; readably where little of it is beyond ASCII."""
    pairs = body.count(b"\r\n")
    has_lines = b"\0" not in body and body.count(b"\r") == pairs == body.count(b"\n")
    if is_text and has_lines and len(body.translate(None, _ASCII)) <= len(body) // 6:
        return b"quoted-printable", quoted_printable(body)
    lines = (body[at : at + _BASE64_OCTETS] for at in range(0, len(body), _BASE64_OCTETS))
    return b"base64", b"\r\n".join(binascii.b2a_base64(line, newline=False) for line in lines)
