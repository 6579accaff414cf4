"""Copies in a dictionary: for tests, and for runs of the pipeline that must leave nothing behind."""

from __future__ import annotations

from collections.abc import Sequence

from mailflow.storage.base import Copy, CopyMissing


class MemoryStorage:
    """Lives and dies with its process."""

    name = "memory"

    def __init__(self) -> None:
        self._copies: dict[str, bytes] = {}

    def put(self, copy: Copy) -> str:
        key = f"memory:{copy.copy_id}"
        self._copies.setdefault(key, copy.content)
        return key

    def read(self, key: str) -> bytes:
        try:
            return self._copies[key]
        except KeyError:
            raise CopyMissing(f"memory holds no copy {key}") from None

    def delete(self, key: str) -> None:
        self._copies.pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)
