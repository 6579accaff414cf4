"""`POST /api/v1/send` of one web process, beside a Django view that only writes one row durably.

Between them stands an API view that does only that, behind the same middleware: what the stack itself costs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import database, system
from bench.processes import BenchError, Children, cpu_seconds, wait_until_quiet
from bench.rounds import Goal, Line, Measured, rotated, summarize
from mailproj.ports import free_port
from mailproj.processes import WEB

TITLE = "POST /api/v1/send, one web process, requests a second"
CONNECTIONS = 10
GOAL = Goal(0.7, 0.9)
_BODY = json.dumps({"to": "u@relay.test", "subject": "A measured message", "text_body": "x" * 500}).encode()


@dataclass(frozen=True, slots=True)
class _Target:
    name: str
    port: int
    request: bytes
    roots: list[int]


def compare(folder: Path, *, rounds: int, count: int, say: Callable[[str], None]) -> list[Line]:
    """Measure on both databases; the peer of each is the plain view on the same database."""
    lines: list[Line] = []
    with ExitStack() as stack:
        server = stack.enter_context(database.postgresql(folder / "pgdata"))
        for kind in ("sqlite", "postgresql"):
            place = folder / kind
            place.mkdir()
            keep = server.create(kind) if kind == "postgresql" else database.sqlite(place)
            with Children(place) as children:
                targets = _targets(children, place, keep)
                for target in targets:
                    asyncio.run(requests(target.port, target.request, max(20, count // 10)))
                results = []
                for number in range(rounds):
                    results.append({target.name: _run(target, count) for target in rotated(targets, number)})
                    say(f"send, {kind}: round {number + 1} of {rounds}")
                lines += summarize(f"{kind}, {CONNECTIONS} connections", results, targets[0].name, GOAL)
    return lines


def _targets(children: Children, folder: Path, keep: database.Database) -> list[_Target]:
    ours = system.start(children, folder, keep, name="send", processes=("web",))
    peers = []
    for name, module in (("one row", "bench.one_row_wsgi"), ("one row, by an API view", "bench.one_row_api_wsgi")):
        port = free_port()
        argv = [sys.executable, *WEB[:-1], module]
        peer = children.start(name, argv, environment={**ours.environment, "HTTP_PORT": str(port)}, port=port)
        peers.append(_Target(name, port, request("/", port, ours.api_key), [peer.pid, *keep.roots]))
    return [*peers, _Target("send", ours.port, request("/api/v1/send", ours.port, ours.api_key), ours.roots())]


def request(path: str, port: int, api_key: str) -> bytes:
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(_BODY)}",
        f"X-API-Key: {api_key}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + _BODY


def _run(target: _Target, count: int) -> Measured:
    cpu_before = cpu_seconds(target.roots)
    started = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(requests(target.port, target.request, count))
    seconds = time.perf_counter() - started
    wait_until_quiet(target.roots)
    return Measured(count / seconds, (cpu_seconds(target.roots) - cpu_before) / count)


async def requests(port: int, request: bytes, count: int) -> None:
    """Send over kept connections, each with one request at a time; every answer must be a 202."""
    share, rest = divmod(count, CONNECTIONS)
    await asyncio.gather(*(_connection(port, request, share + (number < rest)) for number in range(CONNECTIONS)))


async def _connection(port: int, request: bytes, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(count):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 202"):
                raise BenchError(f"It answered {head.splitlines()[0].decode()}: {body[:500].decode()}")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise BenchError(f"The connection was closed: {error}") from None
    finally:
        writer.close()
