"""Leases: which worker has which entry, decided by one conditional update (docs/adr/0002)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

from django.db import connection
from django.db.models import Case, DateTimeField, F, Field, Q, Value, When

from accounts.leases import among_first
from mailflow.locking import marks
from mailflow.models import Message
from queue.models import Entry

REAL_TIME = dt.timedelta(0)
# Of an advance of the sandbox's time: it is not renewed; what a killed one had here is known by its process.
SIMULATED_LEASE = dt.timedelta(minutes=2)


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
    route: str
    is_sandbox: bool
    user_id: int | None
    source: str
    header_from: str
    requires_tls: bool
    is_test: bool
    scheduled_at: dt.datetime | None
    waits_for_host: bool
    claims: int
    content: bytes | None = None  # read ahead, where the message is small
    has_own_return_path: bool = False  # leaves with a reverse path made for it (`queue.return_paths`)
    ahead: dt.timedelta = REAL_TIME  # of a sandbox entry: how far its clock is ahead of the real one
    host: str | None = None  # of a dial-up domain whose host asked for it: where to, empty for its MX

    def with_content(self, content: bytes | None) -> Parcel:
        """Return it with the message's octets; `replace` would look for each of forty fields by name."""
        before, after = _AROUND_CONTENT
        make: Any = Parcel
        found: Parcel = make(*before(self), content, *after(self))
        return found


_NAMES = [field.name for field in fields(Parcel)]
_CONTENT = _NAMES.index("content")
_AROUND_CONTENT = attrgetter(*_NAMES[:_CONTENT]), attrgetter(*_NAMES[_CONTENT + 1 :])


_PARCEL_COLUMNS = (
    "pk", "message_id", "recipient", "domain", "attempts", "max_attempts", "created_at", "expires_at", "notify",
    "original_recipient", "message__reverse_path", "message__body_type", "message__size_octets", "message__digest",
    "message__trace_id", "message__organization_id", "message__dsn_return", "message__envelope_id",
    "message__is_smtputf8", "deliver_by_at", "deliver_by_mode", "retry_at", "delay_told_at",
    "route", "is_sandbox", "message__user_id", "message__source", "message__header_from",
    "message__requires_tls", "is_test", "scheduled_at", "waits_for_host", "claims",
)  # fmt: skip


# What was put on hold while a worker had it, and comes back without an attempt that ended, is held from here on.
_LEASED_OR_HELD = (
    "waits_for = '', claims = claims + 1, lease = CASE WHEN held_at IS NULL THEN %s ELSE '' END,"
    " next_attempt_at = CASE WHEN held_at IS NULL THEN %s ELSE NULL END,"
    " status = CASE WHEN held_at IS NULL THEN status ELSE 'pending' END"
)

# Never below zero: the count begins anew where an attempt's end was written down meanwhile.
_ONE_CLAIM_LESS = Case(When(claims__gt=0, then=F("claims") - 1), default=Value(0))


def claim(
    worker: str,
    *,
    limit: int,
    now: dt.datetime,
    lease: dt.timedelta,
    entry_ids: Sequence[int] | None = None,
    ahead: dt.timedelta = REAL_TIME,
    is_sandbox: bool | None = None,
) -> list[Parcel]:
    """Lease up to `limit` due entries, of `entry_ids` alone where given (`queue.finding` finds them); return them.

    Those that need no attempt come all the same: their deadline has passed, or they are woken before their retry.
    Two workers never get the same entry: the update is one statement, on PostgreSQL over rows locked with SKIP LOCKED.
    `ahead`: how far the sandbox's clock is ahead of `now`; its waiting entries are due by that, in a statement of its
    own, and their leases end by real time. `is_sandbox`: only such entries, or only others.
    """
    if entry_ids is not None and not entry_ids:
        return []
    only = "" if is_sandbox is None else " AND is_sandbox" if is_sandbox else " AND NOT is_sandbox"
    until = now + lease
    claimed = _lease(worker, until, f"next_attempt_at <= %s{only}", now, entry_ids, limit)
    if ahead and is_sandbox is not False and len(claimed) < limit:
        waiting = "is_sandbox AND lease = '' AND next_attempt_at <= %s"
        claimed += _lease(worker, until, waiting, now + ahead, entry_ids, limit - len(claimed))
    return load(claimed, ahead)


def _lease(
    worker: str, until: dt.datetime, due: str, at: dt.datetime, entry_ids: Sequence[int] | None, limit: int
) -> list[int]:
    """Lease what is due by that condition on that time, the longest due first; return the ids."""
    ids = list(entry_ids or ())
    among = f" AND id IN ({', '.join(['%s'] * len(ids))})" if entry_ids is not None else ""
    table = connection.ops.quote_name(Entry._meta.db_table)
    longest_due = f"SELECT id FROM {table} WHERE {due}{among} ORDER BY next_attempt_at"  # noqa: S608  (names and marks)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET {_LEASED_OR_HELD} WHERE {among_first(longest_due, limit)} RETURNING id, lease",  # noqa: S608
            [worker, moment(until), moment(at), *ids],
        )
        return [entry_id for entry_id, lease_of in cursor.fetchall() if lease_of]


def load(entry_ids: Collection[int], ahead: dt.timedelta = REAL_TIME) -> list[Parcel]:
    """Return the parcels of entries in the order of their ids, which is the order they were accepted in."""
    ids = list(entry_ids)
    if not ids:
        return []
    statement, zoneless = _loading()
    with connection.cursor() as cursor:
        cursor.execute(f"{statement}{marks(ids)} ORDER BY e.id", ids)
        rows = cursor.fetchall()
    parcels = [Parcel(*_in_utc(row, zoneless)) for row in rows]
    if not ahead:
        return parcels
    return [replace(parcel, ahead=ahead) if parcel.is_sandbox else parcel for parcel in parcels]


@lru_cache(maxsize=1)
def _loading() -> tuple[str, Sequence[int]]:
    """Return the statement that reads parcels up to its list of ids, and the places of times that have no zone."""
    names, zoneless = [], []
    for place, name in enumerate(_PARCEL_COLUMNS):
        of_message = name.removeprefix("message__")
        model, table = (Entry, "e") if of_message == name else (Message, "m")
        field = model._meta.pk if of_message == "pk" else model._meta.get_field(of_message)
        assert isinstance(field, Field)
        names.append(f"{table}.{connection.ops.quote_name(str(field.column))}")
        if connection.vendor == "sqlite" and isinstance(field, DateTimeField):
            zoneless.append(place)
    quoted = connection.ops.quote_name
    tables = f"{quoted(Entry._meta.db_table)} e JOIN {quoted(Message._meta.db_table)} m ON m.id = e.message_id"
    return f"SELECT {', '.join(names)} FROM {tables} WHERE e.id IN ", zoneless  # noqa: S608  (names only)


def _in_utc(row: Sequence[Any], zoneless: Sequence[int]) -> list[Any]:
    values = list(row)
    for place in zoneless:
        if values[place] is not None:
            values[place] = values[place].replace(tzinfo=dt.UTC)
    return values


def renew(worker: str, entry_ids: Collection[int], *, until: dt.datetime) -> list[int]:
    """Push the end of the worker's own leases out; return those that a person has put on hold meanwhile."""
    own = Entry.objects.filter(pk__in=entry_ids, lease=worker, status__in=Entry.OPEN)
    own.update(next_attempt_at=until)
    return list(own.filter(held_at__isnull=False).values_list("pk", flat=True))


def give_back(worker: str, entry_ids: Collection[int], *, now: dt.datetime, was_lost: bool = False) -> None:
    """Return leased entries, due at once for whoever comes, or held from here on.

    No attempt was made for them, or, where the worker `was_lost`, nobody knows; then the claim goes on counting.
    """
    free = Q(held_at__isnull=True)
    Entry.objects.filter(pk__in=entry_ids, lease=worker, status__in=Entry.OPEN).update(
        lease="",
        claims=F("claims") if was_lost else _ONE_CLAIM_LESS,
        next_attempt_at=Case(When(free, then=Value(now)), default=None, output_field=DateTimeField()),
        status=Case(When(free, then=F("status")), default=Value(Entry.Status.PENDING.value)),
    )


def put_off(
    worker: str, entry_ids: Collection[int], *, next_at: dt.datetime, retry_at: dt.datetime | None, words: str
) -> None:
    """Let leased entries wait without an attempt, and say why; `retry_at` where they are looked at before it."""
    Entry.objects.filter(pk__in=entry_ids, lease=worker, status__in=Entry.OPEN).update(
        lease="", claims=_ONE_CLAIM_LESS, next_attempt_at=next_at, retry_at=retry_at, waits_for=words[:200]
    )


def moment(value: dt.datetime) -> Any:
    """Return a time as the database is given it in SQL of our own."""
    return connection.ops.adapt_datetimefield_value(value)
