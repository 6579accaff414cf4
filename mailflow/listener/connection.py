"""One SMTP connection: bytes in, lines out, timeouts, TLS, the end (RFC 5321 §3, §4.2.4, §4.5.3.2).

Subclasses aiosmtpd's protocol and replaces what does not fit: introspection for every connection, a timer for every
command, DATA line by line, the exception's text as a reply, STARTTLS through a private class, a half-closed peer that
loses its transaction. The commands themselves are in `commands.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import cached_property, lru_cache
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
HANDSHAKE_SECONDS = 12.0
LINGER_SECONDS = 5.0  # how long a closed connection may take to read what was said to it
DATA_OCTETS_PER_SECOND = 4096  # a message may take this long on top of `data_timeout`

TIMED_OUT = Reply(421, "4.2", "Timeout, closing the connection")
SHUTTING_DOWN = Reply(421, "3.2", "Service is shutting down, try again later")
TOO_MANY = Reply(421, "3.2", "Too many connections, try again later")
INTERNAL_ERROR = Reply(451, "3.0", "Local error in processing, try again later")
LINE_TOO_LONG = Reply(500, "5.2", "Line too long")
BARE_LINE_END = Reply(500, "5.2", "Lines must end with CRLF, and hold no other CR, LF or NUL")


class Closed(Exception):
    """The connection has ended, or must end now; nothing further is said."""


class SmtpConnection(SMTP):
    """The transport side of a session. `self.listener` holds what all connections share.

    At any time somebody is waited for: while `is_busy` the client waits for us and no deadline holds, else we wait for
    the client, to send or to read, and `_deadline` holds.
    """

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
        self.is_busy = False
        self._is_closing = False
        self._is_shaking_hands = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._collector: DataCollector | None = None
        self._collected: asyncio.Future[None] | None = None
        self._collect_until = 0.0
        self._handler_coroutine: asyncio.Task[None] | None = None

    # --- the life of the connection -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a connection to the port of implicit TLS was counted before its handshake."""
        asyncio.StreamReaderProtocol.connection_made(self, transport)
        self.transport = transport
        self.came_from(transport.get_extra_info("peername"))
        if self.implicit_tls:
            self.tls = tls_words(transport)
        elif not self.listener.admit(self):
            self.end(TOO_MANY)
            return
        self._set_timeout(self.listener.timeout)
        self._handler_coroutine = self.loop.create_task(self._live())

    def came_from(self, peer: object) -> None:
        self.client_address = _plain_address(str(peer[0])) if isinstance(peer, tuple) else ""

    @cached_property
    def is_trusted(self) -> bool:
        return self.listener.is_trusted(self.client_address)

    @property
    def is_receiving(self) -> bool:
        """Whether the client is in the middle of its message."""
        return self._collector is not None

    def connection_lost(self, error: Exception | None) -> None:
        """Give everything back; may be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
        return not self.tls and not self._is_closing

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
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
            self.is_busy = False
            self.close()

    async def converse(self) -> None:
        """The dialogue; `commands.SmtpSession` has it."""
        raise Closed

    def close(self) -> None:
        """Close when the peer has read what was said, or soon in any case."""
        if self.transport is None or self._is_closing:
            return
        self._is_closing = True
        self.transport.close()
        self._set_timeout(LINGER_SECONDS)

    def end(self, reply: Reply) -> None:
        """Say why, and close; from outside of the session (shutdown, timeout)."""
        transport: Any = self.transport
        if transport is None or self._is_closing:
            return
        if self._is_shaking_hands:  # a reply in clear would be noise to the peer
            self.abort()
            return
        self.write(reply)
        if self.is_receiving and transport.can_write_eof():
            # To close on a peer in the middle of sending would be a reset, which takes the reply with it.
            self._is_closing = True
            transport.write_eof()
            self._set_timeout(LINGER_SECONDS)
        else:
            self.close()

    def abort(self) -> None:
        """Close at once, whatever is still to be read."""
        transport: Any = self.transport
        if transport is not None:
            self._is_closing = True
            transport.abort()

    # --- reading and writing ------------------------------------------------------------------------------------------

    def write(self, reply: Reply) -> None:
        if self.transport is not None and not self._is_closing and not self.transport.is_closing():
            self.transport.write(_encoded(reply))  # type: ignore[attr-defined]

    async def say(self, reply: Reply) -> None:
        """Write a reply; waits only where the peer does not read."""
        if self.transport is None or self._is_closing:
            raise Closed
        self.transport.write(_encoded(reply))  # type: ignore[attr-defined]
        if self.transport.get_write_buffer_size() > WRITE_BUFFER_OCTETS:  # type: ignore[attr-defined]
            was_busy, self.is_busy = self.is_busy, False
            self._set_timeout(self.listener.timeout)
            await self._writer.drain()
            self.is_busy = was_busy

    async def read_line(self) -> bytes | None:
        """Return the next line without its CRLF; None after a line that broke the rules and was answered."""
        self.is_busy = False
        self._set_timeout(self.listener.timeout)
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            await self._skip_line(error.consumed)
            self.is_busy = True
            await self.say(LINE_TOO_LONG)
            return None
        except asyncio.IncompleteReadError:
            raise Closed from None
        self.is_busy = True
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
        """Collect a message after the 354; return the collector, complete. Raises `Closed` if the peer goes away.

        The caller releases the collector when it is done with the content.
        """
        collector = DataCollector(limit, self.listener.collecting)
        pending: bytearray = self._reader._buffer  # type: ignore[attr-defined]
        already = bytes(pending)
        pending.clear()
        self._reader._maybe_resume_transport()  # type: ignore[attr-defined]
        self._collected = self.loop.create_future()
        self._collector = collector
        self.is_busy = False
        self._collect_until = self.loop.time() + self.listener.data_timeout
        self._set_timeout(min(self.listener.timeout, self.listener.data_timeout))
        self._collect(already)
        if self._reader.at_eof() and not self._collected.done():
            self._collected.set_exception(Closed())
        try:
            await self._collected
        except BaseException:
            collector.release()
            raise
        finally:
            self._collector = self._collected = None
        self.is_busy = True
        return collector

    def _collect(self, data: bytes) -> None:
        collector = self._collector
        if collector is None or self._collected is None or self._collected.done():
            return
        rest = collector.feed(data)
        if rest is None:
            # Neither silence nor a trickle may hold the connection; who sends steadily gets the time that takes.
            enough = self._collect_until + collector.octets / DATA_OCTETS_PER_SECOND
            self._deadline = min(self.loop.time() + self.listener.timeout, enough)
            return
        self._collector = None
        self._collected.set_result(None)
        if not rest:
            return
        if self._reader._eof:  # type: ignore[attr-defined]  # then it takes no more, but still gives
            self._reader._buffer += rest  # type: ignore[attr-defined]
        else:
            asyncio.StreamReaderProtocol.data_received(self, rest)

    # --- time ---------------------------------------------------------------------------------------------------------

    def _set_timeout(self, seconds: float) -> None:
        """Move the deadline. One coarse timer a connection looks at it: no timer is made or cancelled for a command."""
        if self.transport is None:
            return
        self._deadline = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._deadline, self._timer_ran)
        elif self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = self.loop.call_at(self._deadline, self._timer_ran)

    def _timer_ran(self) -> None:
        now = self.loop.time()
        if self._deadline > now or (self.is_busy and not self._is_closing):
            self._timer = self.loop.call_at(max(self._deadline, now + 1), self._timer_ran)
            return
        self._timer = None
        if self._is_closing:
            self.abort()
        else:
            self.end(TIMED_OUT)

    # --- TLS ----------------------------------------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Handshake on the open connection; what was sent in clear before it is forgotten (RFC 3207 §4.2)."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise Closed
        self._reader._buffer.clear()  # type: ignore[attr-defined]
        self._is_shaking_hands = True
        self.is_busy = False
        seconds = min(HANDSHAKE_SECONDS, self.listener.timeout)
        self._set_timeout(seconds)
        encrypted: asyncio.Transport | None = None
        cause = "the connection was lost"
        try:
            encrypted = await self.loop.start_tls(
                transport,  # type: ignore[arg-type]
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=seconds,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are among them
            cause = str(error)
        finally:
            self._is_shaking_hands = False
            is_secure = encrypted is not None and encrypted.get_extra_info("ssl_object") is not None
            if not is_secure:
                # A protocol in its handshake keeps to itself that the connection was lost, so nobody else says it.
                self.abort()
                self.connection_lost(None)
        if encrypted is None or not is_secure or self.transport is None:
            logger.info("smtp.tls_failed", client_address=self.client_address, cause=cause)
            counters.add("smtp.tls.failed")
            raise Closed
        self.is_busy = True
        self.transport = encrypted
        self._reader._transport = encrypted  # type: ignore[attr-defined]
        self._writer._transport = encrypted  # type: ignore[attr-defined]
        self._over_ssl = True
        self.tls = tls_words(encrypted)


@lru_cache(maxsize=256)
def _encoded(reply: Reply) -> bytes:
    return reply.encode()


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
