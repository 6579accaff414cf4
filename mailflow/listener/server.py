"""The SMTP listener of one process: its sockets, what all its connections share, its start and its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection

from accounts import addresses, credentials
from accounts.addresses import Resolution
from accounts.models import User
from accounts.names import Address
from mailflow import counters
from mailflow.errors import Unavailable
from mailflow.events import NewEvent
from mailflow.listener.auth import Account
from mailflow.listener.commands import SmtpSession
from mailflow.listener.connection import SHUTTING_DOWN, TOO_MANY, SmtpConnection
from mailflow.models import Event
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
DRAIN_SECONDS = 6.0


class ListenError(Exception):
    """A port that cannot be listened on; the text is for the operator."""


class Listener:
    """Serves SMTP on one event loop. Made inside the loop; `start`, then `stop` once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tls_context: ssl.SSLContext | None) -> None:
        self.loop = loop
        self.hostname: str = settings.SMTP_HOSTNAME
        self.postmaster_domain = self.hostname.lower()
        self.timeout: float = settings.SMTP_TIMEOUT
        self.data_timeout: float = max(settings.SMTP_TIMEOUT, 600.0)
        self.max_connections: int = settings.SMTP_MAX_CONNECTIONS
        self.max_message_octets: int = settings.SMTP_MAX_MESSAGE_SIZE
        self.max_recipients: int = settings.SMTP_MAX_RECIPIENTS
        self.auth_enabled: bool = settings.SMTP_ENABLE_AUTH
        self.auth_requires_tls: bool = settings.SMTP_AUTH_REQUIRE_TLS
        self.tls_context = tls_context
        self.is_stopping = False
        self._connections: set[SmtpConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._database = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="directory")
        self._auth = ThreadPoolExecutor(AUTH_THREADS, thread_name_prefix="auth")
        self._auth_waiting = 0
        self._directory: dict[Address, tuple[float, Resolution]] = {}

    # --- sockets ------------------------------------------------------------------------------------------------------

    async def start(self) -> list[int]:
        """Listen on SMTP_PORT, and with a certificate on SMTPS_PORT; return the ports. Raises `ListenError`."""
        await self._listen(settings.SMTP_PORT, implicit_tls=False)
        if self.tls_context is not None and settings.SMTPS_PORT:
            await self._listen(settings.SMTPS_PORT, implicit_tls=True)
        counters.gauge("smtp.connections.active", 0)
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    async def _listen(self, port: int, *, implicit_tls: bool) -> None:
        def connection_factory() -> SmtpSession:
            return SmtpSession(self, implicit_tls=implicit_tls)

        try:
            server = await self.loop.create_server(
                connection_factory,
                settings.SMTP_HOST,
                port,
                ssl=self.tls_context if implicit_tls else None,
                ssl_handshake_timeout=30 if implicit_tls else None,
                backlog=BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror})"
            raise ListenError(f"Port {port} on {settings.SMTP_HOST} {reason}.") from None
        self._servers.append(server)

    async def stop(self) -> None:
        """Take nothing new, let running commands and transactions end, then close what is left (RFC 5321 §3.8)."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for session in list(self._connections):
            if not session.busy:
                session.end(SHUTTING_DOWN)
        deadline = self.loop.time() + DRAIN_SECONDS
        while self._connections and self.loop.time() < deadline:  # noqa: ASYNC110  (once, at the end)
            await asyncio.sleep(0.02)
        for session in list(self._connections):
            session.end(SHUTTING_DOWN)
        counters.gauge("smtp.connections.active", 0)
        await self._ask(counters.stop)
        self._database.shutdown(wait=False, cancel_futures=True)
        self._auth.shutdown(wait=False, cancel_futures=True)

    # --- connections --------------------------------------------------------------------------------------------------

    def admit(self, session: SmtpConnection) -> bool:
        """Count a new connection in; False where there are too many."""
        counters.add("smtp.connections.total")
        if self.is_stopping or len(self._connections) >= self.max_connections:
            counters.add("smtp.connections.rejected")
            group.current().note(
                NewEvent(
                    kind=Event.Kind.REFUSED.value,
                    summary=f"Refused at connect: {len(self._connections)} connections are open, "
                    f"SMTP_MAX_CONNECTIONS is {self.max_connections}.",
                    reply=str(TOO_MANY),
                    client_address=session.client_address,
                    trace_id=session.trace_id,
                )
            )
            return False
        self._connections.add(session)
        counters.gauge("smtp.connections.active", len(self._connections))
        return True

    def release(self, session: SmtpConnection) -> None:
        self._connections.discard(session)
        counters.gauge("smtp.connections.active", len(self._connections))

    def is_trusted(self, client_address: str) -> bool:
        networks = settings.SMTP_TRUSTED_NETWORKS
        return bool(networks) and any(ipaddress.ip_address(client_address) in network for network in networks)

    def is_loopback(self, client_address: str) -> bool:
        return client_address.startswith("127.") or client_address == "::1"

    # --- questions that need the database or Argon2: never on the loop ------------------------------------------------

    async def resolve(self, address: Address) -> Resolution:
        """What stands behind a recipient; answers are kept for a second, for many recipients come again and again."""
        kept = self._directory.get(address)
        now = time.monotonic()
        if kept is not None and kept[0] > now:
            return kept[1]
        resolution = await self._ask(addresses.resolve, address)
        if len(self._directory) >= DIRECTORY_MAX_ENTRIES:
            self._directory.clear()
        self._directory[address] = (now + DIRECTORY_TTL_SECONDS, resolution)
        return resolution

    async def may_send_as(self, account: Account, address: Address | None) -> bool:
        if address is None or account.is_superuser:
            return True
        return await self._ask(_may_send_as, account.user_id, address)

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


def _may_send_as(user_id: int, address: Address) -> bool:
    user = User.objects.filter(pk=user_id, is_active=True).first()
    return user is not None and addresses.may_send_as(user, address)


def _verify(username: str, password: str) -> Account | None:
    user = credentials.verify(username, password)
    if user is None:
        return None
    return Account(user.pk, user.username, user.organization_id, user.is_superuser)


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a server context of TLS 1.2 and later; raises `ListenError` where the files do not serve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ListenError(f"The certificate {certificate} with key {key} cannot be used: {error}.") from None
    return context
