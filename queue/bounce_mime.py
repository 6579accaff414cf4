"""Takes reports apart: header fields and parts, in bounds and in linear time (RFC 2045, RFC 2046 §5.1); pure.

What comes here was written by strangers. Only so much is read as an honest report has; nothing is raised. Python's own
parser keeps every open boundary in mind for each line, which a hostile message turns into minutes.
"""

from __future__ import annotations

import binascii
import quopri
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_OCTETS = 1 << 20  # of a report; what it returns of a larger message stands at its end
MAX_PARTS = 40
MAX_DEPTH = 4
MAX_FIELDS = 1000
MAX_FIELD_OCTETS = 8 << 10
MAX_SECTION_OCTETS = 128 << 10
_MAX_LOOKS = 1000  # for a line that begins as a boundary does

_TYPE = re.compile(r"[ \t]*([a-z0-9!#$&^_.+-]{1,80}/[a-z0-9!#$&^_.+-]{1,80})")
_PARAMETER = {
    name: re.compile(rf'(?:^|[;\s]){name}\s?=\s?(?:"([^"]{{0,200}})"|([^\s;"]{{1,200}}))', re.IGNORECASE)
    for name in ("boundary", "charset", "report-type")
}

Fields = Sequence[tuple[str, str]]  # names in lower case, values on one line


@dataclass(frozen=True, slots=True)
class Part:
    """One part, or the whole message; `body` as it came."""

    fields: Fields
    body: bytes
    depth: int = 0

    @property
    def content_type(self) -> str:
        found = _TYPE.match(first(self.fields, "content-type").lower())
        return found[1] if found else "text/plain"

    def parameter(self, name: str) -> str:
        found = _PARAMETER[name].search(first(self.fields, "content-type"))
        return (found[1] or found[2] or "") if found else ""

    @property
    def octets(self) -> bytes:
        """The body without its transfer encoding."""
        encoding = first(self.fields, "content-transfer-encoding").strip().lower()
        try:
            if encoding == "base64":
                return binascii.a2b_base64(self.body)
            if encoding == "quoted-printable":
                return quopri.decodestring(self.body)
        except (binascii.Error, ValueError):
            return self.body
        return self.body

    @property
    def text(self) -> str:
        """The body as text, its lines ended by LF."""
        octets = self.octets
        try:
            text = octets.decode(self.parameter("charset") or "utf-8", "replace")
        except (LookupError, ValueError):
            text = octets.decode("utf-8", "replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")


def read_message(content: bytes) -> Part:
    """Return the message as one part."""
    return _part(content[:MAX_OCTETS], 0)


def walk(whole: Part) -> Iterator[Part]:
    """Yield the parts that are not multiparts themselves, in order; what a message part holds is left closed."""
    waiting = [whole]
    seen = 0
    while waiting and seen < MAX_PARTS:
        part = waiting.pop(0)
        seen += 1
        if part.content_type.startswith("multipart/") and part.depth < MAX_DEPTH:
            waiting = [*_split(part), *waiting]
        else:
            yield part


def fields_of(octets: bytes) -> Fields:
    """Return the fields of a header section, or of a group of fields, up to its empty line; each on one line."""
    found: list[tuple[str, bytearray]] = []
    for line in _section(octets).split(b"\n"):
        line = line.removesuffix(b"\r")
        if not line:
            break
        if line[:1] in b" \t":
            if found and len(found[-1][1]) < MAX_FIELD_OCTETS:
                found[-1][1].extend(b" " + line.strip())
            continue
        name, colon, value = line.partition(b":")
        if not colon or len(name) > 80:
            continue
        if len(found) >= MAX_FIELDS:
            break
        found.append((name.strip().decode("ascii", "replace").lower(), bytearray(value.strip())))
    return [(name, bytes(value[:MAX_FIELD_OCTETS]).decode("utf-8", "replace")) for name, value in found]


def first(fields: Fields, name: str) -> str:
    return next((value for found, value in fields if found == name), "")


def every(fields: Fields, name: str) -> list[str]:
    return [value for found, value in fields if found == name]


def _part(octets: bytes, depth: int) -> Part:
    end = _section_end(octets)
    return Part(fields_of(octets[:end]), octets[end:].removeprefix(b"\r").removeprefix(b"\n"), depth)


def _section_end(octets: bytes) -> int:
    """Return where the empty line begins that ends the header section."""
    if octets.startswith((b"\r\n", b"\n")):
        return 0
    ends = [at + 1 for at in (octets.find(b"\n\r\n"), octets.find(b"\n\n")) if at >= 0]
    return min(ends, default=len(octets))


def _section(octets: bytes) -> bytes:
    return octets[:MAX_SECTION_OCTETS]


def _split(part: Part) -> list[Part]:
    boundary = part.parameter("boundary").encode("utf-8", "replace")
    if not boundary:
        return []
    body, line = b"\n" + part.body, b"\n--" + boundary
    found: list[Part] = []
    start, at = -1, body.find(line)
    for _ in range(_MAX_LOOKS):
        if at < 0 or len(found) >= MAX_PARTS:
            break
        after = at + len(line)
        rest = body[after : after + 80].split(b"\n", 1)[0].strip()
        if rest in (b"", b"--"):
            if start >= 0:
                found.append(_part(body[start:at], part.depth + 1))
            end = body.find(b"\n", after)
            start = len(body) if end < 0 else end + 1
            if rest:
                return found
            after = start - 1
        at = body.find(line, after)
    if 0 <= start < len(body) and len(found) < MAX_PARTS:  # cut off: the end is missing
        found.append(_part(body[start:], part.depth + 1))
    return found
