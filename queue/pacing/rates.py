"""Messages a minute to one destination, as a bucket that fills steadily (pure).

It holds what comes in five seconds, one message at least: in any minute no more than the rate and that little go out.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

BURST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """`level`: messages that may go; `at`: when it was that much, None before the first use."""

    level: float = 0.0
    at: dt.datetime | None = None


def filled(bucket: Bucket, per_minute: int, now: dt.datetime) -> Bucket:
    """Return the bucket as it is now. A clock that went back fills nothing and spoils nothing."""
    most = max(1.0, per_minute * BURST_SECONDS / 60)
    if bucket.at is None:
        return Bucket(most, now)
    gained = max(0.0, (now - bucket.at).total_seconds()) * per_minute / 60
    return Bucket(min(most, bucket.level + gained), now)


def taken(bucket: Bucket, wanted: int) -> tuple[int, Bucket]:
    """Return how many of the wanted messages may go, and what is left."""
    count = max(0, min(wanted, math.floor(bucket.level + 1e-9)))
    return count, Bucket(bucket.level - count, bucket.at)


def next_at(bucket: Bucket, per_minute: int) -> dt.datetime | None:
    """Return when one more message may go."""
    if bucket.at is None:
        return None
    return bucket.at + dt.timedelta(seconds=max(0.0, 1 - bucket.level) * 60 / per_minute)
