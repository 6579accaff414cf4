"""Where the time goes: one process of the system under a profiler while messages pass, and its dearest functions."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import database, system
from bench.compare import FOREIGN_RECIPIENT, SMALL
from bench.prepare import LOCAL_RECIPIENT
from bench.processes import PROJECT, Children, wait_until, wait_until_quiet
from bench.send import request, requests
from bench.traffic import Load, Sink, send
from mailproj.ports import free_port

# The listener's work; the worker's, with a sink; the worker's, with a mailbox; the web process's.
LEGS = ("accept", "relay", "filed", "send")
_PROCESSES = {"accept": ("smtp",), "relay": ("smtp", "worker"), "filed": ("smtp", "worker"), "send": ("web",)}
_LOAD = Load(10, SMALL, reuse=False)
_SECONDS = 300.0
Function = tuple[str, int, str]
Stats = Mapping[Function, tuple[int, int, float, float, Any]]


def profile(leg: str, kind: str, folder: Path, *, messages: int, top: int) -> str:
    """Let messages pass and return the tables, one for each thread that did something."""
    process = _PROCESSES[leg][-1]
    path = folder / "profile"
    with ExitStack() as stack:
        keep = (
            stack.enter_context(database.postgresql(folder / "pgdata")).create("profile")
            if kind == "postgresql"
            else database.sqlite(folder)
        )
        children = stack.enter_context(Children(folder))
        sink = Sink(children, free_port())
        relay = {"RELAY_HOST": "127.0.0.1", "RELAY_PORT": str(sink.port), "RELAY_TLS": "never"}
        ours = system.start(
            children,
            folder,
            keep,
            name=kind,
            processes=_PROCESSES[leg],
            settings=relay,
            profiles={process: path},
        )
        if leg == "send":
            asyncio.run(requests(ours.port, request("/api/v1/send", ours.port, ours.api_key), messages))
        else:
            send(ours.port, _LOAD, FOREIGN_RECIPIENT if leg == "relay" else LOCAL_RECIPIENT, messages)
        arrived = {"relay": sink.count, "filed": ours.filed}.get(leg, ours.accepted)
        wait_until(lambda: arrived() >= messages, _SECONDS, f"{messages} messages to arrive", *ours.children)
        wait_until_quiet(ours.roots())
        for child in reversed(ours.children):
            child.stop()
    return "\n".join(_tables(pickle.loads(path.read_bytes()), messages, top))  # noqa: S301  (written by our own child)


def _tables(threads: list[tuple[str, Stats]], messages: int, top: int) -> list[str]:
    """Write own processor time by function, in µs a message; threads of one kind of pool count as one."""
    pools: dict[str, dict[Function, tuple[int, float]]] = {}
    for name, stats in threads:
        pool = pools.setdefault(name.rpartition("_")[0] or name, {})
        for function, (_, calls, own, _, _) in stats.items():
            before = pool.get(function, (0, 0.0))
            pool[function] = (before[0] + calls, before[1] + own)
    lines = []
    for name, pool in sorted(pools.items(), key=lambda item: -_total(item[1])):
        if _total(pool) / messages < 1e-6:
            continue
        lines.append(f"\nThread {name}: {_total(pool) / messages * 1e6:.0f} µs a message under the profiler")
        dearest = sorted(pool.items(), key=lambda item: -item[1][1])[:top]
        lines += [f"  {own / messages * 1e6:7.1f} µs  {calls / messages:7.2f} calls  {_shown(function)}"
                  for function, (calls, own) in dearest]  # fmt: skip
    return lines


def _total(pool: Mapping[Function, tuple[int, float]]) -> float:
    return sum(own for _, own in pool.values())


def _shown(function: Function) -> str:
    file, line, name = function
    if file == "~":
        return name
    path = file.removeprefix(f"{PROJECT}/").partition("site-packages/")
    return f"{path[2] or path[0]}:{line} {name}"
