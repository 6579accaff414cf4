"""Insert many rows in one statement, past the ORM: the hot path of both legs (docs/adr/0003).

SQLite runs `executemany`; PostgreSQL gets one `INSERT … SELECT FROM unnest(…)` with bound, binary arrays.
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
        statement, adapters = _sqlite_plan(model, tuple(fields))
        prepared = [
            tuple(
                value if adapt is None or value is None else adapt(value)
                for value, adapt in zip(row, adapters, strict=True)
            )
            for row in rows
        ]
        with database.wrap_database_errors:
            database.connection.executemany(statement, prepared)


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


@lru_cache(maxsize=32)
def _sqlite_plan(
    model: type[models.Model], fields: tuple[str, ...]
) -> tuple[Any, tuple[Callable[[Any], Any] | None, ...]]:
    columns = _columns(model, fields)
    names = ", ".join(connection.ops.quote_name(str(column.column)) for column in columns)
    marks = ", ".join("?" for _ in columns)
    statement = f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({names}) VALUES ({marks})"  # noqa: S608
    return statement, tuple(_sqlite_adapter(column) for column in columns)


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
