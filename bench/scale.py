"""What a claim costs beside a thousand and beside a million queued entries, whoever else has mail waiting.

The measurement itself is `bench.scale_run`, in a process with the settings of the database.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.database import Database
from bench.processes import BenchError, run
from bench.system import environment_of

TITLE = "Claim of the next 100 entries"
LARGE, QUICK_LARGE, SMALL = 1_000_000, 20_000, 1_000
GOAL = 1.5


@dataclass(frozen=True, slots=True)
class Claim:
    """`milliseconds`: the median; `first`: of the very first claim, which meets whatever stands at the head."""

    case: str
    entries: int
    milliseconds: float
    worst: float
    first: float


@dataclass(frozen=True, slots=True)
class Outcome:
    claims: Sequence[Claim]
    plans: Sequence[str]


def measure(database: Database, folder: Path, *, entries: int, say: Callable[[str], None]) -> Outcome:
    """Fill the database with `SMALL`, then with so many entries, and claim from it."""
    environment = dict(environment_of(folder, database))
    run([sys.executable, "-m", "bench.prepare"], environment)
    claims: list[Claim] = []
    plans: list[str] = []
    for case, count in [("all", SMALL), ("all", entries), ("full", entries), ("paused", entries)]:
        say(f"scale ({database.kind}): {case}, {count} entries")
        answer = _run(case, count, environment)
        claims += [Claim(**claim) for claim in answer["claims"]]
        plans = answer["plans"]
    return Outcome(claims, plans)


def _run(case: str, count: int, environment: Mapping[str, str]) -> dict[str, list]:  # type: ignore[type-arg]
    output = run([sys.executable, "-m", "bench.scale_run", case, str(count)], environment)
    try:
        return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]
    except (ValueError, IndexError):
        raise BenchError(f"bench.scale_run said: {output[-500:]}") from None


def table(outcome: Outcome) -> str:
    small = {claim.case: claim.milliseconds for claim in outcome.claims if claim.entries == SMALL}
    rows = []
    for claim in outcome.claims:
        ratio = claim.milliseconds / small[claim.case if claim.case in small else "first attempts"]
        is_small = claim.entries == SMALL
        verdict = "" if is_small else "met" if ratio <= GOAL else "missed"
        cells = (f"{claim.milliseconds:.1f}", f"{claim.worst:.1f}", f"{claim.first:.1f}")
        rows.append((claim.case, f"{claim.entries:,}", *cells, "1" if is_small else f"{ratio:.2f}", verdict))
    head = ("what is claimed", "entries", "median ms", "worst", "first", "÷ 1,000", f"goal {GOAL}")
    return report.grid(head, rows)
