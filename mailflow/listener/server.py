"""The SMTP listener of one process: its sockets, what all its connections share, its start and its end."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog
from django.conf import settings

from mailflow import counters, runtime
from mailflow.events import NewEvent
from mailflow.limits import subjects
from mailflow.limits.limits import Limits
from mailflow.limits.rules import WITHIN, Verdict
from mailflow.listener import ports
from mailflow.listener.certificate import CertificateSource
from mailflow.listener.connection import SHUTTING_DOWN, SmtpConnection
from mailflow.listener.directory import Directory
from mailflow.listener.door import Door
from mailflow.listener.gate import Gate
from mailflow.listener.intake import Rooms
from mailflow.listener.session import Port, Session
from mailflow.models import Event
from mailflow.runtime import SmtpConfig
from mailflow.smtp.reply import Reply
from mailflow.spool import group

logger = structlog.get_logger(__name__)

BACKLOG = 512
INTAKE_THREADS = 2
TURNED_SHARE = 0.7  # of the drain, for the message under way of a turned session: its result is still to be written
COMMIT_SECONDS = 1.0  # after the drain, for messages that are complete: to be told 421 and be taken is to come twice
GOODBYE_SECONDS = 2.0  # from the beginning of the end, for clients to read that it is the end
FLUSH_SECONDS = 0.3  # and at least so long after the drain
DATA_GRACE_SECONDS = 60.0  # before SMTP_MIN_DATA_RATE is looked at
LOOK_SECONDS = 0.25  # between two looks at all deadlines
CROWDED_SHARE = 0.9  # of the places: from there on idle sessions must make room

TOO_MANY = Reply(421, "3.2", "Too many connections, try again later")
TOO_MANY_OF_YOU = Reply(421, "7.0", "Too many connections from your address, try again later")


class ListenError(Exception):
    """A port that cannot be listened on; the text is for the operator."""


class Listener:
    """Serves SMTP on one event loop. Made inside the loop; `start`, then `stop` once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, certificate: CertificateSource | None = None) -> None:
        self.loop = loop
        self.hostname: str = settings.SMTP_HOSTNAME
        self.greeting = f"220 {self.hostname} ESMTP mailproj\r\n".encode("ascii")
        self.postmaster_domain = self.hostname.lower()
        self.envelope_timeout: float = settings.SMTP_ENVELOPE_TIMEOUT
        self.is_crowded = False
        self.data_grace: float = DATA_GRACE_SECONDS
        self.data_timeout: float = settings.SMTP_DATA_TIMEOUT
        self.min_data_rate: int = settings.SMTP_MIN_DATA_RATE
        self.max_message_octets: int = settings.SMTP_MAX_MESSAGE_SIZE
        self.max_recipients: int = settings.SMTP_MAX_RECIPIENTS
        self.max_connections_per_address: int = settings.SMTP_MAX_CONNECTIONS_PER_ADDRESS
        self.tarpit_seconds: float = settings.SMTP_TARPIT_SECONDS
        self.mends_line_ends: bool = settings.SMTP_BARE_LINE_ENDS == "normalise"
        self.accepts_mail: bool = settings.SMTP_ACCEPTS_MAIL
        self.auth_enabled: bool = settings.SMTP_ENABLE_AUTH
        self.auth_requires_tls: bool = settings.SMTP_AUTH_REQUIRE_TLS
        self.certificate = certificate
        self.configure(runtime.current())
        self.drain_seconds: float = settings.SMTP_DRAIN_SECONDS
        self.is_stopping = False
        self.gate = Gate(Limits(settings.REDIS_URL))
        self.directory = Directory(loop)
        self._intake_threads = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="intake")
        self.rooms = Rooms(_incoming_folder(), self._intake_threads, loop)
        self._connections: set[SmtpConnection] = set()
        self.turned: set[Session] = set()  # gone or not: what came of their mail is not written down yet
        self._by_address: Counter[str] = Counter()
        self._admitted = 0  # since the last look
        self._servers: list[asyncio.Server] = []
        self._doors: list[Door] = []
        self._looking: asyncio.TimerHandle

    def configure(self, config: SmtpConfig) -> None:
        """Take what may change while the listener runs; open sessions follow at their next step."""
        self.timeout: float = config.timeout
        self.idle_timeout: float = config.idle_timeout
        self.max_connections: int = config.max_connections
        self.is_enabled: bool = config.enabled

    # --- sockets ------------------------------------------------------------------------------------------------------

    async def start(self) -> list[int]:
        """Listen on all ports that the settings name; return them. Raises `ListenError`."""
        wanted = [(settings.SMTP_PORT, ports.SMTP)]
        if settings.SUBMISSION_PORT:
            wanted.append((settings.SUBMISSION_PORT, ports.SUBMISSION))
        if self.certificate is not None and settings.SMTPS_PORT:
            wanted.append((settings.SMTPS_PORT, ports.SMTPS))
        if self.certificate is not None and settings.ODMRS_PORT:
            wanted.append((settings.ODMRS_PORT, ports.ODMRS))
        found = [await self._listen(number, port) for number, port in wanted]
        if settings.ODMR_PORT:
            try:
                found.append(await self._listen(settings.ODMR_PORT, ports.ODMR))
            except ListenError as error:
                if settings.ODMR_PORT_IS_WISHED:
                    raise
                logger.warning("smtp.odmr_left_out", cause=str(error))
        self._look_around()
        counters.gauge("smtp.connections.active", 0)
        self.gate.limits.publish_connections(0)
        return found

    async def _listen(self, number: int, port: Port) -> int:
        try:
            if port.implicit_tls or settings.SMTP_PROXY_NETWORKS:
                return await self._open_doors(number, port)
            server = await self.loop.create_server(
                lambda: Session(self, port), settings.SMTP_HOST, number, backlog=BACKLOG, reuse_address=True
            )
        except OSError as error:
            raise _listen_error(number, error) from None
        self._servers.append(server)
        chosen: int = server.sockets[0].getsockname()[1]
        return chosen

    async def _open_doors(self, number: int, port: Port) -> int:
        chosen = number
        for family, _kind, _protocol, _name, address in await self.loop.getaddrinfo(
            settings.SMTP_HOST, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            door = Door(self, lambda: Session(self, port), implicit_tls=port.implicit_tls)
            chosen = door.open((str(address[0]), chosen), family, BACKLOG)
            self._doors.append(door)
        return chosen

    async def stop(self) -> None:
        """Take nothing new, let running commands and transactions end, then close what is left (RFC 5321 §3.8)."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for door in self._doors:
            door.close()
        for session in list(self._connections):
            if not session.is_needed:
                session.end(SHUTTING_DOWN)
        for turned in self.turned:
            turned.wind_down()
            self.loop.call_later(TURNED_SHARE * self.drain_seconds, turned.abort)
        began = self.loop.time()
        await self._wait_while(self._is_at_work, began + self.drain_seconds)
        for session in list(self._connections):
            if not session.is_committing:
                session.end(SHUTTING_DOWN)
        await self._wait_while(self._is_committing, self.loop.time() + COMMIT_SECONDS)
        for session in list(self._connections):
            session.end(SHUTTING_DOWN)
        flushed = max(self.loop.time() + FLUSH_SECONDS, began + GOODBYE_SECONDS)
        await self._wait_while(lambda: bool(self._connections or self.turned), flushed)
        for session in list(self._connections):
            session.abort()
        self._looking.cancel()
        self._tell_connections()
        counters.gauge("smtp.connections.active", 0)
        await self.gate.limits.close()
        await self.directory.ask(counters.stop)
        self.directory.close()
        self._intake_threads.shutdown(wait=False, cancel_futures=True)

    def _is_at_work(self) -> bool:
        """Whether anything is under way that the end should wait for."""
        return bool(self.turned) or any(session.is_at_work for session in self._connections)

    def _is_committing(self) -> bool:
        return any(session.is_committing for session in self._connections)

    async def _wait_while(self, condition: Callable[[], bool], deadline: float) -> None:
        while condition() and self.loop.time() < deadline:  # noqa: ASYNC110  (once, at the end)
            await asyncio.sleep(0.02)

    def _look_around(self) -> None:
        """End whoever is late, and tell how many there are. One timer for all: one for each connection costs more."""
        now = self.loop.time()
        self._tell_connections()
        self.is_crowded = self.connections_together >= CROWDED_SHARE * self.max_connections
        for session in [session for session in self._connections if session.is_late(now)]:
            session.expire()
        self._looking = self.loop.call_later(LOOK_SECONDS, self._look_around)

    # --- connections --------------------------------------------------------------------------------------------------

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def connections_together(self) -> int:
        """Those of the other listeners too, as last heard."""
        return self.open_connections + self.gate.limits.other_connections

    def admit(self, session: SmtpConnection) -> Reply | None:
        """Count a new connection in; where there are too many, say so, leave the event and return the reply."""
        self._admitted += 1
        address = session.client_address
        together = self.connections_together
        if self.is_stopping:
            reason, reply, rule = "the listener is shutting down", SHUTTING_DOWN, "shutting_down"
        elif together >= self.max_connections:
            reason = f"{together} connections are open, SMTP_MAX_CONNECTIONS is {self.max_connections}"
            reply, rule = TOO_MANY, "max_connections"
        elif 0 < self.max_connections_per_address <= self._by_address[address] and not session.is_exempt:
            reason = (
                f"{self._by_address[address]} connections of {address} are open, "
                f"SMTP_MAX_CONNECTIONS_PER_ADDRESS is {self.max_connections_per_address}"
            )
            reply, rule = TOO_MANY_OF_YOU, "max_connections_per_address"
        else:
            session.is_admitted = True
            self._connections.add(session)
            self._by_address[address] += 1
            return None
        counters.add("smtp.connections.rejected")
        group.current().note(
            NewEvent(
                kind=Event.Kind.REFUSED.value,
                summary=f"Refused at connect: {reason}.",
                stage="connection",
                rule=rule,
                reply="" if session.implicit_tls else str(reply),
                client_address=address,
                trace_id=session.trace_id,
            )
        )
        return reply

    def count_connection(self, session: SmtpConnection) -> Verdict | Awaitable[Verdict]:
        """Take a connection out of its client's budget of a minute, once; a balancer's own has none."""
        if session.is_counted or session.is_exempt or session.is_balancer:
            return WITHIN
        session.is_counted = True
        return self.gate.connect(session.client_address)

    def release(self, session: SmtpConnection) -> None:
        """Count a connection out; may be called twice."""
        if session not in self._connections:
            return
        self._connections.discard(session)
        address = session.client_address
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]

    def _tell_connections(self) -> None:
        counters.add("smtp.connections.total", self._admitted)
        self._admitted = 0
        counters.gauge("smtp.connections.active", self.open_connections)
        self.gate.limits.publish_connections(self.open_connections)

    def is_trusted(self, client_address: str) -> bool:
        ip = subjects.of_client(client_address).ip
        return ip is not None and any(ip in network for network in settings.SMTP_TRUSTED_NETWORKS)

    def is_loopback(self, client_address: str) -> bool:
        return client_address.startswith("127.") or client_address == "::1"

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The certificate's context as it is now; a renewed one serves the next handshake."""
        return None if self.certificate is None else self.certificate.context


def _incoming_folder() -> Path:
    """Return the folder for large messages under way: beside the data, for /tmp may be memory."""
    folder: Path = settings.MAIL_DATA_DIR / "incoming"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _listen_error(port: int, error: OSError) -> ListenError:
    reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
    return ListenError(f"Port {port} on {settings.SMTP_HOST} {reason}.")
