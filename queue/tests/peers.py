"""An SMTP server that says what a test tells it to say, well or badly, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from queue.transports.base import NextHop


class Silence:
    """Say nothing for as long as the connection lasts."""


class Close:
    """Close without a word."""


@dataclass(frozen=True)
class Last:
    """Say this, then close."""

    text: str


@dataclass(frozen=True)
class Raw:
    """Put exactly these octets on the wire; with `endless`, again and again until the client is gone."""

    octets: bytes
    endless: bool = False


@dataclass(frozen=True)
class Slowly:
    """Say this one octet at a time, with so many seconds between them."""

    text: str
    pause: float = 0.0


Say = str | Silence | Close | Last | Raw | Slowly


@dataclass(frozen=True)
class Received:
    """One message as the peer got it: content without the final dot, stuffing undone."""

    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    tls: bool


class _Closed(Exception):
    """The script says that the connection ends here."""


@dataclass
class Peer:
    """What to say at each step. A list is gone through, its last item again and again; `run()` gives a listening peer.

    Results: `messages`, `commands` (all connections), `connections`, `pieces` (what each read from the socket brought:
    one write of the client on loopback), `dots` (empty messages ended by a lone dot).
    """

    greeting: Sequence[Say] = ("220 peer.test ESMTP",)
    ehlo: Sequence[Say] = ()
    helo: Sequence[Say] = ("250 peer.test",)
    extensions: Sequence[str] = ("PIPELINING", "8BITMIME", "SIZE 0")
    starttls: Sequence[Say] = ("220 2.0.0 go ahead",)
    tls: ssl.SSLContext | None = None
    auth: Sequence[Say] = ("235 2.7.0 welcome",)
    mail: Sequence[Say] = ("250 2.1.0 ok",)
    rcpt: Sequence[Say] = ("250 2.1.5 ok",)
    data: Sequence[Say] = ("354 go ahead",)
    dot: Sequence[Say] = ("250 2.0.0 taken",)
    rset: Sequence[Say] = ("250 2.0.0 ok",)
    quit: Sequence[Say] = ("221 2.0.0 bye",)
    refuse_at_octets: int = 0  # answer `dot` and close as soon as so much of the content came

    messages: list[Received] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    connections: int = 0
    dots: int = 0
    port: int = 0
    _said: dict[str, int] = field(default_factory=dict)
    _reached: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def hop(self) -> NextHop:
        return NextHop("peer.test", "127.0.0.1", self.port)

    @contextlib.asynccontextmanager
    async def run(self, port: int = 0) -> AsyncIterator[Peer]:
        """Listen on a free port while the block runs."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**16, ssl=self._listen_tls())
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def in_thread(self, port: int = 0) -> Iterator[Peer]:
        """The same for tests that have no event loop."""
        ready = threading.Event()
        stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def serve() -> None:
            done = asyncio.Event()
            stop.append((asyncio.get_running_loop(), done))
            async with self.run(port):
                ready.set()
                await done.wait()

        thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        thread.start()
        ready.wait(60)
        try:
            yield self
        finally:
            loop, done = stop[0]
            loop.call_soon_threadsafe(done.set)
            thread.join(10)

    def _listen_tls(self) -> ssl.SSLContext | None:
        """Return the context of a peer that speaks TLS from the first octet."""
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await _Conversation(self, reader, writer).hold()
        except (_Closed, ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort() if writer.is_closing() else writer.close()
            self._tasks.discard(task)

    def reached(self, step: str) -> asyncio.Event:
        """Set as soon as the step has been reached for the first time."""
        return self._reached[step]

    def next_line(self, step: str) -> Say:
        lines: Sequence[Say] = getattr(self, step)
        number = self._said.get(step, 0)
        self._said[step] = number + 1
        self._reached[step].set()
        return lines[min(number, len(lines) - 1)]


class _Conversation:
    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._mail_from = ""
        self._recipients: list[str] = []
        self._tls = False

    async def hold(self) -> None:
        await self._say("greeting")
        while True:
            line = (await self._read_until(b"\r\n"))[:-2].decode()
            self._peer.commands.append(line)
            verb = line[:4].upper()
            if verb == "EHLO" and not self._peer.ehlo:
                await self._speak(self._announcement())
            elif verb == "STAR":
                await self._starttls()
            elif verb == "DATA":
                await self._data()
            elif verb == "BDAT":
                await self._chunk(int(line.split()[1]))
            elif verb == "MAIL":
                self._recipients.clear()
                self._mail_from = line[11:].partition(">")[0]
                await self._say("mail")
            elif verb == "RCPT":
                reply = await self._say("rcpt")
                if reply.startswith("2"):
                    self._recipients.append(line[9:].partition(">")[0])
            elif verb in {"EHLO", "HELO", "AUTH", "RSET", "QUIT"}:
                await self._say(verb.lower())
            else:
                await self._say("auth")  # an answer to 334

    async def _read_until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._read()
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    async def _read(self) -> None:
        piece = await self._reader.read(2**16)
        if not piece:
            raise _Closed
        self._peer.pieces.append(piece)
        self._buffer += piece

    def _announcement(self) -> str:
        words = [*self._peer.extensions]
        if self._peer.tls is not None and not self._tls:
            words.append("STARTTLS")
        lines = ["peer.test", *words]
        return "\r\n".join(f"250{'-' if n < len(lines) - 1 else ' '}{word}" for n, word in enumerate(lines))

    async def _starttls(self) -> None:
        reply = await self._say("starttls")
        if self._peer.tls is not None and reply.startswith("220"):
            await self._writer.start_tls(self._peer.tls)
            self._tls = True

    async def _data(self) -> None:
        reply = await self._say("data")
        if not reply.startswith("354"):
            return
        if self._peer.refuse_at_octets:
            while len(self._buffer) < self._peer.refuse_at_octets:
                await self._read()
            await self._say("dot")
            raise _Closed
        if not self._recipients:
            await self._read_until(b".\r\n")
            self._peer.dots += 1
            await self._speak("554 5.5.1 no valid recipients")
            return
        pieces = [self._buffer]
        while not b"".join(pieces[-2:]).endswith(b"\r\n.\r\n") and pieces[-1] != b".\r\n":
            self._buffer = b""
            await self._read()
            pieces.append(self._buffer)
        self._buffer = b""
        content = b"".join(pieces)[:-3]
        content = (b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:]
        await self._say("dot", taking=content)

    async def _chunk(self, size: int) -> None:
        while len(self._buffer) < size:
            await self._read()
        content, self._buffer = self._buffer[:size], self._buffer[size:]
        await self._say("dot", taking=content)

    def _take(self, reply: str, content: bytes | None) -> None:
        """Note what the reply takes, before anybody can have heard that it is taken."""
        if content is not None and reply.startswith("2"):
            self._peer.messages.append(Received(self._mail_from, tuple(self._recipients), content, self._tls))

    async def _say(self, step: str, *, taking: bytes | None = None) -> str:
        """Do what the script has for the step; return the words said, if it was plain words.

        With 2yz it takes the content `taking`.
        """
        said = self._peer.next_line(step)
        if isinstance(said, str):
            self._take(said, taking)
            await self._speak(said)
            return said
        if isinstance(said, Last):
            self._take(said.text, taking)
            await self._speak(said.text)
            raise _Closed
        if isinstance(said, Raw):
            await self._put(said)
            return ""
        if isinstance(said, Slowly):
            for octet in said.text.encode() + b"\r\n":
                if octet == ord("\n"):
                    self._take(said.text, taking)
                self._writer.write(bytes([octet]))
                await self._writer.drain()
                await asyncio.sleep(said.pause)
            return said.text
        if isinstance(said, Silence):
            while await self._reader.read(2**16):
                pass
        raise _Closed

    async def _put(self, said: Raw) -> None:
        self._writer.write(said.octets)
        await self._writer.drain()
        while said.endless:
            self._writer.write(said.octets)
            await self._writer.drain()
            await asyncio.sleep(0)

    async def _speak(self, text: str) -> None:
        self._writer.write(text.encode() + b"\r\n")
        await self._writer.drain()
