"""The trail: who did what to what, from where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from accounts.models import TrailEntry


class By(TypedDict):
    """Who acts, and from which address, as the functions that leave a trail take it."""

    actor: str
    client: str


def entry(kind: str, subject: str, detail: str, by: By) -> TrailEntry:
    """Return a line that is not kept yet, cut to what the columns hold."""
    return TrailEntry(
        kind=kind, actor=by["actor"][:254], subject=subject[:254], client_address=by["client"][:45], detail=detail
    )


def leave(entries: Iterable[TrailEntry]) -> None:
    """Keep lines; call it in the transaction of what they tell of."""
    TrailEntry.objects.bulk_create(entries, batch_size=500)
