"""The message's status, told from its entries: `processing` while one is open, then the worst of them (contract §3)."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from django.db import connection

from mailflow.locking import lock, marks
from mailflow.models import Message
from queue.models import Entry

# SQL of our own, since it runs for every batch: to build it with the ORM takes ten times as long as to carry it out.
_OF_MESSAGE = "FROM {entry} AS e WHERE e.message_id = {message}.id"
_IS_OPEN = f"EXISTS (SELECT 1 {_OF_MESSAGE} AND e.status IN ('{Entry.Status.PENDING}', '{Entry.Status.RETRY}'))"
_WORST_FIRST = (
    (Entry.Status.BOUNCED, Message.Status.BOUNCED),
    (Entry.Status.FAILED, Message.Status.FAILED),
    (Entry.Status.DELIVERED, Message.Status.DELIVERED),
)
_TOLD = " ".join(
    f"WHEN EXISTS (SELECT 1 {_OF_MESSAGE} AND e.status = '{of_entry}') THEN '{told}'" for of_entry, told in _WORST_FIRST
)
_REASONS = ", ".join(
    f"(SELECT e.last_reply {_OF_MESSAGE} AND e.status = '{status}' AND e.last_reply <> '' ORDER BY e.id LIMIT 1)"
    for status in (Entry.Status.BOUNCED, Entry.Status.FAILED)
)
_REFRESH = (
    "UPDATE {message} SET"  # noqa: S608  (names and words of our own only)
    f" status = CASE WHEN {_IS_OPEN} THEN '{Message.Status.PROCESSING}' {_TOLD} ELSE status END,"
    f" error_message = COALESCE({_REASONS}, ''),"
    f" finished_at = CASE WHEN {_IS_OPEN} THEN NULL ELSE (SELECT max(e.finished_at) {_OF_MESSAGE}) END"
    " WHERE id IN "
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
    ids = sorted(message_ids)
    if connection.features.has_select_for_update:
        lock(Message, ("id",), f"id IN {marks(ids)}", ids)
    with connection.cursor() as cursor:
        cursor.execute(_named(_REFRESH) + marks(ids), ids)


@lru_cache(maxsize=4)
def _named(statement: str) -> str:
    quoted = connection.ops.quote_name
    return statement.format(message=quoted(Message._meta.db_table), entry=quoted(Entry._meta.db_table))
