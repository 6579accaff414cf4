"""One SMTP connection: octets in, lines out, timeouts, TLS, the end (RFC 5321 §3, §4.2.4, §4.5.3.2).

Takes the place of aiosmtpd's protocol where it does not fit: introspection for every connection, a coroutine and a
timer for every command, DATA line by line, the exception's text as a reply, STARTTLS through a private class, a
half-closed peer that loses its transaction (docs/adr/0008). What the commands say is in `session.py` and `commands/`.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable, Coroutine
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import structlog
from aiosmtpd.smtp import SMTP

from mailflow import counters
from mailflow.ids import new_trace_id
from mailflow.smtp.reply import Reply

if TYPE_CHECKING:
    from mailflow.listener.server import Listener

logger = structlog.get_logger(__name__)

MAX_AUTH_OCTETS = 12288  # RFC 4954 §4, with CRLF: the longest line of all
UNREAD_OCTETS = 64 << 10  # what may wait while a command is under way
TURN_COMMANDS = 100  # obeyed in one go; then others get their turn
HANDSHAKE_SECONDS = 12.0
LINGER_SECONDS = 5.0  # how long a closed connection may take to read what was said to it
SKIPPED_OCTETS = 16  # of a line that is too long, kept to know what it was to be
LINE_SECONDS = 60.0  # for a line, from its first octet to its last

TIMED_OUT = Reply(421, "4.2", "Timeout, closing the connection")
SHUTTING_DOWN = Reply(421, "3.2", "Service is shutting down, try again later")
LINE_TOO_LONG = Reply(500, "5.2", "Line too long")
BARE_LINE_END = Reply(500, "5.2", "Lines must end with CRLF, and hold no other CR, LF or NUL")

WORKING = Reply(0, "", "")  # never said: `work` was called, and somebody will call `worked`

# What a line comes to: a reply, one that has to be waited for, or nothing (everything has been said already).
Answer = Reply | None | Coroutine[Any, Any, "Reply | None"]


class Closed(Exception):
    """The connection has ended, or must end now; nothing further is said."""


class SmtpConnection(SMTP):
    """The transport side of a session. `self.listener` holds what all connections share.

    `_advance` obeys what is in the buffer, line by line, until it is empty or something must be waited for; replies to
    what came together leave together, but where `is_prompt` (RFC 2920 §3.2). While `_is_working` the client waits for
    us and no deadline holds; else we wait for the client, to send or to read, and `deadline` holds.
    """

    def __init__(self, listener: Listener, *, implicit_tls: bool) -> None:
        # Not SMTP.__init__: it looks through every attribute of itself and of its handler, for each connection.
        self.loop = listener.loop
        self.listener = listener
        self.implicit_tls = implicit_tls
        self.hostname = listener.hostname
        self.transport: asyncio.BaseTransport | None = None
        self.trace_id = new_trace_id()
        self.client_address = ""
        self.is_balancer = False  # it speaks for itself, such as for a health check
        self.is_hidden = False  # behind a balancer that does not say who it is; the address is the balancer's
        self.is_admitted = False  # among the listener's connections
        self.is_counted = False  # among its client's connections of a minute
        self.tls = ""
        self._buffer = bytearray()
        self._searched = 0  # so much of the buffer holds no line end
        self._out: list[bytes] = []
        self.is_prompt = True  # the reply to the command under way is not held back
        self._is_working = False
        self._is_advancing = False
        self._is_closing = False
        self._is_shaking_hands = False
        self._is_skipping = False  # the rest of a line that was too long
        self.skipped = b""  # how that line began
        self._is_read_paused = False
        self._is_write_full = False
        self._has_ended = False  # the peer said its last
        self.lingers = False  # the peer may still be sending when we close
        self.taker: Callable[[bytearray], Answer] | None = None  # takes content out of the buffer while some is due
        self.heir: asyncio.Protocol | None = None  # has the connection for itself, once it was turned around
        self.deadline = math.inf  # of the loop's clock; the listener looks at it now and then
        self.waits_since = math.inf  # when we had nothing further to say; octets of a line do not put it off
        self._task: asyncio.Task[Any] | None = None

    # --- what a session adds ------------------------------------------------------------------------------------------

    def greet(self) -> Answer:
        """What is said first."""
        raise NotImplementedError

    def obey(self, line: bytes) -> Answer:
        """Take one line, without its CRLF."""
        raise NotImplementedError

    def broke_the_rules(self, reply: Reply, line: bytes) -> Answer:
        """Take notice of a line that is none; `reply` says so, `line` is at least how it began."""
        raise NotImplementedError

    def failed(self, error: Exception) -> Answer:
        """Turn what a command raised into its reply; raises `Closed`."""
        raise NotImplementedError

    def has_gone(self) -> None:
        """Give back what the session holds; called once, when the connection is lost."""

    # --- the life of the connection -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a connection that came through a door of ours was counted before."""
        self.transport = transport
        if not self.is_admitted:
            self.came_from(transport.get_extra_info("peername"))
            refusal = self.listener.admit(self)
            if refusal is not None:
                self.say(refusal)
                self.close()
                return
        if self.implicit_tls:
            self.tls = tls_words(transport)
        self.set_timeout(self.listener.timeout)
        self.waits_since = self.loop.time()
        self.begin()

    def begin(self) -> None:
        try:
            self._answer(self.greet())
        except Closed:
            self.close()
            return
        self._advance()

    def came_from(self, peer: object) -> None:
        self.client_address = plain_address(str(peer[0])) if isinstance(peer, tuple) else ""

    @cached_property
    def is_trusted(self) -> bool:
        return not self.is_hidden and self.listener.is_trusted(self.client_address)

    @cached_property
    def is_exempt(self) -> bool:
        """Whether no limit is for the client."""
        return not self.is_hidden and self.listener.gate.is_exempt(self.client_address)

    @property
    def is_loopback(self) -> bool:
        return not self.is_hidden and self.listener.is_loopback(self.client_address)

    @property
    def is_busy(self) -> bool:
        """Whether a command is under way, so that the client waits for us."""
        return self._is_working

    @property
    def is_in_transaction(self) -> bool:
        """Whether mail is on its way in."""
        return False

    @property
    def is_committing(self) -> bool:
        """Whether a message has come to its end, and is not answered yet."""
        return False

    @property
    def is_needed(self) -> bool:
        """Whether something is under way that the end of the service should not break off."""
        return not self._is_closing and (self.is_busy or self.is_in_transaction)

    @property
    def is_at_work(self) -> bool:
        """`is_needed`, and not only for a handshake, which may be silence."""
        return self.is_needed and not self._is_shaking_hands

    def connection_lost(self, error: Exception | None) -> None:
        """Give everything back; may be called twice."""
        if self.transport is None:
            return
        self.transport = None
        self._is_closing = True
        self._buffer.clear()
        if self.heir is not None:
            self.heir.connection_lost(error)
        self.has_gone()
        self.listener.release(self)

    def eof_received(self) -> bool:
        """The peer has said its last; what it already sent is still answered (`printf … | nc`)."""
        self._has_ended = True
        if self.heir is not None:
            self.heir.eof_received()
            return False
        if not self._is_working:
            self._advance()
        return not self.tls and not self._is_closing

    def pause_writing(self) -> None:
        """The peer asks and does not read: nothing more is obeyed until it does, for `timeout` at most."""
        self._is_write_full = True
        if self.heir is not None:
            self.heir.pause_writing()
            return
        self.set_timeout(self.listener.timeout)

    def resume_writing(self) -> None:
        self._is_write_full = False
        if self.heir is not None:
            self.heir.resume_writing()
            return
        if not self._is_working:
            self.loop.call_soon(self._advance)

    def close(self) -> None:
        """Close when the peer has read what was said, or soon in any case.

        To close on a peer that is still sending would be a reset, which can take the last reply with it: then we stop
        to talk, and go on to read, until it has closed too.
        """
        transport: Any = self.transport
        if transport is None or self._is_closing:
            return
        self.flush()
        self._is_closing = True
        self.set_timeout(LINGER_SECONDS)
        if (self.lingers or self._buffer or self.taker is not None) and transport.can_write_eof():
            self.resume_reading()
            self._buffer.clear()
            transport.write_eof()
        else:
            transport.close()

    def end(self, reply: Reply) -> None:
        """Say why, and close; from outside of the session (shutdown, timeout)."""
        transport: Any = self.transport
        if transport is None or self._is_closing:
            return
        if self._is_shaking_hands or self.heir is not None:  # a reply would be noise to the peer
            self.abort()
            return
        self.say(reply)
        self.lingers = True
        self.close()

    def abort(self) -> None:
        """Close at once, whatever is still to be read."""
        transport: Any = self.transport
        if transport is not None:
            self._is_closing = True
            transport.abort()

    def turn_over_to(self, heir: asyncio.Protocol) -> None:
        """Let another have the connection from here on (RFC 2645 §5.3); that it was lost is told to both.

        What the peer sent before it could know that the roles change was meant for the server that we are no more, and
        is forgotten, as at STARTTLS.
        """
        self._buffer.clear()
        self._searched = 0
        self.heir = heir
        if self._is_write_full:
            heir.pause_writing()
        self.resume_reading()

    # --- lines in, replies out ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.heir is not None:
            self.heir.data_received(data)
            return
        if self._is_closing:
            return
        self._buffer += data
        if not (self._is_working or self._is_write_full):
            self._advance()
        elif len(self._buffer) > UNREAD_OCTETS:
            self.pause_reading()

    def _advance(self) -> None:
        """Obey what has come, as far as it goes."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            self._obey_all()
        except Closed:
            self.close()
        finally:
            self._is_advancing = False
        self.flush()

    def _obey_all(self) -> None:
        buffer, obeyed = self._buffer, 0
        while not (self._is_working or self._is_write_full or self._is_closing):
            if obeyed == TURN_COMMANDS:
                if len(buffer) > UNREAD_OCTETS:
                    self.pause_reading()
                self.loop.call_soon(self._advance)
                return
            taker = self.taker
            if taker is not None:
                if not buffer:
                    break
                answer = self._attempt(taker, buffer)
                self._searched = 0
            else:
                line = self._next_line()
                if line is None:
                    break
                answer = self._judge_line(line)
            obeyed += 1
            if answer is not None:
                self._answer(answer)
        if not (self._is_working or self._is_closing or self._is_write_full):
            self._wait_for_peer(obeyed)

    def _next_line(self) -> bytes | None:
        """Take the next line out of the buffer, with its end; None where it is not whole yet."""
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched) + 1
        if end:
            line = bytes(buffer) if end == len(buffer) else bytes(buffer[:end])
            del buffer[:end]
            self._searched = 0
            return line
        if len(buffer) > MAX_AUTH_OCTETS:  # longer than any line may be: the rest of it is thrown away
            if not self._is_skipping:
                self._is_skipping, self.skipped = True, bytes(buffer[:SKIPPED_OCTETS])
            buffer.clear()
        self._searched = len(buffer)
        return None

    def _judge_line(self, line: bytes) -> Answer:
        if self._is_skipping:
            self._is_skipping = False
            return self.broke_the_rules(LINE_TOO_LONG, self.skipped)
        if line[-2:] != b"\r\n" or line.count(b"\r") != 1 or b"\0" in line:
            return self.broke_the_rules(BARE_LINE_END, line)
        return self._attempt(self.obey, line[:-2])

    def _attempt(self, function: Callable[[Any], Answer], argument: bytes | bytearray) -> Answer:
        try:
            return function(argument)
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001  (`failed` tells refusals from bugs)
            return self.failed(error)

    def _answer(self, answer: Answer) -> None:
        """Say a reply, or wait for one that is under way."""
        if isinstance(answer, Reply):
            if answer is not WORKING:
                self.say(answer)
                if self.is_prompt:
                    self.flush()
            return
        if answer is None:
            return
        self.work()
        self._task = self.loop.create_task(answer)
        self._task.add_done_callback(self._task_done)

    def work(self) -> None:
        """From now on the client waits for us, until `worked`."""
        self._is_working = True
        self.flush()

    def worked(self, reply: Reply | None) -> None:
        """What was waited for is there: say it and go on."""
        self._is_working = False
        if self._is_closing:
            return
        self.waits_since = self.loop.time()
        if self.taker is None:  # else it has set the deadline of content
            self.deadline = self.waits_since + self.listener.idle_timeout
        if reply is not None:
            self._answer(reply)
        self.resume_reading()
        if not self._is_write_full:
            self._advance()
        else:
            self.flush()

    def _task_done(self, task: asyncio.Task[Reply | None]) -> None:
        if self._task is task:  # its answer may have begun another already
            self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            if (reply := task.result()) is not WORKING:
                self.worked(reply)
        elif isinstance(error, Closed):
            self._is_working = False
            self.close()
        elif isinstance(error, Exception):
            self.failed_at_work(error)

    def failed_at_work(self, error: Exception) -> None:
        """`worked`, with what went wrong instead of a reply."""
        self._is_working = False
        try:
            self._answer(self.failed(error))
        except Closed:
            self.close()
            return
        if not self._is_working:
            self.worked(None)

    def say(self, reply: Reply) -> None:
        """Put a reply behind those that wait to be sent."""
        if not self._is_closing:
            self._out.append(_encoded(reply))

    def say_octets(self, octets: bytes) -> None:
        """`say` for a reply that comes once and is not worth remembering; `octets` is whole lines."""
        if not self._is_closing:
            self._out.append(octets)

    def flush(self) -> None:
        """Send what was said."""
        out = self._out
        if out and self.transport is not None and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))  # type: ignore[attr-defined]
        out.clear()

    def pause_reading(self) -> None:
        transport: Any = self.transport
        if not self._is_read_paused and transport is not None and not transport.is_closing():
            self._is_read_paused = True
            transport.pause_reading()

    def resume_reading(self) -> None:
        transport: Any = self.transport
        if self._is_read_paused and transport is not None and not transport.is_closing():
            self._is_read_paused = False
            transport.resume_reading()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _wait_for_peer(self, obeyed: int) -> None:
        """All is said and obeyed: it is the peer's turn, or it has left."""
        if self._has_ended:
            self.close()
            return
        if self.taker is not None:
            return  # whoever takes octets sets the deadline, and may have stopped reading
        self.resume_reading()
        now = self.loop.time()
        if obeyed:
            self.waits_since = now
            self.deadline = now + self.listener.idle_timeout
        if self._buffer and self.deadline > now + LINE_SECONDS:
            # The first octets of a line; those that follow do not put its end off.
            self.set_timeout(LINE_SECONDS)

    def set_timeout(self, seconds: float) -> None:
        """Move the deadline; no timer is made or cancelled for it."""
        self.deadline = self.loop.time() + seconds

    def is_late(self, now: float) -> bool:
        """Whether the peer has kept us waiting for too long."""
        return self.deadline <= now and (self._is_closing or not self._is_working)

    def expire(self) -> None:
        """The deadline has passed: say so and close, or where that was done already close at once."""
        if self._is_closing:
            self.abort()
        else:
            self.timed_out()

    def timed_out(self) -> None:
        self.end(TIMED_OUT)

    # --- TLS ----------------------------------------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Handshake on the open connection; what was sent in clear before it is forgotten (RFC 3207 §4.2)."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise Closed
        self._buffer.clear()
        self._searched = 0
        self.resume_reading()
        self.flush()  # the 220 that the client waits for
        self._is_shaking_hands = True
        encrypted: asyncio.Transport | None = None
        cause = "the connection was lost"
        try:
            encrypted = await self.loop.start_tls(
                transport,  # type: ignore[arg-type]
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=min(HANDSHAKE_SECONDS, self.listener.timeout),
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
            logger.info("smtp.tls_failed", client_address=self.client_address, cause=cause, trace_id=self.trace_id)
            counters.add("smtp.tls.failed")
            raise Closed
        self.transport = encrypted
        self.tls = tls_words(encrypted)


@lru_cache(maxsize=512)
def _encoded(reply: Reply) -> bytes:
    return reply.encode()


def tls_words(transport: asyncio.BaseTransport) -> str:
    """Return protocol and cipher, such as `TLSv1.3 TLS_AES_256_GCM_SHA384`."""
    tls: Any = transport.get_extra_info("ssl_object")
    if tls is None:
        return "TLS"
    cipher = tls.cipher()
    return f"{tls.version()} {cipher[0] if cipher else ''}".strip()


def plain_address(address: str) -> str:
    """Return an IPv4 client of a dual-stack socket as IPv4, and IPv6 without its zone."""
    return address.removeprefix("::ffff:").partition("%")[0]
