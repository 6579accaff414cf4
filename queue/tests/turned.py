"""The host of a dial-up domain, for tests: logs in at the ODMR port, asks for its mail, becomes a server (RFC 2645).

It does what fetchmail does: once the session is turned around, octets go to and fro between it and a mail server, here
a scripted `Peer`.
"""

from __future__ import annotations

import base64
import hmac
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mailflow.listener.server import Listener
from mailflow.tests.wire import Client
from queue.tests.peers import Peer

DOMAIN = "dialup.example"


def answered(challenge: str, name: str, secret: str) -> str:
    """Return the line that answers `334 <challenge>` (RFC 2195 §2)."""
    digest = hmac.digest(secret.encode(), base64.b64decode(challenge.removeprefix("334 ")), "md5").hex()
    return base64.b64encode(f"{name} {digest}".encode()).decode()


def log_in(client: Client, secret: str, name: str = DOMAIN) -> str:
    """Say EHLO and authenticate by CRAM-MD5; return the reply to that."""
    client.ask("EHLO host.dialup.example")
    return client.ask(answered(client.ask("AUTH CRAM-MD5"), name, secret))


@dataclass
class Host:
    """Where the listener is and what opens it; `fetch` is a whole visit."""

    listener: Listener
    port: int
    secret: str

    @contextmanager
    def logged_in(self, *, tls: bool = False) -> Iterator[Client]:
        with Client(self.port) as client:
            if tls:
                client.ask("EHLO host.dialup.example")
                assert client.ask("STARTTLS").startswith("220")
                client.start_tls()
            assert log_in(client, self.secret).startswith("235")
            yield client

    def fetch(self, peer: Peer, *, command: str = "ATRN", tls: bool = False) -> str:
        """Visit, with `peer` as the mail server at home; return the reply to ATRN when the session is over."""
        with self.logged_in(tls=tls) as client:
            return fetch_over(client, peer, command)


def fetch_over(client: Client, peer: Peer, command: str = "ATRN") -> str:
    """Ask for the mail on a session that is logged in; return the reply when the session is over."""
    reply = client.ask(command)
    if reply.startswith("250"):
        with socket.create_connection(("127.0.0.1", peer.port), timeout=10) as inner:
            pump(client.socket, inner)
    return reply


def pump(outer: socket.socket, inner: socket.socket) -> None:
    """Carry octets both ways until one side has closed and what it said is passed on."""
    sides = {outer: inner, inner: outer}
    while True:
        ready = select.select([outer, inner], [], [], 20)[0]
        assert ready, "nothing was said for 20 seconds"
        for side in ready:
            try:
                octets = side.recv(65536)
                while isinstance(side, ssl.SSLSocket) and side.pending():
                    octets += side.recv(side.pending())
                if octets:
                    sides[side].sendall(octets)
                    continue
            except OSError:
                pass
            return
