"""The next hop of a chaos run: an SMTP server that notes what it takes, and fails in many ways (RFC 5321 §4.2)."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from chaos import letters

HARD = "hard-"  # recipients that begin so do not exist here
_LIMIT_OCTETS = 8 << 20
# Of all chances at a step, the share that ends badly. Together about one attempt in four does.
_SHARES = {
    "421 greeting": 0.02,
    "451 MAIL": 0.03,
    "450 RCPT": 0.06,
    "452 DATA": 0.03,
    "closed in the content": 0.03,
    "451 content": 0.05,
    "closed after the content": 0.03,
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One recipient's copy that was taken; `at` is a time of the wall clock, noted before the 250 leaves."""

    copy: letters.Copy | None
    recipient: str
    at: float


class _Hangup(Exception):
    """The sink breaks off."""


class Sink:
    """Runs in a thread of its own. `arrivals` and `errors` may be read once `running()` has ended."""

    def __init__(self, seed: int) -> None:
        self.arrivals: list[Arrival] = []
        self.errors: Counter[str] = Counter()
        self.attempts = 0
        self.port = 0
        self._random = random.Random(seed)

    @contextmanager
    def running(self) -> Iterator[None]:
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._listen(started)), name="sink", daemon=True)
        thread.start()
        started.wait()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stopped.set)
            thread.join()

    async def _listen(self, started: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_LIMIT_OCTETS)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopped.wait()
        server.close()  # connections that are left are cancelled when the loop ends

    def _fails(self, how: str) -> bool:
        if self._random.random() >= _SHARES[how]:
            return False
        self.errors[how] += 1
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(_Hangup, OSError, asyncio.IncompleteReadError):
            if self._fails("421 greeting"):
                writer.write(b"421 4.3.2 not now\r\n")
                raise _Hangup
            writer.write(b"220 sink.test ESMTP\r\n")
            await _Session(self, reader, writer).run()
        writer.close()

    def refuses(self, how: str) -> bool:
        return self._fails(how)

    async def take(self, recipients: list[str], content: bytes) -> str:
        """Note the copies, after the time that a real server's disk would need; return the reply."""
        await asyncio.sleep(self._random.uniform(0, 0.1) if self._random.random() < 0.9 else 0.8)
        if self._fails("closed after the content"):
            raise _Hangup
        if self._fails("451 content"):
            return "451 4.3.0 try again"
        found = letters.read(content)
        copy = found if isinstance(found, letters.Copy) else None
        now = time.time()
        self.arrivals += [Arrival(copy, recipient, now) for recipient in recipients]
        return "250 2.0.0 taken"


class _Session:
    """One connection: commands one by one, so that a pipelining client is served as well."""

    def __init__(self, sink: Sink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sink = sink
        self._reader = reader
        self._writer = writer
        self._recipients: list[str] = []

    async def run(self) -> None:
        while line := await self._reader.readline():
            verb = line[:4].strip().upper().decode("ascii", "replace")
            if verb == "QUIT":
                self._say("221 2.0.0 bye")
                return
            self._say(await self._data() if verb == "DATA" else self._answer(verb, line))
            await self._writer.drain()

    def _say(self, reply: str) -> None:
        self._writer.write(reply.encode("ascii") + b"\r\n")

    def _answer(self, verb: str, line: bytes) -> str:
        match verb:
            case "EHLO":
                return "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES"
            case "MAIL":
                self._sink.attempts += 1
                self._recipients = []
                return "451 4.3.2 try again" if self._sink.refuses("451 MAIL") else "250 2.1.0 ok"
            case "RCPT":
                return self._recipient(line.partition(b"<")[2].partition(b">")[0].decode("ascii", "replace"))
            case "RSET":
                self._recipients = []
                return "250 2.0.0 ok"
            case _:
                return "502 5.5.1 not here"

    def _recipient(self, address: str) -> str:
        if address.startswith(HARD):
            return "550 5.1.1 no such user"
        if self._sink.refuses("450 RCPT"):
            return "450 4.2.1 try again"
        self._recipients.append(address)
        return "250 2.1.5 ok"

    async def _data(self) -> str:
        if not self._recipients:
            return "503 5.5.1 no recipients"
        if self._sink.refuses("452 DATA"):
            return "452 4.3.1 try again"
        self._say("354 go ahead")
        if self._sink.refuses("closed in the content"):
            await self._reader.read(500)
            raise _Hangup
        stuffed = await self._reader.readuntil(b"\r\n.\r\n")
        recipients, self._recipients = self._recipients, []
        return await self._sink.take(recipients, stuffed[:-3].replace(b"\r\n..", b"\r\n."))
