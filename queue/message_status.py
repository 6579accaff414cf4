"""The message's status, told from its entries: `processing` while one is open, then the worst of them (contract §3)."""

from __future__ import annotations

from collections.abc import Collection

from django.db import connection
from django.db.models import Case, Exists, F, OuterRef, Subquery, Value, When
from django.db.models.functions import Coalesce

from mailflow.models import Message
from queue.models import Entry

_WORST_FIRST = (
    (Entry.Status.BOUNCED, Message.Status.BOUNCED),
    (Entry.Status.FAILED, Message.Status.FAILED),
    (Entry.Status.DELIVERED, Message.Status.DELIVERED),
)


def refresh(message_ids: Collection[str]) -> None:
    """Tell the messages' status anew; call it in the transaction that changed their entries, after the change.

    Two statements, however many messages. The rows are locked before the entries are read: of two workers that end two
    entries of one message at once, the second waits for the first one's commit and then sees both (a statement's
    snapshot on PostgreSQL is taken when it begins). Locks are taken in the order of ids, so two batches never block
    each other.
    """
    if not message_ids:
        return
    messages = Message.objects.filter(pk__in=message_ids)
    if connection.features.has_select_for_update:
        list(messages.order_by("pk").select_for_update(no_key=True).values_list("pk", flat=True))
    entries = Entry.objects.filter(message=OuterRef("pk"))
    is_open = Exists(entries.filter(status__in=Entry.OPEN))
    last_end = entries.filter(finished_at__isnull=False).order_by("-finished_at").values("finished_at")[:1]
    reasons = [
        Subquery(entries.filter(status=status).exclude(last_reply="").order_by("pk").values("last_reply")[:1])
        for status in (Entry.Status.BOUNCED, Entry.Status.FAILED)
    ]
    messages.update(
        status=Case(
            When(is_open, then=Value(Message.Status.PROCESSING)),
            *(When(Exists(entries.filter(status=of_entry)), then=Value(told)) for of_entry, told in _WORST_FIRST),
            default=F("status"),
        ),
        error_message=Coalesce(*reasons, Value("")),
        finished_at=Case(When(is_open, then=None), default=Subquery(last_end)),
    )
