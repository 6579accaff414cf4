"""Where delivered copies are kept: one interface, chosen by SMTP_STORAGE_TYPE (contract §4)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class CopyMissing(Exception):
    """The backend does not hold what its key names; the caller falls back on the spool, or says so."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One message to keep for one mailbox. `copy_id` is unique and stable: storing it twice leaves one copy.

    Two facts that spare a backend a look: `is_new`, nobody can have begun to store it; `is_spooled`, the content below
    its Return-Path was just read from the spool.
    """

    copy_id: str
    message_id: str
    user_address: str
    folder: str
    received_at: dt.datetime
    content: bytes
    seen: bool = False
    is_new: bool = False
    is_spooled: bool = False


class Storage(Protocol):
    """A backend. What is read back is bit for bit what was stored; `put` returns when the copy is on disk."""

    name: str

    def put(self, copy: Copy) -> str:
        """Store durably and return the key; a second call with the same `copy_id` replaces nothing and adds nothing."""
        ...

    def read(self, key: str) -> bytes:
        """Return the octets, or raise `CopyMissing`."""
        ...

    def delete(self, key: str) -> None:
        """Remove; nothing happens where the key is unknown."""
        ...

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove durably: what is gone when it returns stays gone. Unknown keys are passed over."""
        ...
