"""ORM queries that are built once: for what is asked with every batch, or every request.

To build a query takes Django ten times as long as to carry it out. Here its own statement is kept, and the values it is
asked about filled in each time, so what it says stays in one place and in the ORM's words.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import QuerySet

MARK = "\N{REPLACEMENT CHARACTER}"  # stands for the values; no name, address or id of ours is that
_LIST_OF_ONE = "IN (%s)"
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Built:
    """A query as its compiler renders it, and what makes Python's values of the database's."""

    statement: str
    parameters: tuple[Any, ...]
    converted: Callable[[Rows], Rows]


class _Once:
    """A query that is built when it is asked first, by one thread."""

    def __init__(self, build: Callable[[], QuerySet[Any, Any]]) -> None:
        self._build = build
        self._built: _Built | None = None
        self._lock = threading.Lock()

    def get(self) -> _Built:
        if self._built is None:
            with self._lock:
                self._built = _rendered(self._build())
        return self._built


def _rendered(query_set: QuerySet[Any, Any]) -> _Built:
    compiler = query_set.query.get_compiler(connection=connection)
    statement, parameters = compiler.as_sql()
    converters = compiler.get_converters([column for column, *_ in compiler.select])

    def converted(rows: Rows) -> Rows:
        return [tuple(row) for row in compiler.apply_converters(rows, converters)] if converters else rows

    return _Built(statement, tuple(parameters), converted)


def _fetched(statement: str, parameters: Sequence[Any]) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: Rows = cursor.fetchall()
        return rows


class Prepared:
    """A `values_list` query over one list of texts (`…__in`), which `build` is given."""

    def __init__(self, build: Callable[[Sequence[str]], QuerySet[Any, Any]]) -> None:
        self._once = _Once(lambda: _over_one_list(build([MARK])))

    def rows(self, values: Sequence[str]) -> Rows:
        """Return the rows about these values; without any there is no query."""
        if not values:
            return []
        built = self._once.get()
        marks = f"IN ({', '.join(['%s'] * len(values))})"
        place = built.parameters.index(MARK)
        parameters = [*built.parameters[:place], *values, *built.parameters[place + 1 :]]
        return built.converted(_fetched(built.statement.replace(_LIST_OF_ONE, marks), parameters))


def _over_one_list(query_set: QuerySet[Any, Any]) -> QuerySet[Any, Any]:
    statement, parameters = query_set.query.sql_with_params()
    if statement.count(_LIST_OF_ONE) != 1 or list(parameters).count(MARK) != 1:
        raise ValueError(f"not a query over one list: {statement}")
    return query_set


class PreparedOne:
    """A query about one text, which `build` is given and may use more than once; or about nothing: always the same."""

    def __init__(self, build: Callable[[str], QuerySet[Any, Any]]) -> None:
        self._once = _Once(lambda: build(MARK)[:1])

    def row(self, value: str = "") -> tuple[Any, ...] | None:
        """Return the first row, its values as the ORM gives them."""
        built = self._once.get()
        rows = built.converted(_fetched(built.statement, _filled(built.parameters, value)))
        return rows[0] if rows else None

    def columns(self, value: str = "") -> tuple[Any, ...] | None:
        """Return the first row as the database has it: enough to see whether it is what it was."""
        built = self._once.get()
        rows = _fetched(built.statement, _filled(built.parameters, value))
        return rows[0] if rows else None


def _filled(parameters: Sequence[Any], value: str) -> list[Any]:
    return [value if parameter == MARK else parameter for parameter in parameters]
