"""Leases: which worker has which entry, decided by one conditional update (docs/adr/0002)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from queue.models import Entry


@dataclass(frozen=True, slots=True)
class Parcel:
    """One leased entry with what its delivery needs to know of the message."""

    entry_id: int
    message_id: str
    recipient: str
    domain: str
    attempts: int
    max_attempts: int
    created_at: dt.datetime
    expires_at: dt.datetime
    notify: str
    original_recipient: str
    reverse_path: str
    body_type: str
    size_octets: int
    digest: str
    trace_id: str
    organization_id: int | None
    dsn_return: str
    envelope_id: str
    is_smtputf8: bool
    deliver_by_at: dt.datetime | None
    deliver_by_mode: str
    retry_at: dt.datetime | None
    delay_told_at: dt.datetime | None
    content: bytes | None = None  # read ahead, where the message is small


_PARCEL_COLUMNS = (
    "pk", "message_id", "recipient", "domain", "attempts", "max_attempts", "created_at", "expires_at", "notify",
    "original_recipient", "message__reverse_path", "message__body_type", "message__size_octets", "message__digest",
    "message__trace_id", "message__organization_id", "message__dsn_return", "message__envelope_id",
    "message__is_smtputf8", "deliver_by_at", "deliver_by_mode", "retry_at", "delay_told_at",
)  # fmt: skip


def claim(
    worker: str,
    *,
    limit: int,
    now: dt.datetime,
    lease: dt.timedelta,
    entry_ids: Sequence[int] | None = None,
    without_domains: Sequence[str] = (),
) -> list[Parcel]:
    """Lease up to `limit` due entries, of `entry_ids` alone where given, none of `without_domains`; return them.

    Those that need no attempt come all the same: their deadline has passed, or they are woken before their retry.
    Two workers never get the same entry: the update is one statement, on PostgreSQL over rows locked with SKIP LOCKED.
    """
    table = connection.ops.quote_name(Entry._meta.db_table)
    among = ""
    parameters: list[Any] = [worker, _moment(now + lease), _moment(now)]
    if entry_ids is not None:
        if not entry_ids:
            return []
        among = f" AND id IN ({', '.join(['%s'] * len(entry_ids))})"
        parameters += entry_ids
    if without_domains:
        marks = ", ".join(["%s"] * len(without_domains))
        overdue = "deliver_by_at <= %s AND deliver_by_mode IN ('R', 'RT')"
        among += f" AND (domain NOT IN ({marks}) OR retry_at > %s OR {overdue})"
        parameters += [*without_domains, _moment(now), _moment(now)]
    skip = " FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET lease = %s, next_attempt_at = %s WHERE id IN ("  # noqa: S608  (names and marks only)
            f"SELECT id FROM {table} WHERE next_attempt_at <= %s{among} "
            f"ORDER BY next_attempt_at LIMIT {int(limit)}{skip}) RETURNING id",
            parameters,
        )
        claimed = [row[0] for row in cursor.fetchall()]
    return load(claimed)


def load(entry_ids: Collection[int]) -> list[Parcel]:
    """Return the parcels of entries in the order of their ids, which is the order they were accepted in."""
    rows = Entry.objects.filter(pk__in=entry_ids).order_by("pk").values_list(*_PARCEL_COLUMNS)
    return [Parcel(*row) for row in rows]


def renew(worker: str, entry_ids: Collection[int], *, until: dt.datetime) -> None:
    """Push the end of the worker's own leases out."""
    Entry.objects.filter(pk__in=entry_ids, lease=worker, status__in=Entry.OPEN).update(next_attempt_at=until)


def give_back(worker: str, entry_ids: Collection[int], *, now: dt.datetime) -> None:
    """Return leased entries that no attempt was made for, due at once for whoever comes."""
    Entry.objects.filter(pk__in=entry_ids, lease=worker, status__in=Entry.OPEN).update(lease="", next_attempt_at=now)


def _moment(value: dt.datetime) -> object:
    return connection.ops.adapt_datetimefield_value(value)
