"""What the API shows of a message's octets: sender, subject, text and preview (RFC 2045, RFC 2047, RFC 6532).

Received mail may be anything, so it is parsed in bounds and by the rules of `compat32` alone; what cannot be read is
shown empty or as it is, and nothing is raised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import parseaddr

from mailflow.message.headers import decode_words

HEAD_OCTETS = 65536  # of a message in a list; a message on its own is read whole up to MAX_OCTETS
MAX_OCTETS = 1024 * 1024
PREVIEW_CHARACTERS = 200
MAX_PARTS = 200
MAX_NESTING = 20


class _Utf8Headers(policy.Compat32):
    """Reads header fields in UTF-8, where the standard one puts a mark in place of every octet beyond ASCII."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


_POLICY = _Utf8Headers()


@dataclass(frozen=True, slots=True)
class Shown:
    """`body` is the first plain text, or the first HTML where there is no plain text."""

    sender: str = ""
    subject: str = ""
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    has_attachments: bool = False

    @property
    def preview(self) -> str:
        return " ".join(self.body[: PREVIEW_CHARACTERS * 10].split())[:PREVIEW_CHARACTERS]


def read(octets: bytes) -> Shown:
    """Read a message, or the beginning of one."""
    message = _parsed(octets[:MAX_OCTETS])
    headers: dict[str, str] = {}
    for name, value in message.items():
        text = decoded(value)
        headers[name] = f"{headers[name]}\n{text}" if name in headers else text
    parts = _leaves(message)
    return Shown(
        sender=parseaddr(decoded(message.get("From", "")))[1],
        subject=decoded(message.get("Subject", "")),
        body=_text_of(parts, "text/plain") or _text_of(parts, "text/html"),
        headers=headers,
        has_attachments=any(_is_attachment(part) for part in parts),
    )


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A part that is a file: what it says of itself, and its octets, decoded."""

    filename: str
    content_type: str
    content_id: str
    octets: bytes


def attachments(octets: bytes) -> list[AttachedFile]:
    """Return the files of a whole message, in order; what cannot be decoded comes as it is."""
    found = []
    for part in _leaves(_parsed(octets)):
        if not (_is_attachment(part) or (part.get("Content-ID") and not part.get_content_type().startswith("text/"))):
            continue
        payload = part.get_payload(decode=True)
        found.append(
            AttachedFile(
                filename=decoded(part.get_filename() or ""),
                content_type=part.get_content_type(),
                content_id=decoded(part.get("Content-ID", "")).strip(" <>"),
                octets=payload if isinstance(payload, bytes) else b"",
            )
        )
    return found


def _parsed(octets: bytes) -> Message:
    """Parse the structure too, unless it nests as no honest message does: a line costs a look for each open level."""
    folded = octets.lower()
    if folded.count(b"multipart/") + folded.count(b"message/") > MAX_NESTING:
        return BytesHeaderParser(policy=_POLICY).parsebytes(octets.partition(b"\r\n\r\n")[0])
    return message_from_bytes(octets, policy=_POLICY)


def decoded(value: object) -> str:
    """Decode encoded words; a value that cannot be decoded stays as it is, without what no text may hold."""
    text = decode_words(str(value).replace("\r\n", "").replace("\n", ""))
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _leaves(message: Message) -> list[Message]:
    found: list[Message] = []
    for part in message.walk():
        if not part.is_multipart():
            found.append(part)
        if len(found) >= MAX_PARTS:
            break
    return found


def _is_attachment(part: Message) -> bool:
    disposition = str(part.get("Content-Disposition", "")).strip().lower()
    return disposition.startswith("attachment") or (bool(part.get_filename()) and not disposition.startswith("inline"))


def _text_of(parts: list[Message], content_type: str) -> str:
    for part in parts:
        if part.get_content_type() == content_type and not _is_attachment(part):
            return _text(part)
    return ""


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    octets = payload if isinstance(payload, bytes) else b""
    try:
        text = octets.decode(str(part.get_content_charset("utf-8")), "replace")
    except LookupError:
        text = octets.decode("utf-8", "replace")
    return text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\0", "\ufffd")
