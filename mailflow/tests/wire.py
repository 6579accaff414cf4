"""A real listener on a free port, in a thread of its own, and a client that speaks line by line."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import uvloop

from mailflow.listener.certificate import CertificateSource
from mailflow.listener.server import Listener
from mailflow.spool import group


@contextmanager
def running_listener(certificate: CertificateSource | None = None) -> Iterator[Listener]:
    """Yield a listener that serves with the current settings; `listener.ports` are its ports."""
    started = threading.Event()
    box: dict[str, object] = {}

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        listener = Listener(loop, certificate=certificate)
        box.update(ports=await listener.start(), listener=listener, stop=stop, loop=loop)
        started.set()
        await stop.wait()
        await listener.stop()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:  # noqa: BLE001  (raised again in the test's thread)
            box["error"] = error
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait(60)
    if "error" in box:
        raise box["error"]  # type: ignore[misc]
    listener = box["listener"]
    assert isinstance(listener, Listener)
    listener.ports = box["ports"]  # type: ignore[attr-defined]
    try:
        yield listener
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)  # type: ignore[attr-defined]
        thread.join(60)
        spool = group.current()
        assert isinstance(spool, group.GroupCommit)
        until(lambda: spool._idle)  # what it noted is for this test's database


class Client:
    """Sends octets as they are and reads whole replies; a missing answer fails after half a minute."""

    def __init__(self, port: int, *, greeting: bool = True) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._buffer = b""
        if greeting:
            self.greeting = self.reply()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def line(self) -> str:
        """Return the next line, or nothing where the peer has closed."""
        while b"\n" not in self._buffer:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                rest, self._buffer = self._buffer, b""
                return rest.decode()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        assert line.endswith(b"\r"), line
        return line[:-1].decode()

    def reply(self) -> str:
        """Return one reply, its lines joined by newlines, "" where the connection is closed."""
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return "\n".join(lines)

    def ask(self, command: str) -> str:
        self.send(command.encode() + b"\r\n")
        return self.reply()

    def start_tls(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)
        self._buffer = b""

    def is_closed(self) -> bool:
        return self.line() == ""


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return when the condition holds; fail where it never does."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        pause.wait(0.01)


def has_room(listener: Listener) -> bool:
    """Whether a new connection is welcome just now."""
    with Client(listener.ports[0]) as client:  # type: ignore[attr-defined]
        return client.greeting.startswith("220")


def reset(client: Client) -> None:
    """Leave without a word: RST instead of FIN."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
