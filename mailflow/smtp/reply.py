"""SMTP replies as values (RFC 5321 §4.2, RFC 2034, RFC 3463)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply; `detail` is an enhanced code without its class, which is always `code`'s first digit.

    So the basic and the enhanced code cannot disagree. An empty `detail` leaves the enhanced code out, as RFC 2034 §4
    wants for 1xx, 3xx and the greeting.
    """

    code: int
    detail: str
    text: str

    @property
    def enhanced_code(self) -> str:
        return f"{self.code // 100}.{self.detail}" if self.detail else ""

    @property
    def is_temporary(self) -> bool:
        return 400 <= self.code < 500

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced_code, self.text) if part)

    def encode(self) -> bytes:
        """Return the reply as it goes on the wire; a text of several lines becomes a multiline reply."""
        lines = [_NOT_PRINTABLE.sub("?", line) for line in self.text.split("\n")]
        enhanced = f"{self.enhanced_code} " if self.detail else ""
        last = len(lines) - 1
        return b"".join(
            f"{self.code}{'-' if number < last else ' '}{enhanced}{line}\r\n".encode("ascii")
            for number, line in enumerate(lines)
        )
