"""Peers that hold on, flood, or talk of something else: each until it is cut off (RFC 5321 §4.5.3.2, §7.8).

They run in a process of their own, so that what an honest client measures beside them is the listener's doing. Waits
end by `asyncio.timeout`: `wait_for` of Python 3.11 loses a cancellation that comes as what it waits for is there.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from bench.prepare import LOCAL_RECIPIENT
from bench.smtp_client import HOST

TRICKLE_SECONDS = 1.0  # for an octet
REFUSED_AT_CONNECT = "421 4.3.2"
BURST = 40  # connections at once, by whoever goes for the cap
_WINDOW = 50  # commands on their way at once


@dataclass(frozen=True, slots=True)
class Cut:
    """How one attack ended; `reply` is the last one heard, `is_closed` whether the listener ended it in time."""

    kind: str
    reply: str
    seconds: float
    is_closed: bool


class Peer:
    """One connection of an attacker. `said` is the last reply line; `closed` is set when the listener has ended it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.said = ""
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.closed = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(reader))

    @classmethod
    async def connect(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection(HOST, port))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, ValueError):
            while line := await reader.readline():
                text = line.decode("ascii", "replace").rstrip()
                if text[3:4] != "-":
                    self.said = text
                    self.lines.put_nowait(text)
        self.closed.set()
        self.lines.put_nowait("")

    async def ask(self, command: str) -> str:
        """Send a command, or nothing, and return the last line of the reply; "" where the connection is closed."""
        if command:
            await self.send(command.encode() + b"\r\n")
        if self.closed.is_set() and self.lines.empty():
            return ""
        return await self.lines.get()

    async def send(self, octets: bytes) -> None:
        """Send what can be sent; to a peer that has closed, nothing."""
        if self.closed.is_set():
            return
        try:
            self.writer.write(octets)
            await self.writer.drain()
        except OSError:
            self.closed.set()

    def close(self) -> None:
        """Leave at once: to close in order would wait until the listener has read what it no longer reads."""
        self._listening.cancel()
        self.writer.transport.abort()


# --- one attack each; they return when they are cut off, or never -----------------------------------------------------


async def trickle_a_command(peer: Peer) -> None:
    await peer.ask("EHLO client.example")
    await _trickle(peer, b"NOOP " + b"x" * 300)


async def trickle_a_message(peer: Peer) -> None:
    for command in ("EHLO client.example", "MAIL FROM:<slow@source.example>", f"RCPT TO:<{LOCAL_RECIPIENT}>", "DATA"):
        await peer.ask(command)
    await _trickle(peer, b"Subject: slow\r\n\r\n" + b"x" * 10_000)


async def _trickle(peer: Peer, octets: bytes) -> None:
    for octet in octets:
        await peer.send(bytes([octet]))
        with suppress(TimeoutError):
            async with asyncio.timeout(TRICKLE_SECONDS):
                await peer.closed.wait()
            return


async def flood_with_noop(peer: Peer) -> None:
    await peer.ask("EHLO client.example")
    while not peer.closed.is_set():
        await peer.send(b"NOOP\r\n" * _WINDOW)
        for _ in range(_WINDOW):  # whoever never stops sending would lose the last reply to a reset of the connection
            await peer.ask("")


async def flood_with_unknown_commands(peer: Peer) -> None:
    await peer.ask("EHLO client.example")
    while not peer.closed.is_set():
        await peer.send(b"XYZZY plugh\r\n" * 5)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await peer.closed.wait()


async def ask_for_a_web_page(peer: Peer) -> None:
    await peer.send(b"GET / HTTP/1.1\r\nHost: mail.example\r\nUser-Agent: x\r\n\r\n")
    await peer.closed.wait()


async def begin_tls_in_clear(peer: Peer) -> None:
    hello = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="mail.example").do_handshake()
    await peer.send(hello.read())
    await peer.closed.wait()


SLOW: dict[str, Callable[[Peer], Awaitable[None]]] = {
    "an octet a second of a command": trickle_a_command,
    "an octet a second of a message": trickle_a_message,
}
QUICK: dict[str, Callable[[Peer], Awaitable[None]]] = {
    "NOOP without end": flood_with_noop,
    "unknown commands": flood_with_unknown_commands,
    "an HTTP request": ask_for_a_web_page,
    "a TLS hello in clear": begin_tls_in_clear,
}
NEVER_READING = "asks and never reads"
BEYOND_CAP = "connections beyond the cap"


# --- all of them ------------------------------------------------------------------------------------------------------


def attack(port: int, slow: int, patience: float) -> list[Cut]:
    """Hold `slow` connections for as long as they are let, the other attacks again and again beside them."""
    return asyncio.run(_attack(port, slow, patience))


async def _attack(port: int, slow: int, patience: float) -> list[Cut]:
    cuts: list[Cut] = []
    kinds = list(SLOW)
    holding = [
        asyncio.create_task(_once(port, kinds[number % len(kinds)], SLOW[kinds[number % len(kinds)]], patience))
        for number in range(slow)
    ]
    holding.append(asyncio.create_task(_never_read(port, patience)))
    await asyncio.sleep(0.5)  # they hold their places before anybody goes for the rest
    beside = [asyncio.create_task(_again(port, kind, QUICK[kind], patience, cuts)) for kind in QUICK]
    beside.append(asyncio.create_task(_go_beyond(port, cuts)))
    cuts += await asyncio.gather(*holding)
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    return cuts


async def _once(port: int, kind: str, attack: Callable[[Peer], Awaitable[None]], patience: float) -> Cut:
    """Run one attack to its end; one that got no place is `REFUSED_AT_CONNECT`."""
    started = time.perf_counter()
    try:
        peer = await Peer.connect(port)
    except OSError as error:
        return Cut(kind, f"no connection: {error}", time.perf_counter() - started, is_closed=False)
    try:
        if (greeting := await peer.ask("")).startswith("220"):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await attack(peer)
        seconds = time.perf_counter() - started
        return Cut(kind, greeting if not greeting.startswith("220") else peer.said, seconds, peer.closed.is_set())
    finally:
        peer.close()


async def _again(
    port: int, kind: str, attack: Callable[[Peer], Awaitable[None]], patience: float, cuts: list[Cut]
) -> None:
    while True:
        cut = await _once(port, kind, attack, patience)
        if not cut.reply.startswith(REFUSED_AT_CONNECT) or cut.seconds > 1:
            cuts.append(cut)  # who got no place has shown nothing
        await asyncio.sleep(0.1)


async def _never_read(port: int, patience: float) -> Cut:
    """Send questions whose answers nobody reads, until the listener gives up."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    is_closed = False
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await loop.sock_connect(connection, (HOST, port))
        try:
            async with asyncio.timeout(patience):
                while True:
                    await loop.sock_sendall(connection, b"EHLO client.example\r\n" * 500)
        except TimeoutError:
            pass
        except OSError:
            is_closed = True
    return Cut(NEVER_READING, "", time.perf_counter() - started, is_closed)


async def _go_beyond(port: int, cuts: list[Cut]) -> None:
    """Take every free place at once, again and again; those beyond the cap must be told so."""
    while True:
        started = time.perf_counter()
        opened = await asyncio.gather(*(Peer.connect(port) for _ in range(BURST)), return_exceptions=True)
        peers = [peer for peer in opened if isinstance(peer, Peer)]
        greetings = [await peer.ask("") for peer in peers]
        seconds = time.perf_counter() - started
        for peer, greeting in zip(peers, greetings, strict=True):
            if not greeting.startswith("220"):
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await peer.closed.wait()
                cuts.append(Cut(BEYOND_CAP, greeting, seconds, peer.closed.is_set()))
        for peer in peers:
            peer.close()
        await asyncio.sleep(1)
