"""A listening socket of our own: for what comes before the session, a TLS handshake or a PROXY header (RFC 8314 §3.3).

A server of the event loop's would tell us of a connection after its handshake, so that silent peers stood outside of
every limit. Here it is counted first.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog
from django.conf import settings

from mailflow import counters
from mailflow.events import NewEvent
from mailflow.limits.rules import Verdict
from mailflow.listener import proxy
from mailflow.listener.connection import HANDSHAKE_SECONDS, SmtpConnection, plain_address
from mailflow.models import Event
from mailflow.spool import group

if TYPE_CHECKING:
    from mailflow.listener.server import Listener

logger = structlog.get_logger(__name__)

RETRY_SECONDS = 0.1
MAX_HEADERS = 1000  # connections whose PROXY header has not come yet


class Door:
    """One listening socket; `close` ends it and what is on its way in."""

    def __init__(self, listener: Listener, make_session: Callable[[], SmtpConnection], *, implicit_tls: bool) -> None:
        self._listener = listener
        self._loop = listener.loop
        self._make_session = make_session
        self._implicit_tls = implicit_tls
        self._socket: socket.socket | None = None
        self._entering: set[asyncio.Task[None]] = set()

    def open(self, address: tuple[str, int], family: int, backlog: int) -> int:
        """Listen and return the port; raises OSError."""
        listening = socket.create_server(address, family=family, backlog=backlog)
        listening.setblocking(False)
        self._socket = listening
        self._watch(listening)
        port: int = listening.getsockname()[1]
        return port

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for task in list(self._entering):
            task.cancel()

    def _watch(self, listening: socket.socket) -> None:
        if self._socket is not None:
            self._loop.add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Take one connection, or none where its peer has left; the loop calls again while others wait."""
        try:
            peer_socket, peer = listening.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # out of descriptors: it stays readable, so look away for a moment
            logger.warning("smtp.accept_failed", cause=str(error))
            self._loop.remove_reader(listening)
            self._loop.call_later(RETRY_SECONDS, self._watch, listening)
            return
        peer_socket.setblocking(False)
        session = self._make_session()
        session.came_from(peer)
        behind_proxy = _is_proxy(plain_address(str(peer[0])))
        if behind_proxy and len(self._entering) >= MAX_HEADERS:
            _note_refusal(
                session, "proxy_headers", f"{MAX_HEADERS} connections have not brought their PROXY header yet"
            )
            peer_socket.close()
            return
        if not (behind_proxy or self._is_admitted(session, peer_socket)):
            peer_socket.close()
            return
        task = self._loop.create_task(self._enter(session, peer_socket, behind_proxy=behind_proxy))
        self._entering.add(task)
        # Not at the end of the task's own work: one that is cancelled before its first step never gets there.
        task.add_done_callback(partial(self._settle, session, peer_socket))

    def _is_admitted(self, session: SmtpConnection, peer_socket: socket.socket) -> bool:
        refusal = self._listener.admit(session)
        if refusal is None:
            return True
        if not self._implicit_tls:
            with contextlib.suppress(OSError):
                peer_socket.send(refusal.encode())
        return False

    async def _enter(self, session: SmtpConnection, peer_socket: socket.socket, *, behind_proxy: bool) -> None:
        """Bring the session to life behind what comes first."""
        if behind_proxy and not await self._learn_client(session, peer_socket):
            return
        context = self._listener.tls_context if self._implicit_tls else None
        if context is not None and not await self._is_within_rate(session):
            return
        try:
            if context is None:
                await self._loop.connect_accepted_socket(lambda: session, peer_socket)
            else:
                await self._loop.connect_accepted_socket(
                    lambda: session,
                    peer_socket,
                    ssl=context,
                    ssl_handshake_timeout=min(HANDSHAKE_SECONDS, self._listener.timeout),
                )
        except OSError as error:
            logger.info("smtp.tls_failed", client_address=session.client_address, cause=str(error))
            counters.add("smtp.tls.failed")

    async def _is_within_rate(self, session: SmtpConnection) -> bool:
        """Ask the limits before the handshake: it costs us more than the client, and one that fails more often."""
        verdict = self._listener.count_connection(session)
        if not isinstance(verdict, Verdict):
            verdict = await verdict
        if verdict.exceeded:
            _note_refusal(session, verdict.rule, f"over the limit: {verdict.words}")
        return not verdict.exceeded

    async def _learn_client(self, session: SmtpConnection, peer_socket: socket.socket) -> bool:
        """Read who is behind the proxy; False where there is no saying, or no room."""
        try:
            client = await proxy.client_behind(self._loop, peer_socket)
        except proxy.NoHeader as error:
            _note_refusal(session, "proxy_header", f"{error}, and {session.client_address} is in SMTP_PROXY_NETWORKS")
            return False
        if client.address:
            session.client_address = client.address
        session.is_balancer = client.is_balancer
        session.is_hidden = not (client.address or client.is_balancer)
        return self._is_admitted(session, peer_socket)

    def _settle(self, session: SmtpConnection, peer_socket: socket.socket, entering: asyncio.Task[None]) -> None:
        """Give the place of who did not get in back."""
        self._entering.discard(entering)
        if session.transport is None:
            peer_socket.close()
            self._listener.release(session)


def _note_refusal(session: SmtpConnection, rule: str, reason: str) -> None:
    """Leave the event of a connection that is closed without a word."""
    counters.add("smtp.connections.rejected")
    group.current().note(
        NewEvent(
            kind=Event.Kind.REFUSED.value,
            summary=f"Refused at connect: {reason}.",
            stage="connection",
            rule=rule,
            client_address=session.client_address,
            trace_id=session.trace_id,
        )
    )


def _is_proxy(address: str) -> bool:
    networks = settings.SMTP_PROXY_NETWORKS
    return bool(networks) and any(ipaddress.ip_address(address) in network for network in networks)
