"""What the queue's pages take with a million entries, beside what they take with a thousand."""

from __future__ import annotations

import statistics
import sys
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import system
from bench.database import Database, PostgreSQL, sqlite
from bench.fill import BIG_DOMAIN, SMALL_DOMAIN
from bench.processes import BenchError, Children, cpu_seconds, run
from bench.report import grid
from bench.web_client import Web

FEW, MANY = 1_000, 1_000_000
QUICK_MANY = 20_000
IN_A_ROW = 4
GOAL = 1.5
TITLE = "The queue's pages"
_LIST = "/admin/queue/entry/"

PAGES = {
    "GET queue": "/api/queue",
    "GET queue, 20 a page": "/api/v1/queue",
    "GET queue, page 40": "/api/v1/queue?page=40",
    "GET queue, pending": "/api/queue?status=pending",
    "GET queue, retry": "/api/queue?status=retry",
    "GET queue, failed": "/api/v1/queue?status=failed",
    "admin: queue": _LIST,
    "admin: page 15": f"{_LIST}?p=15",
    "admin: everything": f"{_LIST}?status__exact=all",
    "admin: pending": f"{_LIST}?status__exact=pending",
    "admin: waiting to retry": f"{_LIST}?status__exact=retry",
    "admin: bounced": f"{_LIST}?status__exact=bounced",
    "admin: on hold": f"{_LIST}?held=true",
    "admin: scheduled": f"{_LIST}?scheduled=true",
    "admin: the largest domain": f"{_LIST}?domain={BIG_DOMAIN}",
    "admin: a small domain": f"{_LIST}?domain={SMALL_DOMAIN}",
    "admin: last 24 hours": f"{_LIST}?since=24h",
    "admin: search for an address": f"{_LIST}?q={urllib.parse.quote('user7@' + BIG_DOMAIN)}",
    "admin: by domain, kept": "/admin/queue/entry/domains/",
}
_WITHOUT_GOAL = frozenset({"admin: search for an address"})


@dataclass(slots=True)
class Taken:
    """What one page took: seconds of each answer, and processor seconds of the system's processes in all."""

    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu_each(self) -> float:
        return self.cpu / len(self.seconds)


@dataclass(frozen=True, slots=True)
class Timing:
    """One page, with few entries and with many."""

    name: str
    few: Taken
    many: Taken

    @property
    def ratio(self) -> float:
        return self.many.median / self.few.median

    @property
    def cpu_ratio(self) -> float:
        return self.many.cpu_each / (self.few.cpu_each or 0.001)


@dataclass(frozen=True, slots=True)
class Arm:
    """One queue and the web process that shows it."""

    web: Web
    ours: system.System

    def ask(self, path: str, taken: Taken) -> None:
        """Ask for a page a few times in a row: the kernel counts processor time in hundredths of a second."""
        before = cpu_seconds(self.ours.roots())
        taken.seconds += [_seconds(self.web, path) for _ in range(IN_A_ROW)]
        taken.cpu += cpu_seconds(self.ours.roots()) - before


def measure(kind: str, folder: Path, *, many: int, rounds: int, say: Callable[[str], None]) -> list[Timing]:
    """Start two systems, fill their queues, and ask each for every page by turns."""
    with ExitStack() as stack:
        children = stack.enter_context(Children(folder))
        make = _databases(kind, folder, stack)
        arms = {number: _started(children, folder, make(number), number, say) for number in (FEW, many)}
        for arm in arms.values():
            for path in PAGES.values():
                _seconds(arm.web, path)  # templates are compiled, caches are warm
        taken: dict[tuple[str, int], Taken] = defaultdict(Taken)
        for round_number in range(rounds):
            for name, path in PAGES.items():
                order = (FEW, many) if round_number % 2 else (many, FEW)
                for number in order:
                    arms[number].ask(path, taken[name, number])
    return [Timing(name, taken[name, FEW], taken[name, many]) for name in PAGES]


def report(timings: Sequence[Timing]) -> str:
    head = ("page", "few: ms", "best–worst", "many: ms", "best–worst", "ratio", "CPU ms", "ratio", f"goal {GOAL}")
    return grid(head, [_row(timing) for timing in timings])


def _row(timing: Timing) -> tuple[str, ...]:
    # By processor time: both arms are asked one after the other, and whatever else runs takes turns with them.
    verdict = "" if timing.name in _WITHOUT_GOAL else "met" if timing.cpu_ratio <= GOAL else "missed"
    cells = [
        cell
        for taken in (timing.few, timing.many)
        for cell in (
            f"{taken.median * 1000:.0f}",
            f"{min(taken.seconds) * 1000:.0f}–{max(taken.seconds) * 1000:.0f}",
        )
    ]
    cpu = f"{timing.few.cpu_each * 1000:.0f} → {timing.many.cpu_each * 1000:.0f}"
    return (timing.name, *cells, f"{timing.ratio:.2f}", cpu, f"{timing.cpu_ratio:.2f}", verdict)


def _databases(kind: str, folder: Path, stack: ExitStack) -> Callable[[int], Database]:
    if kind == "sqlite":

        def fresh(number: int) -> Database:
            place = folder / f"data{number}"
            place.mkdir()
            return sqlite(place)

        return fresh
    server = PostgreSQL(folder / "pgdata")
    stack.callback(server.stop)
    return lambda number: server.create(f"bench{number}")


def _started(children: Children, folder: Path, keep: Database, number: int, say: Callable[[str], None]) -> Arm:
    ours = system.start(children, folder / f"web{number}", keep, name=f"pages {number}", processes=("web",))
    began = time.monotonic()
    run([sys.executable, "-m", "bench.fill", str(number)], ours.environment)
    say(f"pages: {number:,} entries filled in {time.monotonic() - began:.0f} s ({keep.kind})")
    return Arm(Web(ours.environment), ours)


def _seconds(web: Web, path: str) -> float:
    page = web.get(path)
    if page.status != 200:
        raise BenchError(f"{path} answered {page.status}: {page.octets[:300]!r}")
    return page.seconds
