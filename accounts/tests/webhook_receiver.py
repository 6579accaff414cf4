"""An HTTP server that hears webhooks and answers what a test tells it to, over a real socket."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """One answer. `wait` holds it back until the test lets it go; `endless` repeats the body until nobody reads."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    wait: threading.Event | None = None
    endless: bool = False
    close: bool = False


@dataclass(frozen=True)
class Heard:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """`answers` is gone through, its last item again and again; `heard` is what came."""

    answers: Sequence[Say] = (Say(),)
    heard: list[Heard] = field(default_factory=list)
    port: int = 0
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def take(self, heard: Heard) -> Say:
        with self.lock:
            answer = self.answers[min(len(self.heard), len(self.answers) - 1)]
            self.heard.append(heard)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        return answer

    def gone(self) -> None:
        with self.lock:
            self.at_once -= 1

    def events(self) -> list[str]:
        return [heard.json["event"] for heard in list(self.heard)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    receiver: Receiver


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        say = receiver.take(Heard(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        try:
            self._answer(say)
        except OSError:
            self.close_connection = True
        finally:
            receiver.gone()

    do_GET = do_POST  # noqa: N815  (the name is http.server's)

    def _answer(self, say: Say) -> None:
        if say.wait is not None:
            say.wait.wait(60)
        if say.close:
            self.close_connection = True
            return
        self.send_response(say.status)
        for name, value in say.headers.items():
            self.send_header(name, value)
        if not say.endless:
            self.send_header("Content-Length", str(len(say.body)))
        self.end_headers()
        self.wfile.write(say.body)
        while say.endless:
            self.wfile.write(say.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def receiving(*answers: Say, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.receiver = Receiver(answers or (Say(),), port=server.server_address[1])
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.receiver
    finally:
        server.shutdown()
        server.server_close()
