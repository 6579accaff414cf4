"""Rows that one of several workers takes, in one statement: the condition of an UPDATE (docs/adr/0002)."""

from __future__ import annotations

from django.db import connection


def among_first(select: str, limit: int) -> str:
    """Return the condition that a row's id is among the first `limit` of `SELECT id … ORDER BY …`.

    What another transaction has locked is passed over, where there are row locks. There the ids are an array, which is
    made once: `IN (SELECT … LIMIT …)` may be carried out again for each row, with other rows found each time, so that
    more are taken than the limit says.
    """
    limited = f"{select} LIMIT {int(limit)}"
    if not connection.features.has_select_for_update_skip_locked:
        return f"id IN ({limited})"
    return f"id = ANY(ARRAY({limited} FOR UPDATE SKIP LOCKED))"
