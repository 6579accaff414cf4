"""Remove what nobody needs any more: old messages with their history, and content whose message never came."""

from __future__ import annotations

import datetime as dt
import time

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from mailflow.figures import forget_the_dead
from mailflow.ids import MESSAGE_ID_PREFIX, time_prefix
from mailflow.models import ContentChunk, Event, FiledMessage, Message
from queue.models import Attempt, Entry

logger = structlog.get_logger(__name__)

BATCH = 200
ORPHAN_AGE = dt.timedelta(days=1)
MAX_RUN_SECONDS = 600


def run() -> int:
    """Prune in small transactions, so that nobody waits long for the database; return how many messages went."""
    now = timezone.now()
    count = 0
    ends_at = time.monotonic() + MAX_RUN_SECONDS
    while time.monotonic() < ends_at:
        removed = _prune_messages(now)
        count += removed
        if removed < BATCH:
            break
    _prune_orphans(now)
    _prune_refusals(now)
    forget_the_dead()
    logger.info("queue.pruned", messages=count)
    return count


def _prune_messages(now: dt.datetime) -> int:
    """Remove messages that ended before MESSAGE_KEEP_DAYS (failed ones: and QUEUE_KEEP_FAILED_DAYS) and lie nowhere."""
    kept = dt.timedelta(days=settings.MESSAGE_KEEP_DAYS)
    kept_failed = max(kept, dt.timedelta(days=settings.QUEUE_KEEP_FAILED_DAYS))
    old = Q(finished_at__lt=now - kept, status=Message.Status.DELIVERED) | Q(finished_at__lt=now - kept_failed)
    filed = FiledMessage.objects.filter(message_id=OuterRef("pk"))
    ids = list(Message.objects.filter(old & ~Exists(filed)).order_by().values_list("pk", flat=True)[:BATCH])
    with transaction.atomic():
        ContentChunk.objects.filter(message_id__in=ids).delete()
        Attempt.objects.filter(entry__message_id__in=ids).delete()
        Entry.objects.filter(message_id__in=ids).delete()
        Event.objects.filter(message_id__in=ids).delete()
        Message.objects.filter(pk__in=ids).delete()
    return len(ids)


def _prune_orphans(now: dt.datetime) -> None:
    """Remove chunks of large messages whose session or process died before the message itself was committed."""
    newest = MESSAGE_ID_PREFIX + time_prefix(now - ORPHAN_AGE)
    message = Message.objects.filter(pk=OuterRef("message_id"))
    orphans = ContentChunk.objects.filter(~Exists(message), message_id__lt=newest)
    ids = set(orphans.order_by().values_list("message_id", flat=True)[:BATCH])
    ContentChunk.objects.filter(message_id__in=ids).delete()


def _prune_refusals(now: dt.datetime) -> None:
    """Remove events that belong to no message, past MESSAGE_KEEP_DAYS."""
    before = now - dt.timedelta(days=settings.MESSAGE_KEEP_DAYS)
    ids = list(
        Event.objects.filter(message_id="", created_at__lt=before).order_by().values_list("pk", flat=True)[:10_000]
    )
    for start in range(0, len(ids), 500):
        Event.objects.filter(pk__in=ids[start : start + 500]).delete()
