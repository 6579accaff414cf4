"""The suppression list as a CSV file: read with each error by its line, applied in small transactions, written in rows.

What is written can be read back. A first line that names columns is obeyed, `address` (or `email`) among them; without
one the first column has the addresses. A cell that a spreadsheet would take for a formula is written with a `'` before
it, which is taken off again when it is read. What a file leaves out of a row that is there already stays as it is.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from accounts.models import Organization
from accounts.names import InvalidName, fold_address, parse_address, parse_domain
from mailflow.events import clean_text
from mailflow.ids import new_row_id
from queue import suppression_list
from queue.models import Suppression
from queue.suppression_list import Actor

COLUMNS = (
    "address", "reason", "organization", "sending_domain", "words", "source_message_id", "created_at", "expires_at",
    "hits", "last_hit_at",
)  # fmt: skip
EVERYBODY = "*"  # in the column `organization`
MAX_ROWS = 200_000
MAX_PROBLEMS = 100
_BATCH = 500  # rows of a transaction
_MAX_CELL = 2000
_ALIASES = {
    "email": "address", "e-mail": "address", "email_address": "address", "recipient": "address",
    "domain": "sending_domain", "note": "words", "expires": "expires_at", "created": "created_at",
}  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_REASONS = {reason.value for reason in Suppression.Reason}

Key = tuple[int | None, str, str]  # organization, sending domain, address


@dataclass(frozen=True, slots=True)
class Scope:
    """For whom rows are entered where the file does not say: an organization or, for staff only, everybody (None).

    `is_fixed`: the file cannot say otherwise. `reason` is for rows that are entered: one that is there keeps its own.
    """

    organization_id: int | None
    is_fixed: bool = True
    sending_domain: str = ""
    reason: str = Suppression.Reason.MANUAL.value


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line, for people; lines count from 1."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line that can be used.

    `has_reason` and `has_end`: the line itself says so. An empty cell for the end says that there is none, as in what
    is written here; an empty reason says nothing.
    """

    key: Key
    reason: str
    words: str
    source_message_id: str
    created_at: dt.datetime | None
    expires_at: dt.datetime | None
    has_reason: bool
    has_end: bool


@dataclass(slots=True)
class Plan:
    """What a file holds. `problem_count` counts all of them, `problems` are the first."""

    lines: dict[Key, Line] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    repeated: int = 0
    ignored_columns: Sequence[str] = ()

    def add_problem(self, line: int, message: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(line, message))


@dataclass(frozen=True, slots=True)
class Counts:
    """What an import did, or would do."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0


class Unreadable(ValueError):
    """The file cannot be read at all; the text says why."""


# --- read -------------------------------------------------------------------------------------------------------------


def read(octets: bytes, scope: Scope, *, now: dt.datetime) -> Plan:
    """Read a file; asks the database for the organizations that it names. Raises `Unreadable`."""
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("The file is not in UTF-8.") from None
    if "\0" in text:
        raise Unreadable("The file is no text: it holds a NUL.")
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=lambda mark: (head.count(mark), mark == ","))
    rows = _rows(text, delimiter)
    plan = Plan()
    columns: tuple[str, ...] = ("address",)
    organizations = _Organizations()
    for number, cells in rows:
        if number == 1 and (named := _columns(cells)):
            columns = named
            plan.ignored_columns = [name for name in columns if name not in COLUMNS and name]
        elif any(cell.strip() for cell in cells):
            _take(plan, number, dict(zip(columns, cells, strict=False)), scope, organizations, now)
        if len(plan.lines) > MAX_ROWS:
            raise Unreadable(f"The file has more than {MAX_ROWS} addresses.")
    return plan


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise Unreadable(f"Line {line} cannot be read as CSV: {error}.") from None


def _columns(cells: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns where a first line has them; nothing where it is an address itself."""
    names = [cell.strip().lower().replace(" ", "_") for cell in cells]
    names = [_ALIASES.get(name, name) for name in names]
    return tuple(names) if "address" in names else ()


class _Organizations:
    """Organizations by name, each asked for once."""

    def __init__(self) -> None:
        self._known: dict[str, int | None] = {}

    def find(self, name: str) -> int | None:
        if name not in self._known:
            self._known[name] = Organization.objects.filter(name=name).values_list("pk", flat=True).first()
        return self._known[name]


class _Wrong(ValueError):
    """The text says what is wrong with a line."""


def _take(
    plan: Plan, number: int, cells: Mapping[str, str], scope: Scope, organizations: _Organizations, now: dt.datetime
) -> None:
    try:
        line = _line({name: _plain(cell) for name, cell in cells.items()}, scope, organizations, now)
    except _Wrong as error:
        plan.add_problem(number, str(error))
        return
    plan.repeated += line.key in plan.lines
    plan.lines[line.key] = line


def _line(cells: Mapping[str, str], scope: Scope, organizations: _Organizations, now: dt.datetime) -> Line:
    address = _address(cells.get("address", ""))
    own_reason = cells.get("reason", "").lower()
    reason = own_reason or scope.reason
    if reason not in _REASONS:
        raise _Wrong(f"The reason {reason[:40]!r} is none of {', '.join(sorted(_REASONS))}.")
    organization_id = scope.organization_id
    named = cells.get("organization", "")
    if named and not scope.is_fixed:
        organization_id = None if named == EVERYBODY else organizations.find(named)
        if organization_id is None and named != EVERYBODY:
            raise _Wrong(f"There is no organization {named[:60]!r}.")
    domain = _domain(cells.get("sending_domain", "")) or scope.sending_domain
    if domain and organization_id is None:
        raise _Wrong("A sending domain needs an organization.")
    return Line(
        (organization_id, domain, address),
        reason,
        clean_text(cells.get("words", ""), 1000),
        clean_text(cells.get("source_message_id", ""), 30),
        _moment("created_at", cells.get("created_at", "")),
        _moment("expires_at", cells.get("expires_at", "")),
        has_reason=bool(own_reason),
        has_end="expires_at" in cells,
    )


def _plain(cell: str) -> str:
    text = cell.strip()[:_MAX_CELL]
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA and len(text) > 1 else text


def _address(text: str) -> str:
    if not text:
        raise _Wrong("The address is missing.")
    try:
        folded = fold_address(str(parse_address(text)))
        parse_address(folded)
    except InvalidName as error:
        raise _Wrong(f"{text[:80]!r} is no address: {error}.") from None
    return folded


def _domain(text: str) -> str:
    try:
        return parse_domain(text) if text else ""
    except InvalidName as error:
        raise _Wrong(f"{text[:80]!r} is no domain: {error}.") from None


def _moment(name: str, text: str) -> dt.datetime | None:
    if not text:
        return None
    try:
        day = parse_date(text)
        moment = dt.datetime.combine(day, dt.time(), dt.UTC) if day else parse_datetime(text)
        if moment is not None:
            return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        pass
    raise _Wrong(f"{name} is no date such as 2026-01-31 or 2026-01-31T12:00:00Z.")


# --- apply ------------------------------------------------------------------------------------------------------------


def apply(plan: Plan, actor: Actor, *, dry_run: bool = False) -> Counts:
    """Enter the lines, in transactions of a few hundred; what is there already is brought to what the file says.

    Doing it again, after an interruption too, does no harm. With `dry_run` it only counts.
    """
    now = timezone.now()
    lines = list(plan.lines.values())
    added = updated = unchanged = 0
    for start in range(0, len(lines), _BATCH):
        batch = lines[start : start + _BATCH]
        with transaction.atomic():
            known = _known(batch, lock=not dry_run)
            fresh = [line for line in batch if line.key not in known]
            changed = [known[line.key] for line in batch if line.key in known and _change(known[line.key], line, now)]
            if not dry_run:
                Suppression.objects.bulk_create([_new(line, actor) for line in fresh], ignore_conflicts=True)
                Suppression.objects.bulk_update(changed, ["reason", "words", "expires_at", "source_message_id"])
        added += len(fresh)
        updated += len(changed)
        unchanged += len(batch) - len(fresh) - len(changed)
    if not dry_run and (added or updated):
        suppression_list.imported(added + updated, f"from a file: {added} added, {updated} changed", actor)
    return Counts(added, updated, unchanged)


def _known(lines: Sequence[Line], *, lock: bool) -> dict[Key, Suppression]:
    owners = {line.key[0] for line in lines}
    whose = Q(organization__in=owners - {None})
    if None in owners:
        whose |= Q(organization__isnull=True)
    rows = Suppression.objects.filter(whose, address__in=[line.key[2] for line in lines]).order_by("pk")
    found = rows.select_for_update(no_key=True) if lock else rows
    return {(row.organization_id, row.sending_domain, row.address): row for row in found}


def _change(row: Suppression, line: Line, now: dt.datetime) -> bool:
    """Bring a row to what the line says, and say whether anything was different; what the line leaves out stays.

    Of a row that has expired reason and end do not stay: it would keep no mail back, and the file was to see to that.
    """
    is_over = not row.is_in_force(now)
    wanted = (
        line.reason if line.has_reason or is_over else row.reason,
        line.words or row.words,
        line.expires_at if line.has_end or is_over else row.expires_at,
        line.source_message_id or row.source_message_id,
    )
    if (row.reason, row.words, row.expires_at, row.source_message_id) == wanted:
        return False
    row.reason, row.words, row.expires_at, row.source_message_id = wanted
    return True


def _new(line: Line, actor: Actor) -> Suppression:
    organization_id, domain, address = line.key
    return Suppression(
        id=new_row_id(),
        address=address,
        organization_id=organization_id,
        sending_domain=domain,
        reason=line.reason,
        words=line.words,
        source_message_id=line.source_message_id,
        created_by=clean_text(actor.name, 254),
        created_at=line.created_at or timezone.now(),
        expires_at=line.expires_at,
    )


# --- write ------------------------------------------------------------------------------------------------------------


def write(rows: QuerySet[Suppression]) -> Iterator[str]:
    """Yield the file piece by piece, a query for each: no cursor stays open while a slow client reads."""
    yield _written([COLUMNS])
    last = 0
    ordered = rows.order_by("pk").select_related("organization")
    while batch := list(ordered.filter(pk__gt=last)[:_BATCH]):
        yield _written([_cells(row) for row in batch])
        last = batch[-1].pk


def _cells(row: Suppression) -> Sequence[str]:
    texts = (
        row.address,
        row.reason,
        row.organization.name if row.organization is not None else EVERYBODY,
        row.sending_domain,
        row.words,
        row.source_message_id,
    )
    times = [moment.isoformat() if moment else "" for moment in (row.created_at, row.expires_at)]
    hit_at = row.last_hit_at.isoformat() if row.last_hit_at else ""
    return [*map(_harmless, texts), *times, str(row.hits), hit_at]


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _written(rows: Sequence[Sequence[str]]) -> str:
    piece = io.StringIO(newline="")
    csv.writer(piece).writerows(rows)
    return piece.getvalue()
