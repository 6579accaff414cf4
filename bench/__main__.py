"""`python -m bench`: what the system does in a second beside Postfix, and under hostile load (docs/performance.md)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import (
    compare,
    database,
    flood,
    hostile,
    memory,
    pages,
    postfix,
    profile,
    report,
    scale,
    send,
    signing,
    workers,
)
from bench.processes import BenchError, end_by_signal
from bench.rounds import Line

QUICK_ROUNDS, QUICK_MESSAGES = 2, 200
ROUNDS, MESSAGES = 5, 3000


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.rounds, options.messages = options.rounds or QUICK_ROUNDS, options.messages or QUICK_MESSAGES
    options.rounds, options.messages = options.rounds or ROUNDS, options.messages or MESSAGES
    end_by_signal()
    try:
        with tempfile.TemporaryDirectory(
            prefix="mailproj-bench-", dir=options.folder, ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            folder.chmod(0o755)  # Postfix and PostgreSQL run as users of their own
            return _COMMANDS[options.command](options, folder)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def _postfix(options: argparse.Namespace, folder: Path) -> int:
    if reason := postfix.unavailable():
        print(f"SKIPPED: nothing to compare with, {reason}.")
        return 0
    _tell(report.conditions())
    for case in compare.chosen(options.only):
        lines = compare.compare(case, folder / case.name, rounds=options.rounds, messages=options.messages, say=_tell)
        _show(case.title, lines)
    return 0


def _send(options: argparse.Namespace, folder: Path) -> int:
    _tell(report.conditions())
    _show(send.TITLE, send.compare(folder, rounds=options.rounds, count=options.messages, say=_tell))
    return 0


def _profile(options: argparse.Namespace, folder: Path) -> int:
    if reason := postfix.unavailable():
        print(f"SKIPPED: {reason}.")
        return 0
    print(profile.profile(options.leg, options.database, folder, messages=options.messages, top=options.top))
    return 0


def _hostile(options: argparse.Namespace, folder: Path) -> int:
    _tell(report.conditions())
    with _database(options.database, folder) as keep:
        idle = hostile.QUICK_IDLE_SECONDS if options.quick else hostile.IDLE_SECONDS
        waves = hostile.QUICK_WAVES if options.quick else hostile.WAVES
        outcome = hostile.measure(keep, folder, rounds=options.rounds, waves=waves, idle_seconds=idle, say=_tell)
    _print(f"{hostile.TITLE} ({keep.kind}, rounds: {options.rounds})", hostile.report(outcome))
    return 0 if outcome.is_whole else 1


def _memory(options: argparse.Namespace, folder: Path) -> int:
    sessions = options.sessions or (memory.QUICK_SESSIONS if options.quick else memory.SESSIONS)
    megabytes = options.megabytes or (memory.QUICK_MEGABYTES if options.quick else memory.MEGABYTES)
    _tell(report.conditions())
    with _database(options.database, folder) as keep:
        outcome = memory.measure(keep, folder, sessions=sessions, megabytes=megabytes, say=_tell)
    _print(f"{sessions} sessions, each sending {megabytes} MB at once ({keep.kind})", memory.report(outcome))
    return 0 if outcome.is_whole else 1


def _flood(options: argparse.Namespace, folder: Path) -> int:
    patience = options.patience or (flood.QUICK_PATIENCE_SECONDS if options.quick else flood.PATIENCE_SECONDS)
    idle = flood.QUICK_IDLE_SECONDS if options.quick else flood.IDLE_SECONDS
    slow = options.sessions or flood.SLOW_PEERS
    _tell(report.conditions())
    with _database(options.database, folder) as keep:
        outcome = flood.measure(keep, folder, slow_peers=slow, patience=patience, idle_seconds=idle, say=_tell)
    _print(f"{flood.TITLE} ({keep.kind})", flood.report(outcome))
    return 0


def _dkim(options: argparse.Namespace, _folder: Path) -> int:
    _tell(report.conditions())
    _print(signing.TITLE, signing.measure(rounds=options.rounds, messages=min(options.messages, 200), say=_tell))
    return 0


def _pages(options: argparse.Namespace, folder: Path) -> int:
    many = options.entries or (pages.QUICK_MANY if options.quick else pages.MANY)
    _tell(report.conditions())
    timings = pages.measure(options.database, folder, many=many, rounds=options.rounds, say=_tell)
    _print(f"{pages.TITLE} with {many:,} entries ({options.database})", pages.report(timings))
    return 0


def _scale(options: argparse.Namespace, folder: Path) -> int:
    entries = options.entries or (scale.QUICK_LARGE if options.quick else scale.LARGE)
    _tell(report.conditions())
    with _database(options.database, folder) as keep:
        outcome = scale.measure(keep, folder, entries=entries, say=_tell)
    _print(f"{scale.TITLE} ({options.database})", scale.table(outcome))
    _print(f"Plans with {entries:,} entries ({options.database})", "\n".join(outcome.plans))
    return 0


def _workers(options: argparse.Namespace, folder: Path) -> int:
    messages = workers.QUICK_MESSAGES if options.quick else options.messages if options.messages != MESSAGES else 0
    _tell(report.conditions())
    with database.postgresql(folder / "pgdata") as server:
        lines = workers.measure(server, folder, messages=messages or workers.MESSAGES, say=_tell)
    _print(workers.TITLE, workers.table(lines))
    return 0 if not any(line.twice for line in lines) else 1


_COMMANDS = {
    "scale": _scale,
    "workers": _workers,
    "dkim": _dkim,
    "postfix": _postfix,
    "send": _send,
    "profile": _profile,
    "hostile": _hostile,
    "memory": _memory,
    "flood": _flood,
    "pages": _pages,
}


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[database.Database]:
    if kind == "sqlite":
        yield database.sqlite(folder)
        return
    with database.postgresql(folder / "pgdata") as server:
        yield server.create("bench")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(title: str, lines: Sequence[Line]) -> None:
    _print(title, report.table(lines))


def _print(title: str, text: str) -> None:
    print(f"\n### {title}\n\n{text}\n", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", nargs="?", choices=sorted(_COMMANDS), default="postfix", help="default: postfix")
    parser.add_argument(
        "leg", nargs="?", choices=profile.LEGS, default="accept", help="for profile: what to do meanwhile"
    )
    parser.add_argument("--rounds", type=_count, help=f"default {ROUNDS}")
    parser.add_argument("--messages", type=_count, help=f"messages or requests a run; default {MESSAGES}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROUNDS} rounds of {QUICK_MESSAGES}, or less of whatever is measured: to see that it works",
    )
    names = [case.name for case in compare.CASES]
    parser.add_argument("--only", action="append", default=[], choices=names, help="one case; may be given again")
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="for profile, hostile, memory, flood, pages and scale; default: sqlite",
    )
    parser.add_argument(
        "--sessions",
        type=_count,
        help=f"for memory, default {memory.SESSIONS}; for flood the slow ones, default {flood.SLOW_PEERS}",
    )
    parser.add_argument(
        "--entries",
        type=_count,
        help=f"for pages and scale: of the large queue; default {pages.MANY:,} and {scale.LARGE:,}",
    )
    parser.add_argument("--megabytes", type=_count, help=f"for memory: of each message; default {memory.MEGABYTES}")
    parser.add_argument(
        "--patience", type=_count, help=f"for flood: seconds a slow peer may last; default {flood.PATIENCE_SECONDS:.0f}"
    )
    parser.add_argument("--top", type=_count, default=25, help="for profile: functions shown for each thread")
    parser.add_argument(
        "--folder", type=Path, help="where the data goes: a disk, not memory (default: the temporary folder)"
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
