"""ORM queries that are built once: for what is asked with every batch, or every request.

To build a query takes Django ten times as long as to carry it out. Here its own statement is kept, and the list of
values it is asked about filled in each time, so what it says stays in one place and in the ORM's words.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connection
from django.db.models import QuerySet

_MARK = "\N{REPLACEMENT CHARACTER}"  # stands for the values; no name, address or id of ours is that
_LIST_OF_ONE = "IN (%s)"
Rows = list[tuple[Any, ...]]


class Prepared:
    """A `values_list` query over one list of texts (`…__in`), which `build` is given."""

    def __init__(self, build: Callable[[Sequence[str]], QuerySet[Any, Any]]) -> None:
        self._build = build
        self._parts: tuple[str, Sequence[Any], Sequence[Any], Callable[[Rows], Rows]] | None = None
        self._lock = threading.Lock()

    def rows(self, values: Sequence[str]) -> Rows:
        """Return the rows about these values; without any there is no query."""
        if not values:
            return []
        statement, before, after, converted = self._parts or self._prepare()
        marks = f"IN ({', '.join(['%s'] * len(values))})"
        with connection.cursor() as cursor:
            cursor.execute(statement.replace(_LIST_OF_ONE, marks), [*before, *values, *after])
            return converted(cursor.fetchall())

    def _prepare(self) -> tuple[str, Sequence[Any], Sequence[Any], Callable[[Rows], Rows]]:
        with self._lock:
            compiler = self._build([_MARK]).query.get_compiler(connection=connection)
            statement, parameters = compiler.as_sql()
            if statement.count(_LIST_OF_ONE) != 1 or list(parameters).count(_MARK) != 1:
                raise ValueError(f"not a query over one list: {statement}")
            place = list(parameters).index(_MARK)
            converters = compiler.get_converters([column for column, *_ in compiler.select])

            def converted(rows: Rows) -> Rows:
                return [tuple(row) for row in compiler.apply_converters(rows, converters)] if converters else rows

            self._parts = statement, parameters[:place], parameters[place + 1 :], converted
            return self._parts
