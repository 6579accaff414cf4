"""More octets than anything between a server and its client takes."""

from __future__ import annotations

LARGE = 32 << 20


def large() -> bytes:
    return bytes(range(256)) * (LARGE // 256)
