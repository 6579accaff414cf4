"""What an open entry waits for, in words: for the API's `waiting_for`, the admin and whoever asks."""

from __future__ import annotations

import datetime as dt

from queue.models import Entry


def waiting_for(entry: Entry, now: dt.datetime) -> str:
    """Return one clause without a full stop, or nothing for an entry that has ended."""
    if entry.status not in Entry.OPEN or entry.next_attempt_at is None:
        return ""
    if entry.lease and entry.next_attempt_at > now:
        return f"the attempt that worker {entry.lease} is making now"
    if entry.lease:
        return "another worker, since the one that had it fell silent"
    if entry.next_attempt_at <= now:
        return "a free worker"
    if entry.attempts:
        return f"attempt {entry.attempts + 1} of {entry.max_attempts}, since the last one was deferred"
    return "its time of sending"
