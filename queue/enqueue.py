"""Queue entries of accepted messages: one row a recipient, in the commit of the message."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.conf import settings

from mailflow.ids import new_row_id
from mailflow.spool.accepted import Accepted
from mailflow.spool.insert import bulk_insert
from queue.models import Entry
from queue.simulation import clock

_FIELDS = (
    "id", "message_id", "recipient", "domain", "status", "created_at", "next_attempt_at", "expires_at", "attempts",
    "max_attempts", "lease", "last_reply", "notify", "original_recipient", "deliver_by_at", "deliver_by_mode",
    "scheduled_at", "hold_reason", "route", "is_sandbox", "is_test", "waits_for", "waits_for_host",
)  # fmt: skip


def write_entries(accepted: Sequence[Accepted]) -> list[int]:
    """Insert the entries in the caller's transaction; return their ids in order.

    Those of the sandbox live by its clock from the beginning.
    """
    max_age = dt.timedelta(seconds=settings.QUEUE_MAX_AGE_SECONDS)
    all_sandbox = settings.DELIVERY_MODE == "sandbox"
    has_sandbox = all_sandbox or any(message.origin.is_test for message in accepted)
    ahead = clock.held_ahead() if has_sandbox else clock.REAL_TIME
    rows = [
        (
            new_row_id(),
            message.message_id,
            str(recipient.address),
            recipient.address.domain,
            Entry.Status.PENDING.value,
            message.created_at + shift,
            (message.scheduled_at or message.created_at) + shift,
            (message.scheduled_at or message.created_at) + shift + max_age,
            0,
            settings.QUEUE_MAX_ATTEMPTS,
            "",
            "",
            recipient.notify,
            recipient.original_recipient,
            _deliver_by_at(message, shift),
            message.envelope.deliver_by.mode if message.envelope.deliver_by else "",
            message.scheduled_at,
            "",
            "",
            all_sandbox or message.origin.is_test,
            message.origin.is_test,
            "",
            False,
        )
        for message in accepted
        for shift in [ahead if all_sandbox or message.origin.is_test else clock.REAL_TIME]
        for recipient in message.envelope.recipients
    ]
    bulk_insert(Entry, _FIELDS, rows)
    return [row[0] for row in rows]


def _deliver_by_at(message: Accepted, shift: dt.timedelta) -> dt.datetime | None:
    deliver_by = message.envelope.deliver_by
    return deliver_by.due_at(message.created_at) + shift if deliver_by else None
