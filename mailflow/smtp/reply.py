"""SMTP replies as values (RFC 5321 §4.2, RFC 2034, RFC 3463, RFC 6531 §3.7.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NOT_ASCII = re.compile(r"[^\x20-\x7e]+")
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply; `detail` is an enhanced code without its class, which is always `code`'s first digit.

    So the basic and the enhanced code cannot disagree. An empty `detail` leaves the enhanced code out, as RFC 2034 §4
    wants for 1xx, 3xx and the greeting. `is_utf8`: the text names an address that is not ASCII, to a client that
    declared SMTPUTF8; every other reply is ASCII, whatever its text quotes.
    """

    code: int
    detail: str
    text: str
    is_utf8: bool = False

    @property
    def enhanced_code(self) -> str:
        return f"{self.code // 100}.{self.detail}" if self.detail else ""

    @property
    def is_temporary(self) -> bool:
        return 400 <= self.code < 500

    def __str__(self) -> str:
        """Return the reply in one line, with the text that the client reads."""
        return " ".join(part for part in (str(self.code), self.enhanced_code, " ".join(self._lines)) if part)

    @property
    def _lines(self) -> list[str]:
        foreign = _NOT_TEXT if self.is_utf8 else _NOT_ASCII
        return [foreign.sub("?", line) for line in self.text.split("\n")]

    def encode(self) -> bytes:
        """Return the reply as it goes on the wire; a text of several lines becomes a multiline reply."""
        lines = self._lines
        enhanced = f"{self.enhanced_code} " if self.detail else ""
        last = len(lines) - 1
        return b"".join(
            f"{self.code}{'-' if number < last else ' '}{enhanced}{line}\r\n".encode()
            for number, line in enumerate(lines)
        )
