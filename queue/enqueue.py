"""Queue entries of accepted messages: one row a recipient, in the commit of the message."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.conf import settings

from mailflow.ids import new_row_id
from mailflow.spool.accepted import Accepted
from mailflow.spool.insert import bulk_insert
from queue.models import Entry

_FIELDS = (
    "id", "message_id", "recipient", "domain", "status", "created_at", "next_attempt_at", "expires_at", "attempts",
    "max_attempts", "lease", "last_reply", "notify", "original_recipient", "deliver_by_at", "deliver_by_mode",
)  # fmt: skip


def write_entries(accepted: Sequence[Accepted]) -> list[int]:
    """Insert the entries in the caller's transaction; return their ids in order."""
    max_age = dt.timedelta(seconds=settings.QUEUE_MAX_AGE_SECONDS)
    rows = [
        (
            new_row_id(),
            message.message_id,
            str(recipient.address),
            recipient.address.domain,
            Entry.Status.PENDING.value,
            message.created_at,
            message.created_at,
            message.created_at + max_age,
            0,
            settings.QUEUE_MAX_ATTEMPTS,
            "",
            "",
            recipient.notify,
            recipient.original_recipient,
            _deliver_by_at(message),
            message.envelope.deliver_by.mode if message.envelope.deliver_by else "",
        )
        for message in accepted
        for recipient in message.envelope.recipients
    ]
    bulk_insert(Entry, _FIELDS, rows)
    return [row[0] for row in rows]


def _deliver_by_at(message: Accepted) -> dt.datetime | None:
    deliver_by = message.envelope.deliver_by
    return deliver_by.due_at(message.created_at) if deliver_by else None
