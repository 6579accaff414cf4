"""One conversation of a simulated host: the server's side of SMTP, as far as a relay needs it (RFC 5321 §4.1).

It keeps nothing of what it is sent. A client tells it the number of the attempt with each recipient (`XATTEMPT`, which
only these hosts announce), so that it needs no memory of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

from queue.simulation import personas
from queue.simulation.certificate import contexts
from queue.simulation.personas import Act, Host, Said
from queue.transports.requests import XATTEMPT
from queue.transports.session import REQUIRETLS

MAX_LINE_OCTETS = 8192
MAX_OCTETS = 100 << 20
STEP_SECONDS = 1.0  # of the slow host, at each answer
EXTENSIONS = (
    "PIPELINING", "8BITMIME", "SMTPUTF8", f"SIZE {MAX_OCTETS}", "DSN", "DELIVERBY", "ENHANCEDSTATUSCODES", XATTEMPT,
)  # fmt: skip

Pause = Callable[[float], Awaitable[None]]

_RCPT = re.compile(r"RCPT TO:<(?:@[^:]*:)?(.+)>(.*)\Z", re.IGNORECASE)
_ATTEMPT = re.compile(rf" {XATTEMPT}=(\d{{1,9}})(?= |\Z)", re.IGNORECASE)
_END = b"\r\n.\r\n"


class _HangUp(Exception):
    """The conversation is over, without another word."""


class Conversation:
    """Runs once, in a task of its own; `pause` is how the slow host lets time pass."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: Pause) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer
        self._pause = pause
        self._is_encrypted = False
        self._reset()

    def _reset(self) -> None:
        self._has_sender = False
        self._contents: list[Said] = []  # what each accepted recipient has to say of the content

    async def hold(self) -> None:
        """Talk until the client leaves; raises nothing."""
        try:
            with suppress(_HangUp, OSError, EOFError, asyncio.LimitOverrunError):
                await self._talk()
        finally:
            self._writer.transport.abort()

    async def _talk(self) -> None:
        await self._say(f"220 {self._host.full_name} ESMTP simulated internet")
        while True:
            line = (await self._reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "replace")
            verb = line.partition(" ")[0].upper()
            command = self._COMMANDS.get(verb)
            if command is None:
                await self._say("500 5.5.1 Command not known here")
            else:
                await command(self, line)

    async def _ehlo(self, _line: str) -> None:
        self._reset()
        words = [self._host.full_name, *EXTENSIONS]
        if self._is_encrypted:
            words.append(REQUIRETLS)
        elif self._host is not Host.NO_TLS:
            words.append("STARTTLS")
        await self._say("\r\n".join([*(f"250-{word}" for word in words[:-1]), f"250 {words[-1]}"]))

    async def _helo(self, _line: str) -> None:
        self._reset()
        await self._say(f"250 {self._host.full_name}")

    async def _starttls(self, _line: str) -> None:
        if self._is_encrypted or self._host is Host.NO_TLS:
            await self._say("503 5.5.1 No TLS here")
            return
        await self._say("220 2.0.0 Go ahead")
        if self._host is Host.BROKEN_TLS:
            await self._say("this is no TLS record")
            raise _HangUp
        await self._writer.start_tls(contexts().server)
        self._is_encrypted = True
        self._reset()

    async def _mail(self, _line: str) -> None:
        self._reset()
        if self._host is Host.BROKEN_TLS:
            await self._say("451 4.7.0 Mail is taken over TLS only here, and the handshake fails")
            return
        self._has_sender = True
        await self._say("250 2.1.0 Sender ok")

    async def _rcpt(self, line: str) -> None:
        found = _RCPT.match(line)
        if not self._has_sender or found is None:
            await self._say("503 5.5.1 MAIL first" if found else "501 5.5.4 RCPT TO:<address>")
            return
        attempt = _ATTEMPT.search(found[2])
        answers = personas.answers(found[1], int(attempt[1]) if attempt else 1)
        said = await self._act(answers.rcpt)
        if said.startswith("2"):
            self._contents.append(answers.content)

    async def _data(self, _line: str) -> None:
        if not self._contents:
            await self._say("554 5.5.1 No valid recipients" if self._has_sender else "503 5.5.1 MAIL first")
            return
        await self._say("354 Go ahead, and end with a dot on a line of its own")
        await self._swallow()
        refusals = [said for said in self._contents if not said.startswith("2")]
        await self._act(refusals[0] if refusals else self._contents[0])
        self._reset()

    async def _rset(self, _line: str) -> None:
        self._reset()
        await self._say("250 2.0.0 Forgotten")

    async def _noop(self, _line: str) -> None:
        await self._say("250 2.0.0 Nothing done")

    async def _quit(self, _line: str) -> None:
        await self._say("221 2.0.0 Goodbye")
        raise _HangUp

    async def _swallow(self) -> None:
        """Read the content to its final dot, and keep none of it."""
        tail = b"\r\n"  # a content without a line ends with the first dot
        while True:
            piece = await self._reader.read(1 << 16)
            if not piece:
                raise _HangUp
            tail = (tail + piece)[-len(_END) :] if len(piece) < len(_END) else piece[-len(_END) :]
            if tail == _END:
                return

    async def _act(self, said: Said) -> str:
        """Do what the address asks; return what was said."""
        if said is Act.HANG_UP:
            raise _HangUp
        if said is Act.SAY_NOTHING:
            while await self._reader.read(1 << 16):
                pass
            raise _HangUp
        await self._say(said)
        return str(said)

    async def _say(self, text: str) -> None:
        if self._host is Host.SLOW:
            await self._pause(STEP_SECONDS)
        self._writer.write(text.encode() + b"\r\n")
        await self._writer.drain()

    _COMMANDS: dict[str, Callable[[Conversation, str], Awaitable[None]]] = {
        "EHLO": _ehlo,
        "HELO": _helo,
        "STARTTLS": _starttls,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "RSET": _rset,
        "NOOP": _noop,
        "QUIT": _quit,
    }
