"""A warm-up plan: how many messages a new sending domain may send on each of its first days (pure)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

# Each day at most twice the day before, from what no receiver minds of a stranger; after the last one, no limit.
DEFAULT_STEPS = (
    50, 100, 200, 400, 700, 1_000, 1_500, 2_000, 3_000, 4_500, 7_000, 10_000, 15_000, 22_000, 33_000, 50_000, 75_000,
    100_000,
)  # fmt: skip
MAX_STEPS = 365
MAX_STEP = 10_000_000


class InvalidPlan(ValueError):
    """The text is for the person who wrote the plan."""


def parse(text: str) -> list[int]:
    """Read `50, 100, 200`; raise `InvalidPlan` with what is wrong."""
    words = text.replace(",", " ").split()
    if not words:
        raise InvalidPlan("A plan needs at least one day.")
    if len(words) > MAX_STEPS:
        raise InvalidPlan(f"A plan has {MAX_STEPS} days at most; this one has {len(words)}.")
    steps = []
    for number, word in enumerate(words, 1):
        if not (word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= MAX_STEP and len(word) <= 8):
            raise InvalidPlan(f"Day {number}: a number from 1 to {MAX_STEP} is needed, not “{word[:20]}”.")
        steps.append(int(word))
    return steps


def day_of(started_on: dt.date, now: dt.datetime) -> int:
    """Return the day of the plan, from 1; 0 and less before it begins. Days are UTC's."""
    return (now.astimezone(dt.UTC).date() - started_on).days + 1


def allowed(steps: Sequence[int], started_on: dt.date, now: dt.datetime) -> int | None:
    """Return how many messages may go today; None before the plan and after it."""
    day = day_of(started_on, now)
    return steps[day - 1] if 1 <= day <= len(steps) else None


def next_day(now: dt.datetime) -> dt.datetime:
    today = now.astimezone(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today + dt.timedelta(days=1)
