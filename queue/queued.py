"""The messages that some recipient has not got, newest first: what `GET queue` lists (contract §3, R4).

Each list is read from an index in the order of ids, so that a page costs the same with a thousand messages and with a
million. A message's status is the liveliest of its entries': retry, else pending, else failed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import reduce
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from mailflow.models import Message
from queue.models import Entry

STATUSES = ("pending", "retry", "failed")
TOTAL_CAP = 10_000

_OPEN = (Message.Status.PROCESSING, Message.Status.PENDING)
_FAILED = (Message.Status.BOUNCED, Message.Status.FAILED)
_UNSUCCESSFUL = (Entry.Status.FAILED, Entry.Status.BOUNCED)


def total(status: str | None, now: dt.datetime) -> int:
    """Count the messages of that status, of any where none is given; `TOTAL_CAP` stands for that many or more."""
    if status in ("retry", "pending"):
        return _ids(status, now)[:TOTAL_CAP].count()
    found = Message.objects.filter(status__in=_OPEN).order_by()[:TOTAL_CAP].count() if status is None else 0
    if found == TOTAL_CAP:
        return found
    ended = Message.objects.filter(
        ~Q(status=Message.Status.DELIVERED), finished_at__isnull=False, finished_at__gte=_kept_since(now)
    )
    return found + ended.order_by().values("finished_at")[: TOTAL_CAP - found].count()


def page(status: str | None, now: dt.datetime, *, offset: int, limit: int, before: str | None = None) -> list[Message]:
    """Return a page, of what was accepted before the message `before` where one is named; two queries."""
    found_ids = _ids(status, now, before, upto=offset + limit).order_by("-found")
    ids = list(found_ids[offset : offset + limit].values_list("found", flat=True))
    found = Message.objects.in_bulk(ids)
    return [found[pk] for pk in ids if pk in found]


def find(message_id: str, now: dt.datetime) -> Message | None:
    return Message.objects.filter(_is_queued(now), pk=message_id).first()


def entries_of(messages: Sequence[Message], now: dt.datetime) -> QuerySet[Entry]:
    """Return the entries that the queue shows: the open ones, and what ended without success a while ago."""
    kept = Q(status__in=_UNSUCCESSFUL, finished_at__gte=_kept_since(now))
    return Entry.objects.filter(Q(status__in=Entry.OPEN) | kept, message__in=messages)


def _ids(
    status: str | None, now: dt.datetime, before: str | None = None, upto: int | None = None
) -> QuerySet[Any, Any]:
    """The messages' ids as `found`, each once: one index scan for each status, merged by the database.

    SQLite merges scans as they go; PostgreSQL would sort them whole, and is told that the first `upto` are enough.
    """
    if status in ("retry", "pending"):
        of_entries = _with_entry(Entry.Status(status))
        if status == "pending":
            retrying = Entry.objects.filter(Entry.IS_LISTED, status=Entry.Status.RETRY, message=OuterRef("message"))
            of_entries = of_entries.filter(~Exists(retrying))
        if before is not None:
            of_entries = of_entries.filter(message_id__lt=before)
        return of_entries.distinct()
    parts = [Q(status=one, finished_at__gte=_kept_since(now)) for one in _FAILED]
    if status is None:
        parts = [*(Q(status=one) for one in _OPEN), *parts]
    later = Q() if before is None else Q(pk__lt=before)
    scans = [Message.objects.filter(part, later).order_by().values(found=F("pk")) for part in parts]
    if upto is not None and connection.features.supports_slicing_ordering_in_compound:
        scans = [scan.order_by("-found")[:upto] for scan in scans]
    return reduce(lambda first, second: first.union(second, all=True), scans)


def _with_entry(status: Entry.Status) -> QuerySet[Any, Any]:
    return Entry.objects.filter(Entry.IS_LISTED, status=status).order_by().values(found=F("message_id"))


def _is_queued(now: dt.datetime) -> Q:
    return Q(status__in=_OPEN) | Q(status__in=_FAILED, finished_at__gte=_kept_since(now))


def _kept_since(now: dt.datetime) -> dt.datetime:
    return now - dt.timedelta(days=settings.QUEUE_KEEP_FAILED_DAYS)
