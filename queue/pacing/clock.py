"""Whether the clock on the wall jumped, found by comparing it with the one that cannot (pure)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

TOLERANCE = dt.timedelta(
    seconds=5
)  # a slow start of a thread, or a clock that is led back to the right time in small steps


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment; `steady` in seconds from anywhere."""

    wall: dt.datetime
    steady: float


def jump(before: Reading, after: Reading) -> dt.timedelta:
    """Return by how much the wall's clock went ahead (negative: back) beside the steady one; zero for very little."""
    found = (after.wall - before.wall) - dt.timedelta(seconds=after.steady - before.steady)
    return found if abs(found) > TOLERANCE else dt.timedelta(0)
