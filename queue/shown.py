"""A queue entry as plain values, for programs: the API's samples and `manage.py queue --json`."""

from __future__ import annotations

import datetime as dt
from typing import Any

from queue.models import Entry
from queue.waiting import Around, waiting_for


def values(entry: Entry, now: dt.datetime, about: Around) -> dict[str, Any]:
    """Return what there is to say of an entry; it needs its message loaded. Ids are text: JavaScript's numbers end."""
    return {
        "id": str(entry.pk),
        "message_id": entry.message_id,
        "sender": entry.message.reverse_path,
        "recipient": entry.recipient,
        "subject": entry.message.subject,
        "status": entry.status,
        "attempts": entry.attempts,
        "max_attempts": entry.max_attempts,
        "created_at": entry.created_at,
        "next_attempt_at": entry.next_attempt_at,
        "expires_at": entry.expires_at,
        "scheduled_at": entry.scheduled_at,
        "held_at": entry.held_at,
        "hold_reason": entry.hold_reason,
        "route": entry.route,
        "waiting_for": waiting_for(entry, now, about),
        "last_reply": entry.last_reply,
    }
