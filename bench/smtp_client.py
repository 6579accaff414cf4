"""The SMTP client of the benches: blocking, octet by octet as it is told, honest or not (RFC 5321 §3)."""

from __future__ import annotations

import re
import socket
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
SECONDS = 60.0
_MESSAGE_ID = re.compile(r"msg_[0-9a-z]+")


class Unexpected(Exception):
    """A reply that was not hoped for; the text is the command and the reply."""


class SmtpClient:
    """One connection. Raises `OSError` where it breaks or waits too long; a closed one answers with nothing."""

    def __init__(self, port: int, *, seconds: float = SECONDS) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def reply(self) -> str:
        """Return the next reply, its lines joined by newlines; "" where the peer has closed."""
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            line = self._line()
            if not line:
                break
            lines.append(line)
        return "\n".join(lines)

    def _line(self) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            data = self.socket.recv(65536)
            if not data:
                return ""
            self._buffer += data
        line = self._buffer[:end].rstrip(b"\r").decode("ascii", "replace")
        del self._buffer[: end + 1]
        return line

    def ask(self, command: str, expected: str = "") -> str:
        """Send a command and return the reply; raises `Unexpected` where it does not begin as `expected`."""
        self.send(command.encode() + b"\r\n")
        reply = self.reply()
        if not reply.startswith(expected):
            raise Unexpected(f"{command[:60]}: {reply or 'the connection was closed'}")
        return reply

    def greet(self) -> None:
        reply = self.reply()
        if not reply.startswith("220"):
            raise Unexpected(f"greeting: {reply or 'the connection was closed'}")
        self.ask("EHLO client.example", "250")

    def begin(self, sender: str, recipient: str) -> None:
        """Go to where the message itself is to be sent."""
        self.ask(f"MAIL FROM:<{sender}>", "250")
        self.ask(f"RCPT TO:<{recipient}>", "250")
        self.ask("DATA", "354")

    def deliver(self, sender: str, recipient: str, content: bytes) -> str:
        """Send a whole message; return the reply to it, whatever it is."""
        self.begin(sender, recipient)
        self.send(dotted(content))
        return self.reply()


def dotted(content: bytes) -> bytes:
    """Return the octets of DATA: dots doubled, the final dot behind (RFC 5321 §4.5.2). Content ends with CRLF."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return (b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n"


def message_id(reply: str) -> str:
    """Return the message's id that a 250 names, or nothing."""
    found = _MESSAGE_ID.search(reply)
    return found[0] if found and reply.startswith("250") else ""
