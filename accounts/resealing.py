"""Sealing all secrets in the database anew with the newest key, so that an older one can go (`accounts.sealed`).

It may be stopped at any point and run again: what the newest key has sealed is left alone. Whoever adds a column of
sealed texts adds it to `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import models

from accounts import sealed
from accounts.models import DkimKey, OdmrSecret, WebhookEndpoint

BATCH = 200


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """One column of sealed texts; an empty text is no secret. `place_of` says where a row's secret is at home."""

    title: str
    rows: Callable[[], models.QuerySet[Any]]
    field: str
    place_of: Callable[[Any], str]


COLUMNS: Sequence[SealedColumn] = (
    SealedColumn(
        "DKIM keys",
        lambda: DkimKey.objects.select_related("domain"),
        "sealed_private_key",
        lambda key: key.place,
    ),
    SealedColumn(
        "ODMR secrets",
        lambda: OdmrSecret.objects.select_related("domain"),
        "sealed",
        lambda secret: secret.place,
    ),
    SealedColumn(
        "webhook secrets",
        lambda: WebhookEndpoint.objects.all(),
        "sealed_secret",
        lambda endpoint: endpoint.place,
    ),
    SealedColumn(
        "previous webhook secrets",
        lambda: WebhookEndpoint.objects.all(),
        "sealed_previous_secret",
        lambda endpoint: endpoint.place,
    ),
)


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one secret. `trouble` says why it could not be opened; it stays as it is then."""

    place: str
    is_resealed: bool = False
    trouble: str = ""


def count(column: SealedColumn) -> int:
    return _secrets(column).count()


def reseal(column: SealedColumn) -> Iterator[Step]:
    """Seal each secret of the column anew that needs it, one statement each; yield what became of each."""
    last = None
    while batch := list(_after(column, last)):
        for row in batch:
            yield _reseal(column, row)
        last = batch[-1].pk


def _after(column: SealedColumn, last: Any) -> models.QuerySet[Any]:
    rows = _secrets(column).order_by("pk")
    return (rows if last is None else rows.filter(pk__gt=last))[:BATCH]


def _secrets(column: SealedColumn) -> models.QuerySet[Any]:
    return column.rows().exclude(**{column.field: ""})


def _reseal(column: SealedColumn, row: Any) -> Step:
    place, before = column.place_of(row), getattr(row, column.field)
    if sealed.is_current(before):
        return Step(place)
    try:
        after = sealed.seal(sealed.open_sealed(before, place), place)
    except sealed.CannotOpen as error:
        return Step(place, trouble=str(error))
    # Only if nobody changed it meanwhile: a key that was retired must stay erased.
    changed = column.rows().filter(pk=row.pk, **{column.field: before}).update(**{column.field: after})
    return Step(place, is_resealed=bool(changed))
