"""Insert many rows in few statements, past the ORM: the hot path of both legs (docs/adr/0003).

PostgreSQL gets one `INSERT … SELECT FROM unnest(…)` with bound, binary arrays. SQLite gets `VALUES` of 32, 16, 8, 4, 2
or 1 rows: for each statement it lets go of the interpreter's lock once, and a thread that wants it back beside a busy
event loop waits for milliseconds; `executemany` would let go for each row.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connection, connections, models
from psycopg import sql


def bulk_insert(model: type[models.Model], fields: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows (tuples in the order of `fields`, which are attribute names) in the caller's transaction."""
    if not rows:
        return
    database = _database()
    if database.vendor == "postgresql":
        _insert_postgresql(database, model, tuple(fields), rows)
    else:
        _insert_sqlite(database, model, tuple(fields), rows)


def _database() -> Any:
    """Return this thread's connection, open; `connection` would look it up again at each attribute."""
    database = connections[DEFAULT_DB_ALIAS]
    if database.connection is None:
        database.ensure_connection()
    return database


@contextmanager
def without_waiting() -> Iterator[None]:
    """Send the statements of the block without waiting for one's answer before the next; errors come at its end."""
    database = _database()
    if database.vendor != "postgresql":
        yield
        return
    with database.wrap_database_errors, database.connection.pipeline():
        yield


def _columns(model: type[models.Model], fields: tuple[str, ...]) -> list[models.Field[Any, Any]]:
    by_name = {field.attname: field for field in model._meta.concrete_fields}
    return [by_name[name] for name in fields]


_ROWS_A_STATEMENT = (32, 16, 8, 4, 2, 1)


def _insert_sqlite(
    database: Any, model: type[models.Model], fields: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    statements, adapters = _sqlite_plan(model, fields)
    done = 0
    with database.wrap_database_errors:
        for size, statement in statements:
            while len(rows) - done >= size:
                values = [
                    value if adapt is None or value is None else adapt(value)
                    for row in rows[done : done + size]
                    for value, adapt in zip(row, adapters, strict=True)
                ]
                database.connection.execute(statement, values)
                done += size


@lru_cache(maxsize=32)
def _sqlite_plan(
    model: type[models.Model], fields: tuple[str, ...]
) -> tuple[Sequence[tuple[int, str]], tuple[Callable[[Any], Any] | None, ...]]:
    """Return the statements, by how many rows each takes, and what makes SQLite's values of Python's."""
    columns = _columns(model, fields)
    names = ", ".join(connection.ops.quote_name(str(column.column)) for column in columns)
    row = f"({', '.join('?' for _ in columns)})"
    head = f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({names}) VALUES "  # noqa: S608
    statements = [(size, head + ", ".join([row] * size)) for size in _ROWS_A_STATEMENT]
    return statements, tuple(_sqlite_adapter(column) for column in columns)


def _sqlite_adapter(column: models.Field[Any, Any]) -> Callable[[Any], Any] | None:
    if isinstance(column, models.DateTimeField):
        return _utc_text
    if isinstance(column, models.JSONField):
        return _json
    if isinstance(column, models.UUIDField):
        return lambda value: value.hex
    return None


@lru_cache(maxsize=64)
def _utc_text(value: dt.datetime) -> str:
    """Return an aware time as Django keeps it in SQLite."""
    return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ")


class JsonText(str):
    """JSON that is rendered already, for a column that else would be rendered at every insert."""

    __slots__ = ()


encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _json(value: Any) -> str:
    return value if isinstance(value, JsonText) else encode_json(value)


@lru_cache(maxsize=32)
def _postgresql_plan(model: type[models.Model], fields: tuple[str, ...]) -> tuple[bytes, tuple[bool, ...]]:
    columns = _columns(model, fields)
    arrays = []
    for column in columns:
        kind = column.db_parameters(connection)["type"]
        # All in binary: octets as text would be twice as many, and psycopg escapes text arrays sign by sign.
        cast = "::text[]" if isinstance(column, models.JSONField) else ""
        arrays.append(sql.SQL("%b" + cast + "::{}[]").format(sql.SQL(str(kind).partition("(")[0])))
    statement = sql.SQL("INSERT INTO {} ({}) SELECT * FROM unnest({})").format(
        sql.Identifier(model._meta.db_table),
        sql.SQL(", ").join(sql.Identifier(str(column.column)) for column in columns),
        sql.SQL(", ").join(arrays),
    )
    return statement.as_bytes(None), tuple(isinstance(column, models.JSONField) for column in columns)


def _insert_postgresql(
    database: Any, model: type[models.Model], fields: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    statement, is_json = _postgresql_plan(model, fields)
    arrays = [
        [_json(value) for value in column] if as_json else list(column)
        for column, as_json in zip(zip(*rows, strict=True), is_json, strict=True)
    ]
    # Server-side binding: Django's own cursor would paste the octets into the statement as text.
    with database.wrap_database_errors, psycopg.Cursor(database.connection) as cursor:
        cursor.execute(statement, arrays, prepare=True)
