"""Remove what nobody needs any more: old messages with their history, refusals, the trail, content without a message.

All in small transactions, since SQLite has one writer at a time, and whoever accepts or delivers waits for it. Each
kind is gone through once in a run, by its index, and the kinds take turns, so that none keeps the others out.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts.models import TrailEntry, WebhookAttempt, WebhookDelivery
from accounts.webhooks import outbox
from mailflow import idempotency, removed
from mailflow.figures import forget_the_dead
from mailflow.ids import first_message_id, first_row_id
from mailflow.models import ContentChunk, Event, FiledMessage, IdempotencyKey, Message
from mailflow.storage import database
from queue.models import (
    Destination,
    DoubleBounce,
    MtaStsPolicy,
    QueueAction,
    SoftBounce,
    Suppression,
    TlsFigure,
    TlsReport,
)
from queue.removal import remove_rows

logger = structlog.get_logger(__name__)

BATCH = 200  # messages in a transaction, or as many as have this many recipients together
BATCH_CHUNKS = 16  # 16 MiB of content in a transaction
BATCH_ROWS = 500  # events or lines of the trail in a transaction
ORPHAN_AGE = dt.timedelta(days=1)
DESTINATION_AGE = dt.timedelta(days=60)
MAX_RUN_SECONDS = 600.0
LONGEST_PAUSE = 0.1  # after a step, as long as it took: SQLite's waiting writers poll, and must find the lock free
WITHOUT_MESSAGE = (Event.Kind.REFUSED, Event.Kind.AUTH_FAILED)  # the kinds of event that no message may have come of


def run() -> Counter[str]:
    """Prune until nothing is left or the time is over; return how many rows of each kind went."""
    now = timezone.now()
    ends_at = time.monotonic() + MAX_RUN_SECONDS
    removed: Counter[str] = Counter()
    kinds = {
        "messages": _messages(now),
        "chunks": _orphans(now),
        "refusals": _refusals(now),
        "trail": _trail(now),
        "idempotency_keys": _idempotency_keys(now),
        "tls": _tls(now),
        "bounces": _bounces(now),
        "actions": _actions(now),
        "destinations": _destinations(now),
        "webhook_deliveries": _webhook_deliveries(now),
    }
    while kinds and time.monotonic() < ends_at:
        for name, steps in list(kinds.items()):
            began = time.monotonic()
            count = next(steps, None)
            time.sleep(min(time.monotonic() - began, LONGEST_PAUSE))
            if count is None:
                del kinds[name]
            else:
                removed[name] += count
    forget_the_dead()
    logger.info("queue.pruned", **removed)
    return removed


def _messages(now: dt.datetime) -> Iterator[int]:
    """Remove messages that ended before MESSAGE_KEEP_DAYS (failed ones: and QUEUE_KEEP_FAILED_DAYS) and lie nowhere.

    The rows go first and at once, so that nobody reads half a message; octets that a crash leaves are orphans.
    """
    for batch in _ended(now):
        with transaction.atomic():
            remove_rows(batch)
        yield len(batch)
        for _ in _remove_chunks(ContentChunk.objects.filter(message_id__in=batch)):
            yield 0


def _ended(now: dt.datetime) -> Iterator[list[str]]:
    """Go through the old messages by the time of their end, and yield those that may go, one transaction's at once."""
    kept = now - dt.timedelta(days=settings.MESSAGE_KEEP_DAYS)
    kept_failed = min(kept, now - dt.timedelta(days=settings.QUEUE_KEEP_FAILED_DAYS))
    old = (
        Message.objects.filter(Q(status=Message.Status.DELIVERED) | Q(finished_at__lt=kept_failed))
        .filter(finished_at__lt=kept)
        .annotate(is_filed=Exists(FiledMessage.objects.filter(message_id=OuterRef("pk"))))
        .order_by("finished_at", "pk")
        .values_list("finished_at", "pk", "is_filed", "recipient_count")
    )
    rows = list(old[:BATCH])
    while rows:
        yield from _shared_out((pk, recipients) for _, pk, is_filed, recipients in rows if not is_filed)
        at, last = rows[-1][:2]
        rows = list(old.filter(finished_at__gte=at).exclude(finished_at=at, pk__lte=last)[:BATCH])


def _shared_out(messages: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Cut into batches of at most BATCH recipients together; a message of more is one by itself."""
    batch: list[str] = []
    size = 0
    for pk, recipients in messages:
        if batch and size + recipients > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(pk)
        size += recipients
    if batch:
        yield batch


def _orphans(now: dt.datetime) -> Iterator[int]:
    """Remove chunks of large messages whose session or process died before the message itself was committed."""
    return _remove_chunks(ContentChunk.objects.filter(message_id__lt=first_message_id(now - ORPHAN_AGE)))


def _remove_chunks(chunks: QuerySet[ContentChunk]) -> Iterator[int]:
    """Remove those that no row needs any more (`mailflow.storage.database` says which rows do)."""
    unneeded = chunks.filter(
        ~Exists(Message.objects.filter(pk=OuterRef("message_id"))),
        ~Exists(FiledMessage.objects.filter(message_id=OuterRef("message_id"), storage=database.NAME)),
    ).order_by("message_id", "ordinal")
    keys = list(unneeded.values_list("message_id", "ordinal")[:BATCH_CHUNKS])
    while keys:
        unneeded.order_by().filter(pk__in=keys).delete()
        yield len(keys)
        keys = list(unneeded.filter(message_id__gte=keys[-1][0]).values_list("message_id", "ordinal")[:BATCH_CHUNKS])


def _refusals(now: dt.datetime) -> Iterator[int]:
    """Remove events that belong to no message, past MESSAGE_KEEP_DAYS; an event's id has its time in it."""
    before = first_row_id(now - dt.timedelta(days=settings.MESSAGE_KEEP_DAYS))
    for kind in WITHOUT_MESSAGE:
        old = Event.objects.filter(kind=kind, message_id="", id__lt=before).order_by("id").values_list("pk", flat=True)
        while ids := list(old[:BATCH_ROWS]):
            with transaction.atomic():
                removed.note_refusals(ids)
                count = Event.objects.filter(pk__in=ids).delete()[0]
            yield count


def _destinations(now: dt.datetime) -> Iterator[int]:
    """Remove what was learned of domains that nobody wrote to for a while, where people have set nothing."""
    old = Destination.objects.filter(
        used_at__lt=now - DESTINATION_AGE, max_connections=None, per_minute=None, note=""
    ).order_by("used_at")
    while names := list(old.values_list("pk", flat=True)[:BATCH_ROWS]):
        yield old.order_by().filter(pk__in=names).delete()[0]


def _trail(now: dt.datetime) -> Iterator[int]:
    old = TrailEntry.objects.filter(created_at__lt=now - dt.timedelta(days=settings.TRAIL_KEEP_DAYS))
    while ids := list(old.order_by("created_at").values_list("pk", flat=True)[:BATCH_ROWS]):
        yield TrailEntry.objects.filter(pk__in=ids).delete()[0]


def _idempotency_keys(now: dt.datetime) -> Iterator[int]:
    old = IdempotencyKey.objects.filter(created_at__lt=now - idempotency.KEPT)
    while ids := list(old.order_by("created_at").values_list("pk", flat=True)[:BATCH_ROWS]):
        yield IdempotencyKey.objects.filter(pk__in=ids).delete()[0]


def _tls(now: dt.datetime) -> Iterator[int]:
    """Remove figures and reports past MESSAGE_KEEP_DAYS, and policies that expired before that."""
    before = now - dt.timedelta(days=settings.MESSAGE_KEEP_DAYS)
    for old in (
        TlsFigure.objects.filter(day__lt=before.date()),
        TlsReport.objects.filter(day__lt=before.date()),
        MtaStsPolicy.objects.filter(expires_at__lt=before),
    ):
        while ids := list(old.order_by("pk").values_list("pk", flat=True)[:BATCH_ROWS]):
            yield old.model.objects.filter(pk__in=ids).delete()[0]


def _bounces(now: dt.datetime) -> Iterator[int]:
    """Remove what is counted no more, what the postmaster was told of, and rows that keep nothing back any more."""
    kept = now - dt.timedelta(days=settings.MESSAGE_KEEP_DAYS)
    window = now - dt.timedelta(seconds=settings.SUPPRESSION_SOFT_WINDOW_SECONDS)
    yield from _of_age(SoftBounce.objects.filter(id__lt=first_row_id(window), created_at__lt=window))
    yield from _of_age(DoubleBounce.objects.filter(id__lt=first_row_id(kept), told_at__lt=kept))
    yield from _of_age(DoubleBounce.objects.filter(id__lt=first_row_id(kept), told_at__isnull=True))
    yield from _of_age(Suppression.objects.filter(expires_at__lt=kept))


def _of_age(rows: QuerySet[Any]) -> Iterator[int]:
    while ids := list(rows.order_by("pk").values_list("pk", flat=True)[:BATCH_ROWS]):
        yield rows.model._default_manager.filter(pk__in=ids).delete()[0]


def _actions(now: dt.datetime) -> Iterator[int]:
    """Remove the records of actions in bulk that ended as long ago as lines of the trail; ids have the time in them."""
    before = first_row_id(now - dt.timedelta(days=settings.TRAIL_KEEP_DAYS))
    old = QueueAction.objects.filter(pk__lt=before, finished_at__isnull=False).order_by("pk")
    while ids := list(old.values_list("pk", flat=True)[:BATCH_ROWS]):
        yield QueueAction.objects.filter(pk__in=ids).delete()[0]


def _webhook_deliveries(now: dt.datetime) -> Iterator[int]:
    """Remove deliveries past WEBHOOK_KEEP_DAYS, whatever became of them: all attempts are over, or the endpoint is off.

    Those of endpoints that were deleted go here too. A replay makes an old one no younger.
    """
    old = WebhookDelivery.objects.filter(pk__lt=outbox.first_id(now - dt.timedelta(days=settings.WEBHOOK_KEEP_DAYS)))
    while ids := list(old.order_by("pk").values_list("pk", flat=True)[:BATCH_ROWS]):
        with transaction.atomic():
            WebhookAttempt.objects.filter(delivery__in=ids).delete()
            count, _ = WebhookDelivery.objects.filter(pk__in=ids).delete()
        yield count
