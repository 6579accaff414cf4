"""Keep docs/rfc-coverage.md true: count its rows, look up what it names, find the RFCs that the code cites.

python scripts/rfc_references.py            say what is wrong with the page
python scripts/rfc_references.py --write    write the summary anew
python scripts/rfc_references.py --list     list each RFC with the modules that cite it
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "rfc-coverage.md"
APPS = ("accounts", "mailflow", "queue", "mailproj")
ROOTS = (".", "mailflow", "queue")  # what the page's paths may be below
STATES = ("done", "partly", "not", "different")
LEVELS = {"M", "S", "M, S", "S, M", "—"}

_HEADING = re.compile(r"## RFC (\d{4}\b(?:(?:, | and )\d{4}\b)*)")
_CELLS = re.compile(r"(?<!\\)\|")
_SUMMARY = re.compile(r"(?<=<!-- summary -->\n).*?(?=<!-- /summary -->)", re.DOTALL)
_NAMED = re.compile(r"`([a-z_0-9/]+)`")
_TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
_RFCS = re.compile(r"RFCs? (\d{3,5}(?:(?:, | and |, and )(?:RFC )?\d{3,5})*)")


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement as the page has it; `line` is its number there."""

    rfc: str
    line: int
    level: str
    state: str
    where: str

    @property
    def verdict(self) -> str:
        """The first word of the state."""
        found = re.match(r"[a-z]+", self.state)
        return found[0] if found else ""


def rows(page: str) -> Iterator[Row]:
    """Yield the rows of the tables that stand below a heading `## RFC …`."""
    rfc = ""
    for number, line in enumerate(page.splitlines(), start=1):
        if line.startswith("## "):
            heading = _HEADING.match(line)
            rfc = heading[1] if heading else ""
        cells = [cell.strip() for cell in _CELLS.split(line)[1:-1]]
        if rfc and len(cells) == 5 and cells[2] != "what" and not set(cells[0]) <= set("-"):
            yield Row(rfc, number, cells[1], cells[3], cells[4])


def summary(page: str) -> str:
    """Return the table of counts, with its sums."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows(page):
        counts[row.rfc][row.verdict] += 1
    total = sum(counts.values(), Counter())
    lines = ["| RFC | rows | " + " | ".join(STATES) + " |", "| --- " * (len(STATES) + 2) + "|"]
    for rfc, found in [*counts.items(), ("all", total)]:
        lines.append(f"| {rfc} | {found.total()} | " + " | ".join(str(found[state]) for state in STATES) + " |")
    return "\n".join(["", *lines, "", ""])


def with_summary(page: str) -> str:
    return _SUMMARY.sub(lambda _found: summary(page), page)


def faults(page: str, root: Path = ROOT) -> list[str]:
    """Return, in words, what is wrong with the page; nothing where it is right."""
    tests = {name for path in _modules(root, tests=True) for name in _TEST.findall(path.read_text())}
    found = [f"line {row.line}: {fault}" for row in rows(page) for fault in _faults_of_row(row, tests, root)]
    citing = cited(root)
    missing = sorted(set(citing) - mentioned(page), key=int)
    found += [f"RFC {rfc} is cited by {citing[rfc][0]} and not on the page" for rfc in missing]
    if with_summary(page) != page:
        found.append("the summary is not what the rows come to; write it anew with --write")
    return found


def _faults_of_row(row: Row, tests: set[str], root: Path) -> Iterator[str]:
    if row.verdict not in STATES:
        yield f"the state {row.state!r} is none of {', '.join(STATES)}"
    if row.verdict not in ("done", row.state) and ":" not in row.state:
        yield f"{row.verdict} without a reason"
    if row.state in STATES[1:]:
        yield f"{row.state} without a reason"
    if row.level not in LEVELS:
        yield f"the level {row.level!r} is none of {', '.join(sorted(LEVELS))}"
    if not row.where and row.verdict != "not":
        yield "no place is named"
    for name in _NAMED.findall(row.where):
        exists = name in tests if name.startswith("test_") else _is_module(name, root)
        if not exists:
            yield f"there is no {name}"


def _is_module(name: str, root: Path) -> bool:
    places = [root / below / name for below in ROOTS]
    return any(place.with_name(place.name + ".py").is_file() or place.is_dir() for place in places)


def mentioned(page: str) -> set[str]:
    """Return the numbers of all RFCs that the page names: in headings, in text, in first columns."""
    found = {number for numbers in _RFCS.findall(page) for number in re.findall(r"\d+", numbers)}
    for line in page.splitlines():
        first = re.match(r"\| (\d{3,5}(?:, \d{3,5})*) ", line)
        found.update(first[1].split(", ") if first else ())
    return found


def cited(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the RFCs that the modules cite, in docstrings and comments, with the modules' paths."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in _modules(root, tests=False):
        numbers = {number for group in _RFCS.findall(path.read_text()) for number in re.findall(r"\d+", group)}
        for number in numbers:
            found[number].append(str(path.relative_to(root)))
    return dict(found)


def _modules(root: Path, *, tests: bool) -> list[Path]:
    paths = [path for app in APPS for path in sorted((root / app).rglob("*.py"))]
    return [path for path in paths if ("tests" in path.relative_to(root).parts) is tests]


def main(arguments: Sequence[str]) -> int:
    if "--list" in arguments:
        for rfc, modules in sorted(cited().items(), key=lambda item: int(item[0])):
            sys.stdout.write(f"{rfc}: {', '.join(modules)}\n")
        return 0
    page = PAGE.read_text()
    if "--write" in arguments:
        page = with_summary(page)
        PAGE.write_text(page)
    found = faults(page)
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
