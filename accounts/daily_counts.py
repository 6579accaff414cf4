"""Counts of a day (UTC) that never pass a limit, whatever processes count at once: of API keys and of organizations."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import connection, models

_TRIES = 5


def take(
    model: type[models.Model], owner: str, owner_id: Any, date: dt.date, *, limit: int, wanted: int
) -> tuple[int, int]:
    """Count up to `wanted` against the owner's day; return how many are allowed, and the day's count then.

    `model` has the columns `owner`, `date` and `count`, the first two unique together. Call it in the transaction that
    does what is counted: what does not come to pass is not counted. One atomic statement where all are allowed.
    """
    used = 0
    for _ in range(_TRIES):  # a row that was not there may be made by somebody else meanwhile
        allowed = max(0, min(wanted, limit - used))
        if not allowed:
            return 0, used
        count = _add(model, owner, owner_id, date, limit=limit, number=allowed)
        if count is not None:
            return allowed, count
        used = _used(model, owner, owner_id, date)
    return 0, used


def give_back(model: type[models.Model], owner: str, owner_id: Any, date: dt.date, number: int) -> None:
    """Take back what was counted in this transaction for what then did not come to pass."""
    rows = model._default_manager.filter(**{owner: owner_id, "date": date})
    rows.update(count=models.F("count") - number)


def _used(model: type[models.Model], owner: str, owner_id: Any, date: dt.date) -> int:
    """Return the day's count; in a transaction nobody else can raise it before this one ends."""
    rows = model._default_manager.filter(**{owner: owner_id, "date": date})
    if connection.in_atomic_block:
        rows = rows.select_for_update()
    return rows.values_list("count", flat=True).first() or 0


def _add(model: type[models.Model], owner: str, owner_id: Any, date: dt.date, *, limit: int, number: int) -> int | None:
    """Add to the day's count, unless the limit would be passed; return the new count."""
    table = connection.ops.quote_name(model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({owner}, date, count) VALUES (%s, %s, %s)"  # noqa: S608  (constant names)
            f" ON CONFLICT ({owner}, date) DO UPDATE SET count = {table}.count + EXCLUDED.count"
            f" WHERE {table}.count + EXCLUDED.count <= %s RETURNING count",
            [
                model._meta.get_field(owner).get_db_prep_value(owner_id, connection),  # type: ignore[union-attr]
                connection.ops.adapt_datefield_value(date),
                number,
                limit,
            ],
        )
        rows = cursor.fetchall()
    return rows[0][0] if rows else None
