"""The port of implicit TLS (RFC 8314 §3.3): accepts in clear, counts the connection, and only then shakes hands.

A server socket of the event loop's own would tell us of a connection after its handshake, so that silent peers stood
outside of every limit.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from mailflow import counters
from mailflow.listener.connection import HANDSHAKE_SECONDS, SmtpConnection

if TYPE_CHECKING:
    from mailflow.listener.server import Listener

logger = structlog.get_logger(__name__)

RETRY_SECONDS = 0.1


class TlsDoor:
    """One listening socket; `close` ends it and the handshakes under way."""

    def __init__(self, listener: Listener, make_session: Callable[[], SmtpConnection], context: ssl.SSLContext) -> None:
        self._listener = listener
        self._make_session = make_session
        self._context = context
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, address: tuple[str, int], family: int, backlog: int) -> int:
        """Listen and return the port; raises OSError."""
        self._socket = socket.create_server(address, family=family, backlog=backlog)
        self._socket.setblocking(False)
        self._start(self._accept(self._socket))
        port: int = self._socket.getsockname()[1]
        return port

    def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._socket is not None:
            self._socket.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._listener.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = self._listener.loop
        while True:
            try:
                peer_socket, peer = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors, or the peer has left: both pass
                logger.warning("smtp.accept_failed", cause=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            session = self._make_session()
            session.came_from(peer)
            if not self._listener.admit(session):
                peer_socket.close()
                continue
            # Not at the end of the task's own work: one that is cancelled before its first step never gets there.
            self._start(self._shake_hands(session, peer_socket)).add_done_callback(
                partial(self._settle, session, peer_socket)
            )

    async def _shake_hands(self, session: SmtpConnection, peer_socket: socket.socket) -> None:
        """Bring the session to life behind its handshake."""
        try:
            await self._listener.loop.connect_accepted_socket(
                lambda: session,
                peer_socket,
                ssl=self._context,
                ssl_handshake_timeout=min(HANDSHAKE_SECONDS, self._listener.timeout),
            )
        except OSError as error:
            logger.info("smtp.tls_failed", client_address=session.client_address, cause=str(error))
            counters.add("smtp.tls.failed")

    def _settle(self, session: SmtpConnection, peer_socket: socket.socket, _task: object) -> None:
        """Give the place of a failed handshake back."""
        if session.transport is None:
            peer_socket.close()
            self._listener.release(session)
