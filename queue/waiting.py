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
    if entry.retry_at is not None and entry.retry_at > entry.next_attempt_at:
        return _wake(entry)
    if entry.attempts:
        return f"attempt {entry.attempts + 1} of {entry.max_attempts}, since the last one was deferred"
    return "its time of sending"


def _wake(entry: Entry) -> str:
    """Say what comes before the next attempt (`queue.schedule`)."""
    if entry.next_attempt_at == entry.deliver_by_at and entry.deliver_by_mode.startswith("R"):
        return "the time at which the sender wants it back (BY), which comes before another attempt"
    attempt = f"attempt {entry.attempts + 1} of {entry.max_attempts}"
    return f"the time at which its sender is told of the delay; {attempt} follows"
