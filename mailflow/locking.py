"""Lock rows and read them, past the ORM: for what runs with every batch (docs/adr/0003).

To build a query with the ORM takes ten times as long as to carry it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django.db import connection, models


def lock(
    model: type[models.Model], columns: tuple[str, ...], condition: str, parameters: Sequence[int | str]
) -> list[tuple[Any, ...]]:
    """Lock the rows in the order of their ids, where there are row locks, and return these columns.

    `condition` is SQL of our own over the columns, with `%s` for each parameter; `marks` writes lists. Values come as
    the driver has them: on SQLite times are text and truths are numbers. Rows that merely point to a locked one can be
    written by others meanwhile.
    """
    head, tail = _statement(model, columns)
    with connection.cursor() as cursor:
        cursor.execute(head + condition + tail, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def marks(values: Sequence[object]) -> str:
    """Return what stands in a statement for a list of values, which must not be empty."""
    return f"({', '.join(['%s'] * len(values))})"


@lru_cache(maxsize=32)
def _statement(model: type[models.Model], columns: tuple[str, ...]) -> tuple[str, str]:
    quoted = connection.ops.quote_name
    names = ", ".join(quoted(column) for column in columns)
    lock = " FOR NO KEY UPDATE" if connection.features.has_select_for_no_key_update else ""
    return f"SELECT {names} FROM {quoted(model._meta.db_table)} WHERE ", f" ORDER BY id{lock}"  # noqa: S608
