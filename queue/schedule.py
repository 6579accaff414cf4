"""What follows an attempt, and when: the retry schedule as pure functions (RFC 5321 §4.5.4.1)."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass

from queue.outcome import Kind, Outcome

JITTER = 0.2  # each delay is stretched by up to a fifth, so that an outage's mail does not come back all at once


class End(enum.StrEnum):
    """How an attempt leaves its entry."""

    DELIVERED = "delivered"
    RETRY = "retry"
    BOUNCED = "bounced"


@dataclass(frozen=True, slots=True)
class Step:
    """`next_attempt_at` only for a retry; `reason` says in words why a deferred entry ended, or when it goes on."""

    end: End
    next_attempt_at: dt.datetime | None
    reason: str


def next_delay(delays: Sequence[dt.timedelta], attempts: int, fraction: float) -> dt.timedelta:
    """Return the wait after the attempt number `attempts` (from 1); the last delay repeats. `fraction` is 0 to 1."""
    delay = delays[min(attempts, len(delays)) - 1]
    return delay * (1 + JITTER * fraction)


def next_step(
    outcome: Outcome,
    *,
    attempts: int,
    max_attempts: int,
    now: dt.datetime,
    expires_at: dt.datetime,
    delays: Sequence[dt.timedelta],
    fraction: float,
) -> Step:
    """Judge an ended attempt; `attempts` counts it already."""
    if outcome.kind is Kind.DELIVERED:
        return Step(End.DELIVERED, None, "")
    if outcome.kind is Kind.FAILED:
        return Step(End.BOUNCED, None, "the refusal is permanent")
    if attempts >= max_attempts:
        return Step(End.BOUNCED, None, f"all {max_attempts} attempts are used up")
    at = now + next_delay(delays, attempts, fraction)
    if at > expires_at:
        return Step(
            End.BOUNCED, None, f"the next attempt would come after {expires_at:%Y-%m-%d %H:%M} UTC, its last hour"
        )
    return Step(End.RETRY, at, f"attempt {attempts + 1} of {max_attempts} follows at {at:%H:%M:%S} UTC")
