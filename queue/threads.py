"""What the event loops of a worker have in common: work in database threads, and one loop for each process."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from django.db import close_old_connections, connection

T = TypeVar("T")


class InDatabase(Protocol):
    """Runs a function in the thread that has the database connection of an event loop."""

    def __call__(self, function: Callable[..., T], *arguments: object, **named: object) -> Awaitable[T]: ...


def guarded(function: Callable[..., T], *arguments: object, **named: object) -> T:
    """Run with a live connection; after a failure the next call gets a fresh one."""
    try:
        return function(*arguments, **named)
    except Exception:
        connection.close()
        raise
    finally:
        close_old_connections()


class OneAProcess(Generic[T]):
    """Makes its thing at first use; a child after a fork, to which no thread came along, gets one of its own."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None
        self._process = 0

    def current(self) -> T:
        """Return this process's, made if there is none."""
        with self._lock:
            if self._made is None or self._process != os.getpid():
                self._made, self._process = self._make(), os.getpid()
            return self._made

    def existing(self) -> T | None:
        """Return this process's, where it has one."""
        return self._made if self._process == os.getpid() else None
