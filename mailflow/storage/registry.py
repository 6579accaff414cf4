"""Which storage backends there are, and which one new copies go to (SMTP_STORAGE_TYPE, contract §4)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from django.conf import settings

from mailflow.storage.base import Storage
from mailflow.storage.database import DatabaseStorage
from mailflow.storage.maildir import MaildirStorage
from mailflow.storage.memory import MemoryStorage


class UnknownStorage(LookupError):
    """A copy was filed by a backend that this installation does not have."""


def current() -> Storage:
    """Return the backend that new copies go to."""
    return by_name(settings.SMTP_STORAGE_TYPE)


def by_name(name: str) -> Storage:
    """Return the backend that holds the copies filed under this name; one object per process and place."""
    if name == "maildir":
        return _maildir(Path(settings.SMTP_STORAGE_PATH), settings.SMTP_HOSTNAME)
    if name == "database":
        return _database()
    if name == "memory":
        return _memory()
    raise UnknownStorage(f"no storage backend is named {name!r}")


@lru_cache(maxsize=4)
def _maildir(root: Path, hostname: str) -> MaildirStorage:
    return MaildirStorage(root, hostname)


@lru_cache(maxsize=1)
def _database() -> DatabaseStorage:
    return DatabaseStorage()


@lru_cache(maxsize=1)
def _memory() -> MemoryStorage:
    return MemoryStorage()
