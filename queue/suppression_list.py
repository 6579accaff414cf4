"""What people do to the suppression list: look at it, enter, change and remove; each act leaves a line of the trail."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q, QuerySet

from accounts.models import TrailEntry, User
from mailflow.events import clean_text
from queue import suppress
from queue.models import Suppression

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, in words, and from where."""

    name: str
    client_address: str = ""


def visible_to(user: User) -> QuerySet[Suppression]:
    """Staff see all rows, others those of their own organization."""
    if user.is_staff or user.is_superuser:
        return Suppression.objects.all()
    if user.organization_id is None:
        return Suppression.objects.none()
    return Suppression.objects.filter(organization=user.organization_id)


def in_force(now: dt.datetime) -> Q:
    return Q(expires_at__isnull=True) | Q(expires_at__gt=now)


def find_same(row: Suppression) -> Suppression | None:
    """Return another row for the same address and scope."""
    same = Suppression.objects.filter(
        address=row.address, organization=row.organization_id, sending_domain=row.sending_domain
    )
    return same.exclude(pk=row.pk).first()


def saved(rows: Sequence[Suppression], actor: Actor, act: str) -> None:
    """Note that rows were written: `act` is added or changed."""
    suppress.forget()
    _note(f"suppression.{act}", [_told(row) for row in rows], actor)


def remove(rows: QuerySet[Suppression], actor: Actor) -> int:
    """Remove rows, so that mail goes out again from the next attempt on; the counted bounces begin anew."""
    found = list(rows.select_related("organization"))
    pairs = {(row.organization_id, row.address) for row in found}
    Suppression.objects.filter(pk__in=[row.pk for row in found]).delete()
    suppress.forget_bounces(pairs)
    if found:
        _note("suppression.removed", [_told(row) for row in found], actor)
    return len(found)


def imported(count: int, scope: str, actor: Actor) -> None:
    suppress.forget()
    _note("suppression.imported", [f"{count} row{'' if count == 1 else 's'} {scope}"], actor)


def _told(row: Suppression) -> str:
    whose = f"of {row.organization.name}" if row.organization is not None else "of everybody"
    domain = f" ({row.sending_domain})" if row.sending_domain else ""
    return f"{row.address} {whose}{domain}: {row.get_reason_display().lower()}"


def _note(kind: str, told: Sequence[str], actor: Actor) -> None:
    more = f" and {len(told) - _MAX_NAMED} more" if len(told) > _MAX_NAMED else ""
    subject = told[0].partition(" ")[0] if len(told) == 1 else f"{len(told)} rows"
    TrailEntry.objects.create(
        kind=kind,
        actor=clean_text(actor.name, 254),
        subject=clean_text(subject, 254),
        client_address=actor.client_address[:45],
        detail=clean_text("; ".join(told[:_MAX_NAMED]) + more),
    )
