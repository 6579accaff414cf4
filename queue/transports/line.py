"""The line to a peer: octets out, replies in, every wait with a deadline (RFC 5321 §4.5.3.2).

Runs on asyncio's own loop and on uvloop. One coroutine uses a line at a time.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import NoReturn, cast

from queue.transports.replies import MAX_LINE_OCTETS, MalformedReply, PeerReply, ReplyReader

CHUNK_OCTETS = 256 * 1024  # of a large message at a time: with TLS, a write is computation that the loop waits for
MAX_UNREAD_OCTETS = 64 * MAX_LINE_OCTETS
_DER = 2  # OpenSSL's number for the binary encoding, in Python's `_ssl`


class LineLost(Exception):
    """The line is no good any more: closed, silent, garbled, or the peer said 421 (then `reply` has its words).

    `is_silent`: it was waited for in vain, which may have taken minutes.
    """

    def __init__(self, reason: str, reply: PeerReply | None = None, *, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.reply = reply
        self.is_silent = is_silent


class Line(asyncio.Protocol):
    """A connection that has been made; `open_line` makes it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0  # of the wait that is going on
        self._lost = ""
        self._is_silent = False
        self._step = "the greeting"
        self._paused = False

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of it

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._waiter is None and self._reader.octets > MAX_UNREAD_OCTETS:
            self.abort("the peer sent much that it was not asked for")
        self._wake()

    def eof_received(self) -> None:
        self._lost = self._lost or "the peer closed the connection"
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f"the connection broke: {exc.__class__.__name__}" if exc else "the peer closed the connection"
        self._lost = self._lost or reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- what a session calls ---

    @property
    def is_quiet(self) -> bool:
        """Whether the line is open and nothing came that nobody asked for."""
        return not self._lost and not self._reader.has_octets

    @property
    def tls(self) -> str:
        """Protocol and cipher, such as `TLSv1.3 TLS_AES_256_GCM_SHA384`; empty in clear."""
        ssl_object = self._transport.get_extra_info("ssl_object") if self._transport else None
        cipher = ssl_object.cipher() if ssl_object else None
        return f"{ssl_object.version()} {cipher[0]}" if ssl_object and cipher else ""

    @property
    def local_address(self) -> str:
        """The address of ours that the connection goes out from; empty where it is not known."""
        name = self._transport.get_extra_info("sockname") if self._transport else None
        return str(name[0]) if name else ""

    def certificates(self) -> list[bytes]:
        """The peer's certificates as it showed them, in DER, its own first; checked by nobody."""
        ssl_object = self._transport.get_extra_info("ssl_object") if self._transport else None
        # Public from Python 3.13 on (`SSLObject.get_unverified_chain`).
        chain = ssl_object._sslobj.get_unverified_chain() if ssl_object else None
        return [certificate.public_bytes(_DER) for certificate in chain or ()]

    def send(self, octets: bytes | memoryview) -> None:
        """Write without waiting. Octets of the peer that answer nothing we said mean that we no longer know which reply
        belongs to which command, and end the line."""
        if self._reader.has_octets:
            self._give_up("the peer answered more than it was asked", self._closing_words())
        if self._lost or self._transport is None:
            raise self._loss()
        self._transport.write(octets)

    async def reply(self, step: str, seconds: float, *, until: float | None = None) -> PeerReply:
        """Return the next reply, whole, within `seconds` and before the loop's time `until`; `step` is for the words of
        a loss."""
        self._step = step
        deadline = 0.0
        while True:
            try:
                reply = self._reader.take()
            except MalformedReply as error:
                self._give_up(f"the peer sent {error}")
            if reply is not None and reply.code == 421:
                self._give_up("the peer closes the session", reply)
            if reply is not None:
                return reply
            if self._lost:
                raise self._loss()
            deadline = deadline or min(self._loop.time() + seconds, until or math.inf)
            await self._wait(deadline)

    async def send_content(self, octets: bytes | bytearray, seconds: float) -> bool:
        """Write much, as fast as the peer takes it; False where it answered before it had all of it."""
        self._step = "the content"
        deadline = self._loop.time() + seconds
        view = memoryview(octets)
        for start in range(0, len(octets), CHUNK_OCTETS):
            if start and self._reader.has_octets:
                return False
            self.send(view[start : start + CHUNK_OCTETS])
            while self._paused and not self._reader.has_octets:
                if self._lost:
                    raise self._loss()
                await self._wait(deadline)
        return not self._paused

    async def start_tls(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Encrypt the line, or raise `OSError` (`ssl.SSLError` is one) or `ValueError` and leave it closed.

        What came in clear before is forgotten: somebody wanted it taken for an answer under TLS (RFC 3207 §6).
        """
        self._reader.forget()
        if self._lost or self._transport is None:
            raise ConnectionResetError(self._lost)
        try:
            async with asyncio.timeout(seconds):
                upgraded = await self._loop.start_tls(
                    self._transport, self, context, server_hostname=host, ssl_handshake_timeout=seconds
                )
        except BaseException:
            self.abort("the TLS handshake failed")
            raise
        if upgraded is None:
            raise ConnectionAbortedError("the connection closed during the TLS handshake")
        self._transport = upgraded

    def abort(self, reason: str = "the session is over") -> None:
        self._lost = self._lost or reason
        if self._transport is not None:
            self._transport.abort()

    # --- inside ---

    async def _wait(self, deadline: float) -> None:
        """Sleep until something happens to the line.

        One timer serves many waits: a wait moves the deadline, and the timer sees when it fires whether that was meant.
        """
        self._waiter = self._loop.create_future()
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            self._set_timer(deadline)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._set_timer(self._deadline)
            return
        self._is_silent = True
        self.abort("the peer took too long")
        self._waiter.set_exception(self._loss())

    def _loss(self) -> LineLost:
        return LineLost(f"{self._lost} (at {self._step})", is_silent=self._is_silent)

    def _give_up(self, reason: str, reply: PeerReply | None = None) -> NoReturn:
        self.abort(reason)
        raise LineLost(f"{reason} (at {self._step})", reply)

    def _closing_words(self) -> PeerReply | None:
        """Return the 421 that came unasked, where one did."""
        try:
            reply = self._reader.take()
        except MalformedReply:
            return None
        return reply if reply is not None and reply.code == 421 else None


async def open_line(address: str, port: int, seconds: float) -> Line:
    """Connect to a literal address, or raise `OSError` (`TimeoutError` is one)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        _, line = await loop.create_connection(Line, address, port)
    return line
