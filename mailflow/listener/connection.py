"""One SMTP connection: bytes in, lines out, timeouts, TLS, the end (RFC 5321 §3, §4.2.4, §4.5.3.2).

Subclasses aiosmtpd's protocol and replaces what does not fit: introspection for every connection, a timer for every
command, DATA line by line, the exception's text as a reply, STARTTLS through a private class, a half-closed peer that
loses its transaction. The commands themselves are in `commands.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import structlog
from aiosmtpd.smtp import SMTP

from mailflow import counters
from mailflow.ids import new_trace_id
from mailflow.smtp.data import DataCollector
from mailflow.smtp.reply import Reply

if TYPE_CHECKING:
    from mailflow.listener.server import Listener

logger = structlog.get_logger(__name__)

MAX_COMMAND_OCTETS = 512  # RFC 5321 §4.5.3.1.4, with CRLF; extensions add to MAIL and RCPT
MAX_EXTENDED_COMMAND_OCTETS = 2048
MAX_AUTH_OCTETS = 12288  # RFC 4954 §4
WRITE_BUFFER_OCTETS = 65536

TIMED_OUT = Reply(421, "4.2", "Timeout, closing the connection")
SHUTTING_DOWN = Reply(421, "3.2", "Service is shutting down, try again later")
TOO_MANY = Reply(421, "3.2", "Too many connections, try again later")
INTERNAL_ERROR = Reply(451, "3.0", "Local error in processing, try again later")
LINE_TOO_LONG = Reply(500, "5.2", "Line too long")
BARE_LINE_END = Reply(500, "5.2", "Lines must end with CRLF, and hold no other CR, LF or NUL")


class Closed(Exception):
    """The connection has ended, or must end now; nothing further is said."""


class SmtpConnection(SMTP):
    """The transport side of a session. `self.listener` holds what all connections share."""

    def __init__(self, listener: Listener, *, implicit_tls: bool) -> None:
        # Not SMTP.__init__: it looks through every attribute of itself and of its handler, for each connection.
        self.loop = listener.loop
        asyncio.StreamReaderProtocol.__init__(
            self,
            asyncio.StreamReader(loop=self.loop, limit=MAX_AUTH_OCTETS),
            client_connected_cb=self._cb_client_connected,
            loop=self.loop,
        )
        self.listener = listener
        self.implicit_tls = implicit_tls
        self.hostname = listener.hostname
        self.transport: asyncio.BaseTransport | None = None
        self.trace_id = new_trace_id()
        self.client_address = ""
        self.tls = ""
        self.busy = False  # between a command and its reply; a shutdown waits for it
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._collector: DataCollector | None = None
        self._collected: asyncio.Future[None] | None = None
        self._data_paused = False
        self._handler_coroutine: asyncio.Task[None] | None = None

    # --- the life of the connection -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        asyncio.StreamReaderProtocol.connection_made(self, transport)
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.client_address = _plain_address(peer[0]) if isinstance(peer, tuple) else ""
        if self.implicit_tls:
            self.tls = tls_words(transport)
        if not self.listener.admit(self):
            self.write(TOO_MANY)
            transport.close()
            return
        self._set_timeout(self.listener.timeout)
        self._handler_coroutine = self.loop.create_task(self._live())

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._collected is not None and not self._collected.done():
            self._collected.set_exception(Closed())
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        self.transport = None
        self.listener.release(self)

    def eof_received(self) -> bool:
        """The peer has said its last; what it already sent is still answered (`printf … | nc`)."""
        if self._collected is not None and not self._collected.done():
            self._collected.set_exception(Closed())
        asyncio.StreamReaderProtocol.eof_received(self)
        return not self.tls

    def data_received(self, data: bytes) -> None:
        if self._collector is None:
            asyncio.StreamReaderProtocol.data_received(self, data)
        else:
            self._collect(data)

    async def _live(self) -> None:
        try:
            with structlog.contextvars.bound_contextvars(trace_id=self.trace_id):
                await self.converse()
        except (Closed, ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("smtp.session_failed", client_address=self.client_address)
            self.write(Reply(421, "3.0", "Local error, closing the connection"))
        finally:
            self.close()

    async def converse(self) -> None:
        """The dialogue; `commands.SmtpSession` has it."""
        raise Closed

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def end(self, reply: Reply) -> None:
        """Say why, and close; from outside of the session (shutdown, timeout)."""
        self.write(reply)
        self.close()

    # --- reading and writing ------------------------------------------------------------------------------------------

    def write(self, reply: Reply) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(reply.encode())  # type: ignore[attr-defined]

    async def say(self, reply: Reply) -> None:
        """Write a reply; waits only where the peer does not read."""
        if self.transport is None:
            raise Closed
        self.transport.write(reply.encode())  # type: ignore[attr-defined]
        if self.transport.get_write_buffer_size() > WRITE_BUFFER_OCTETS:  # type: ignore[attr-defined]
            await self._writer.drain()

    async def read_line(self) -> bytes | None:
        """Return the next line without its CRLF; None after a line that broke the rules and was answered."""
        self._set_timeout(self.listener.timeout)
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            await self._skip_line(error.consumed)
            await self.say(LINE_TOO_LONG)
            return None
        except asyncio.IncompleteReadError:
            raise Closed from None
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            await self.say(BARE_LINE_END)
            return None
        return line[:-2]

    async def _skip_line(self, consumed: int) -> None:
        while True:
            await self._reader.readexactly(consumed)
            try:
                await self._reader.readuntil(b"\n")
                return
            except asyncio.LimitOverrunError as error:
                consumed = error.consumed
            except asyncio.IncompleteReadError:
                raise Closed from None

    async def read_data(self, limit: int) -> DataCollector:
        """Collect a message after the 354; return the collector, complete. Raises `Closed` if the peer goes away."""
        collector = DataCollector(limit)
        pending: bytearray = self._reader._buffer  # type: ignore[attr-defined]
        already = bytes(pending)
        pending.clear()
        self._reader._maybe_resume_transport()  # type: ignore[attr-defined]
        self._collected = self.loop.create_future()
        self._collector = collector
        self._set_timeout(self.listener.data_timeout)
        self._collect(already)
        if self._reader.at_eof() and not self._collected.done():
            self._collected.set_exception(Closed())
        try:
            await self._collected
        finally:
            self._collector = self._collected = None
        return collector

    def _collect(self, data: bytes) -> None:
        if self._collector is None or self._collected is None or self._collected.done():
            return
        rest = self._collector.feed(data)
        if rest is None:
            return
        self._collector = None
        self._collected.set_result(None)
        if rest:
            asyncio.StreamReaderProtocol.data_received(self, rest)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _set_timeout(self, seconds: float) -> None:
        """Move the deadline. One coarse timer a connection looks at it: no timer is made or cancelled for a command."""
        self._deadline = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._deadline, self._timer_ran)
        elif self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = self.loop.call_at(self._deadline, self._timer_ran)

    def _timer_ran(self) -> None:
        if self._deadline > self.loop.time() or (self.busy and self._collector is None):
            self._timer = self.loop.call_at(max(self._deadline, self.loop.time() + 1), self._timer_ran)
            return
        self.end(TIMED_OUT)

    # --- TLS ----------------------------------------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Handshake on the open connection; what was sent in clear before it is forgotten (RFC 3207 §4.2)."""
        transport = self.transport
        if transport is None:
            raise Closed
        self._reader._buffer.clear()  # type: ignore[attr-defined]
        try:
            encrypted = await self.loop.start_tls(
                transport,  # type: ignore[arg-type]
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=min(30.0, self.listener.timeout),
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            logger.info("smtp.tls_failed", client_address=self.client_address, cause=str(error))
            counters.add("smtp.tls.failed")
            raise Closed from None
        if encrypted is None:
            raise Closed
        self.transport = encrypted
        self._reader._transport = encrypted  # type: ignore[attr-defined]
        self._writer._transport = encrypted  # type: ignore[attr-defined]
        self._over_ssl = True
        self.tls = tls_words(encrypted)


def tls_words(transport: asyncio.BaseTransport) -> str:
    """Return protocol and cipher, such as `TLSv1.3 TLS_AES_256_GCM_SHA384`."""
    tls: Any = transport.get_extra_info("ssl_object")
    if tls is None:
        return "TLS"
    cipher = tls.cipher()
    return f"{tls.version()} {cipher[0] if cipher else ''}".strip()


def _plain_address(address: str) -> str:
    """Return an IPv4 client of a dual-stack socket as IPv4, and IPv6 without its zone."""
    return address.removeprefix("::ffff:").partition("%")[0]
