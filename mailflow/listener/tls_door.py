"""The port of implicit TLS (RFC 8314 §3.3): accepts in clear, counts the connection, and only then shakes hands.

A server socket of the event loop's own would tell us of a connection after its handshake, so that silent peers stood
outside of every limit.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

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
        self._loop = listener.loop
        self._make_session = make_session
        self._context = context
        self._socket: socket.socket | None = None
        self._handshakes: set[asyncio.Task[None]] = set()

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
        for task in list(self._handshakes):
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
        if not self._listener.admit(session):
            peer_socket.close()
            return
        handshake = self._loop.create_task(self._shake_hands(session, peer_socket))
        self._handshakes.add(handshake)
        # Not at the end of the task's own work: one that is cancelled before its first step never gets there.
        handshake.add_done_callback(partial(self._settle, session, peer_socket))

    async def _shake_hands(self, session: SmtpConnection, peer_socket: socket.socket) -> None:
        """Bring the session to life behind its handshake."""
        try:
            await self._loop.connect_accepted_socket(
                lambda: session,
                peer_socket,
                ssl=self._context,
                ssl_handshake_timeout=min(HANDSHAKE_SECONDS, self._listener.timeout),
            )
        except OSError as error:
            logger.info("smtp.tls_failed", client_address=session.client_address, cause=str(error))
            counters.add("smtp.tls.failed")

    def _settle(self, session: SmtpConnection, peer_socket: socket.socket, handshake: asyncio.Task[None]) -> None:
        """Give the place of a failed handshake back."""
        self._handshakes.discard(handshake)
        if session.transport is None:
            peer_socket.close()
            self._listener.release(session)
