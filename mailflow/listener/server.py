"""The SMTP listener of one process: its sockets, what all its connections share, its start and its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection

from accounts import addresses, credentials, users
from accounts.addresses import Resolution
from accounts.models import User
from accounts.names import Address
from mailflow import counters
from mailflow.errors import Unavailable
from mailflow.events import NewEvent
from mailflow.listener.auth import Account, Standing
from mailflow.listener.commands import SmtpSession
from mailflow.listener.connection import SHUTTING_DOWN, TOO_MANY, SmtpConnection
from mailflow.listener.tls_door import TlsDoor
from mailflow.models import Event
from mailflow.smtp.data import OctetBudget
from mailflow.smtp.reply import Reply
from mailflow.spool import group

logger = structlog.get_logger(__name__)
T = TypeVar("T")

DIRECTORY_TTL_SECONDS = 1.0
DIRECTORY_MAX_ENTRIES = 10_000
DATABASE_THREADS = 4
AUTH_THREADS = 2  # an Argon2id hash takes 64 MiB
MAX_WAITING_AUTH = 50
BACKLOG = 512
DRAIN_SECONDS = 2.0  # with the flush below it must fit into what the supervisor gives
FLUSH_SECONDS = 0.3
DATA_SECONDS = 600.0
MAX_COLLECTING_OCTETS = 1 << 30


class ListenError(Exception):
    """A port that cannot be listened on; the text is for the operator."""


class Listener:
    """Serves SMTP on one event loop. Made inside the loop; `start`, then `stop` once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tls_context: ssl.SSLContext | None) -> None:
        self.loop = loop
        self.hostname: str = settings.SMTP_HOSTNAME
        self.postmaster_domain = self.hostname.lower()
        self.timeout: float = settings.SMTP_TIMEOUT
        self.data_timeout: float = max(settings.SMTP_TIMEOUT, DATA_SECONDS)
        self.max_connections: int = settings.SMTP_MAX_CONNECTIONS
        self.max_message_octets: int = settings.SMTP_MAX_MESSAGE_SIZE
        self.max_recipients: int = settings.SMTP_MAX_RECIPIENTS
        self.collecting = OctetBudget(max(MAX_COLLECTING_OCTETS, 2 * self.max_message_octets))
        self.auth_enabled: bool = settings.SMTP_ENABLE_AUTH
        self.auth_requires_tls: bool = settings.SMTP_AUTH_REQUIRE_TLS
        self.tls_context = tls_context
        self.is_stopping = False
        self._connections: set[SmtpConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._tls_doors: list[TlsDoor] = []
        self._database = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="directory")
        self._auth = ThreadPoolExecutor(AUTH_THREADS, thread_name_prefix="auth")
        self._auth_waiting = 0
        self._directory: dict[Address, tuple[float, Resolution]] = {}
        self._asked: dict[Address, asyncio.Task[Resolution]] = {}

    # --- sockets ------------------------------------------------------------------------------------------------------

    async def start(self) -> list[int]:
        """Listen on SMTP_PORT, and with a certificate on SMTPS_PORT; return the ports. Raises `ListenError`."""
        ports = [await self._listen(settings.SMTP_PORT)]
        if self.tls_context is not None and settings.SMTPS_PORT:
            ports.append(await self._listen_tls(settings.SMTPS_PORT, self.tls_context))
        counters.gauge("smtp.connections.active", 0)
        return ports

    async def _listen(self, port: int) -> int:
        try:
            server = await self.loop.create_server(
                lambda: SmtpSession(self, implicit_tls=False),
                settings.SMTP_HOST,
                port,
                backlog=BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            raise _listen_error(port, error) from None
        self._servers.append(server)
        chosen: int = server.sockets[0].getsockname()[1]
        return chosen

    async def _listen_tls(self, port: int, context: ssl.SSLContext) -> int:
        chosen = port
        try:
            for family, _kind, _protocol, _name, address in await self.loop.getaddrinfo(
                settings.SMTP_HOST, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                door = TlsDoor(self, lambda: SmtpSession(self, implicit_tls=True), context)
                chosen = door.open((str(address[0]), port), family, BACKLOG)
                self._tls_doors.append(door)
        except OSError as error:
            raise _listen_error(port, error) from None
        return chosen

    async def stop(self) -> None:
        """Take nothing new, let running commands and transactions end, then close what is left (RFC 5321 §3.8)."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for door in self._tls_doors:
            door.close()
        for session in list(self._connections):
            if not session.is_busy and not session.is_receiving:
                session.end(SHUTTING_DOWN)
        await self._wait_for_connections(DRAIN_SECONDS)
        for session in list(self._connections):
            session.end(SHUTTING_DOWN)
        await self._wait_for_connections(FLUSH_SECONDS)
        for session in list(self._connections):
            session.abort()
        counters.gauge("smtp.connections.active", 0)
        await self._ask(counters.stop)
        self._database.shutdown(wait=False, cancel_futures=True)
        self._auth.shutdown(wait=False, cancel_futures=True)

    async def _wait_for_connections(self, seconds: float) -> None:
        deadline = self.loop.time() + seconds
        while self._connections and self.loop.time() < deadline:  # noqa: ASYNC110  (once, at the end)
            await asyncio.sleep(0.02)

    # --- connections --------------------------------------------------------------------------------------------------

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def admit(self, session: SmtpConnection) -> bool:
        """Count a new connection in; False where there are too many."""
        counters.add("smtp.connections.total")
        if self.is_stopping or self.open_connections >= self.max_connections:
            counters.add("smtp.connections.rejected")
            group.current().note(
                NewEvent(
                    kind=Event.Kind.REFUSED.value,
                    summary=f"Refused at connect: {self.open_connections} connections are open, "
                    f"SMTP_MAX_CONNECTIONS is {self.max_connections}.",
                    reply="" if session.implicit_tls else str(TOO_MANY),
                    client_address=session.client_address,
                    trace_id=session.trace_id,
                )
            )
            return False
        self._connections.add(session)
        counters.gauge("smtp.connections.active", self.open_connections)
        return True

    def release(self, session: SmtpConnection) -> None:
        """Count a connection out; may be called twice."""
        self._connections.discard(session)
        counters.gauge("smtp.connections.active", self.open_connections)

    def is_trusted(self, client_address: str) -> bool:
        networks = settings.SMTP_TRUSTED_NETWORKS
        if not networks or not client_address:
            return False
        client = ipaddress.ip_address(client_address)
        return any(client in network for network in networks)

    def is_loopback(self, client_address: str) -> bool:
        return client_address.startswith("127.") or client_address == "::1"

    # --- questions that need the database or Argon2: never on the loop ------------------------------------------------

    async def resolve(self, address: Address) -> Resolution:
        """What stands behind a recipient; answers are kept for a second, for many recipients come again and again."""
        kept = self._directory.get(address)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        asked = self._asked.get(address)
        if asked is None:  # of many sessions that want to know at once, one asks
            asked = self._asked[address] = self.loop.create_task(self._look_up(address))
        return await asyncio.shield(asked)

    async def _look_up(self, address: Address) -> Resolution:
        try:
            resolution = await self._ask(addresses.resolve, address)
        finally:
            del self._asked[address]
        if len(self._directory) >= DIRECTORY_MAX_ENTRIES:
            self._directory.clear()
        self._directory[address] = (time.monotonic() + DIRECTORY_TTL_SECONDS, resolution)
        return resolution

    async def standing(self, account: Account, address: Address | None) -> Standing:
        """Whether the account is still on, and holds the address; asked anew for each message, never remembered."""
        return await self._ask(_standing, account.user_id, address)

    async def verify(self, username: str, password: str) -> Account | None:
        """Check a password in a thread of its own kind; raises `Unavailable` where too many are waiting."""
        if self._auth_waiting >= MAX_WAITING_AUTH:
            raise Unavailable(Reply(454, "7.0", "Temporary authentication failure"), "too many waiting for Argon2")
        self._auth_waiting += 1
        try:
            return await self.loop.run_in_executor(self._auth, _guarded, _verify, username, password)
        finally:
            self._auth_waiting -= 1

    async def _ask(self, question: Callable[..., T], *arguments: object) -> T:
        return await self.loop.run_in_executor(self._database, _guarded, question, *arguments)


def _guarded(question: Callable[..., T], *arguments: object) -> T:
    """Run in a thread with a live connection; a database that is away is `Unavailable`."""
    try:
        return question(*arguments)
    except DatabaseError as error:
        connection.close()
        raise Unavailable(Reply(451, "3.0", "Temporary lookup failure, try again later"), str(error)) from error
    finally:
        close_old_connections()


def _standing(user_id: int, address: Address | None) -> Standing:
    user = User.objects.select_related("organization").filter(pk=user_id).first()
    if user is None or not users.may_act(user):
        return Standing.OFF
    if address is None or user.is_superuser or addresses.may_send_as(user, address):
        return Standing.OWNS
    return Standing.OWNS_NOT


def _verify(username: str, password: str) -> Account | None:
    user = credentials.verify(username, password)
    if user is None:
        return None
    return Account(user.pk, user.username, user.organization_id, user.is_superuser)


def _listen_error(port: int, error: OSError) -> ListenError:
    reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
    return ListenError(f"Port {port} on {settings.SMTP_HOST} {reason}.")


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a server context of TLS 1.2 and later; raises `ListenError` where the files do not serve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ListenError(f"The certificate {certificate} with key {key} cannot be used: {error}.") from None
    return context
