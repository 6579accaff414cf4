"""Tables in Markdown, readable in a terminal as they are."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence

from bench.rounds import Line

_HEAD = ("load", "arm", "per second", "lowest–highest", "CPU µs each", "÷ peer", "goal (stretch)", "")


def table(lines: Sequence[Line]) -> str:
    return grid(_HEAD, [_cells(line) for line in lines])


def grid(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """Return a table whose columns are as wide as they need."""
    rows = [head, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    written = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([written[0], rule, *written[1:]])


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.load,
        line.arm,
        f"{line.per_second:.0f}",
        f"{line.slowest:.0f}–{line.fastest:.0f}",
        f"{line.cpu_seconds * 1e6:.0f}",
        "1" if line.ratio is None else f"{line.ratio:.2f}",
        str(line.goal or ""),
        "missed" if line.missed else "",
    )


def conditions() -> str:
    """Say on what the figures were measured."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}; load average at the start {load}."
    )
