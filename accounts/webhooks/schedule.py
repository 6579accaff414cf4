"""When a delivery is tried again; pure. The time is an argument, and so is chance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

JITTER = 0.2
MAX_RETRY_AFTER = dt.timedelta(hours=6)


def next_delay(
    attempts: int, delays: Sequence[dt.timedelta], *, fraction: float, asked: dt.timedelta | None = None
) -> dt.timedelta | None:
    """Return how long to wait after that many failed attempts, or None where it is given up.

    `fraction` in [0, 1) spreads the delay by a fifth to each side. `asked` is what the other side's Retry-After says:
    it makes a delay longer and never shorter.
    """
    if attempts > len(delays):
        return None
    spread = delays[attempts - 1] * (1 - JITTER + 2 * JITTER * fraction)
    return spread if asked is None else max(spread, min(asked, MAX_RETRY_AFTER))


def parse_retry_after(value: str, now: dt.datetime) -> dt.timedelta | None:
    """Read Retry-After (RFC 9110 §10.2.3): seconds, or a date; None where it says nothing that makes sense."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return dt.timedelta(seconds=int(text)) if len(text) < 10 else MAX_RETRY_AFTER
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=dt.UTC)
    return max(at - now, dt.timedelta())
