"""Count how sessions fare by the policy of the domain they are for (RFC 8460 §4.3): in memory, then in the database.

`note` costs an append. What a process had counted since its last `flush` may die with it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter, deque

from django.db import connection
from django.utils import timezone

from mailflow import events
from queue.models import TlsFigure
from queue.transports.noting import MAX_REASON, SessionResult

MAX_NOTED = 50_000  # while the database is away, older ones go
ROWS = 50  # in one statement

_FIELDS = (
    "day", "policy_domain", "policy_type", "mx_host", "result", "reason", "receiving_address", "sending_address",
)  # fmt: skip
Row = tuple[dt.date, str, str, str, str, str, str, str]


class TlsFigures:
    """Of one process; `note` and `flush` may be called in different threads."""

    def __init__(self) -> None:
        self._noted: deque[tuple[dt.date, SessionResult]] = deque(maxlen=MAX_NOTED)

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, result: SessionResult) -> None:
        self._noted.append((timezone.now().date(), result))

    def flush(self) -> None:
        """Add what was noted to the table, in few statements; what the database does not take is kept."""
        taken = [self._noted.popleft() for _ in range(len(self._noted))]
        try:
            _write(taken)
        except Exception:
            self._noted.extendleft(reversed(taken))
            raise


def _write(noted: list[tuple[dt.date, SessionResult]]) -> None:
    counts: Counter[Row] = Counter()
    policies: dict[Row, tuple[str, ...]] = {}
    for day, result in noted:
        row = _row(day, result)
        counts[row] += 1
        policies[row] = result.policy
    rows = sorted(counts)  # two processes take the rows' locks in the same order
    for start in range(0, len(rows), ROWS):
        _upsert([(*row, json.dumps(policies[row]), counts[row]) for row in rows[start : start + ROWS]])


def _row(day: dt.date, result: SessionResult) -> Row:
    """Addresses are told of failures alone, where they help to find the host at fault."""
    failed = bool(result.result)
    return (
        day,
        result.policy_domain[:255],
        result.policy_type,
        result.mx_host[:255],
        result.result,
        events.clean_text(result.reason, MAX_REASON),
        result.receiving_address if failed else "",
        result.sending_address if failed else "",
    )


def _upsert(rows: list[tuple[dt.date | str | int, ...]]) -> None:
    table = connection.ops.quote_name(TlsFigure._meta.db_table)
    marks = ", ".join(["(" + ", ".join(["%s"] * (len(_FIELDS) + 2)) + ")"] * len(rows))
    names = ", ".join(_FIELDS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}, policy, count) VALUES {marks}"  # noqa: S608  (names and marks only)
            f" ON CONFLICT ({names}) DO UPDATE SET count = {table}.count + excluded.count, policy = excluded.policy",
            [_adapted(value) for row in rows for value in row],
        )


def _adapted(value: dt.date | str | int) -> dt.date | str | int | None:
    return connection.ops.adapt_datefield_value(value) if isinstance(value, dt.date) else value
