"""The body of a composed message: text, HTML, inline images, attachments (RFC 2045, RFC 2046 §5.1, RFC 2387, RFC 2392).

Pure. Every result has CRLF line ends, no bare CR or LF, is ASCII, and has no line over 998 octets, so that any next hop
takes it as it is. Written here because the e-mail package takes ten times as long for the same octets, and most
messages that programs send are one or two texts.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

MAX_LINE = 998  # RFC 5322 §2.1.1, without CRLF
MAX_ATTACHMENTS = 100
MAX_FILENAME_OCTETS = 255
MAX_CONTENT_ID = 128
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_TOKEN = r"[A-Za-z0-9!#$%&'*+^_`{|}~.-]{1,127}"  # noqa: S105  (RFC 2045 §5.1's word)
_TYPE = re.compile(
    rf"(?P<main>{_TOKEN})/(?P<sub>{_TOKEN})(?:\s*;\s*charset=\"?(?P<charset>[A-Za-z0-9_.:-]{{1,40}})\"?)?\Z"
)
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]{1,128}\Z")
_COMPOSITE = {"multipart", "message"}


class InvalidAttachment(ValueError):
    """What cannot be attached; the text says which rule, `part` which of the attachment's parts breaks it."""

    def __init__(self, part: str, rule: str) -> None:
        super().__init__(rule)
        self.part = part


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes along. With `content_id` it is shown inside the HTML, which names it as `cid:…` (RFC 2392)."""

    filename: str
    content: bytes
    content_type: str = "application/octet-stream"
    content_id: str = ""

    @property
    def is_inline(self) -> bool:
        return bool(self.content_id)


def check(attachment: Attachment) -> None:
    """Raise `InvalidAttachment` for what has no place in a header or would have to be more than octets."""
    name = attachment.filename
    if not name or len(name.encode(errors="replace")) > MAX_FILENAME_OCTETS:
        raise InvalidAttachment("filename", f"a file name has 1 to {MAX_FILENAME_OCTETS} octets")
    if not name.isprintable() or "/" in name or "\\" in name or name != name.strip():
        raise InvalidAttachment(
            "filename", "a file name has printable characters, without / and \\, and no space at its ends"
        )
    found = _TYPE.match(attachment.content_type)
    if found is None:
        raise InvalidAttachment("content_type", "a content type is such as image/png")
    if found["main"].lower() in _COMPOSITE:
        raise InvalidAttachment(
            "content_type", f"content of the type {found['main'].lower()}/… cannot be attached as octets"
        )
    if attachment.content_id and not _CONTENT_ID.match(attachment.content_id):
        raise InvalidAttachment(
            "content_id", f"a content id has 1 to {MAX_CONTENT_ID} ASCII characters, without spaces and brackets"
        )


def body(text: str | None, html: str | None, attachments: Sequence[Attachment] = ()) -> bytes:
    """Return the MIME fields and the body; at least one of `text` and `html` is not None."""
    inline = [attachment for attachment in attachments if attachment.is_inline]
    others = [attachment for attachment in attachments if not attachment.is_inline]
    if html is None:
        others = [*inline, *others]
        found = _text_part("plain", text or "")
    else:
        found = _text_part("html", html)
        if inline:
            found = _multipart("related", [found, *map(_file_part, inline)], '; type="text/html"')
        if text is not None:
            found = _multipart("alternative", [_text_part("plain", text), found])  # the richest form comes last
    if others:
        found = _multipart("mixed", [found, *map(_file_part, others)])
    return b"MIME-Version: 1.0\r\n" + found


def _text_part(subtype: str, text: str) -> bytes:
    lines = _LINE_ENDS.sub("\r\n", text)
    if not lines.endswith("\r\n"):
        lines += "\r\n"
    octets = lines.encode()
    beyond = len(octets) - len(lines)  # at least one for each character beyond ASCII
    if not beyond and "\0" not in lines and max(map(len, octets.split(b"\r\n"))) <= MAX_LINE:
        encoding, charset = "7bit", "us-ascii"
    elif beyond * 6 < len(lines):
        encoding, charset = "quoted-printable", "utf-8"
        octets = binascii.b2a_qp(octets)
    else:
        encoding, charset = "base64", "utf-8"
        octets = _base64(octets)
    head = f'Content-Type: text/{subtype}; charset="{charset}"\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n'
    return head.encode() + octets


def _file_part(attachment: Attachment) -> bytes:
    way = "inline" if attachment.is_inline else "attachment"
    lines = [
        f"Content-Type: {attachment.content_type}",
        "Content-Transfer-Encoding: base64",
        f"Content-Disposition: {way};\r\n {_filename(attachment.filename)}",
    ]
    if attachment.is_inline:
        lines.append(f"Content-ID: <{attachment.content_id}>")
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + _base64(attachment.content)


def _filename(name: str) -> str:
    """Write the parameter as RFC 2231 §4 has it where it is not plain ASCII."""
    if name.isascii() and '"' not in name:
        return f'filename="{name}"'
    return f"filename*=utf-8''{quote(name, safe='')}"


def _base64(octets: bytes) -> bytes:
    return base64.encodebytes(octets).replace(b"\n", b"\r\n")


def _multipart(subtype: str, parts: Sequence[bytes], parameters: str = "") -> bytes:
    # "=_" stands in no quoted-printable and no base64 text (RFC 2045 §6.7), and nobody guesses the rest.
    boundary = f"=_{secrets.token_hex(12)}"
    head = f'Content-Type: multipart/{subtype}{parameters};\r\n boundary="{boundary}"\r\n\r\n'.encode()
    mark = f"--{boundary}".encode()
    pieces = [head]
    for part in parts:
        pieces += [mark, b"\r\n", part, b"\r\n"]
    return b"".join([*pieces, mark, b"--\r\n"])
