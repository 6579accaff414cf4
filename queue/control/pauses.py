"""Lifting the pauses of destinations, where a person asks for attempts there (docs/adr/0014)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

from accounts.models import TrailEntry
from mailflow.models import Event
from queue.control.orders import Order
from queue.control.rows import record
from queue.models import Entry
from queue.pacing import ledger


def lift(order: Order, entries: Sequence[Entry], now: dt.datetime) -> frozenset[str]:
    """Lift the pauses that keep these entries waiting, in the caller's transaction, with a line in the trail.

    Returns the domains that were paused. Mail of the sandbox waits for none.
    """
    lifted = ledger.lift({entry.domain for entry in entries if not entry.is_sandbox and entry.held_at is None}, now)
    if lifted:
        TrailEntry.objects.create(
            kind="destination.resumed",
            actor=order.actor[:254],
            subject=", ".join(lifted)[:254],
            detail=f"The pause is lifted for one attempt, {order.by}: {order.words}.",
        )
    return frozenset(lifted)


def record_lifted(
    entries: Sequence[Entry], lifted: Collection[str], kind: Event.Kind, summary: str, actor: str
) -> None:
    """Leave the entries their events; those of a destination that was paused say so, too."""
    waited = [entry for entry in entries if entry.domain in lifted and not entry.is_sandbox]
    others = {entry.pk for entry in entries} - {entry.pk for entry in waited}
    record([entry for entry in entries if entry.pk in others], kind, summary, actor)
    record(waited, kind, f"{summary} The pause of its destination is lifted.", actor)
