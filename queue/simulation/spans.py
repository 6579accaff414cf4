"""Spans of time as people write and read them: `5d`, `90m`, `1d12h`; pure."""

from __future__ import annotations

import datetime as dt
import re

LONGEST = dt.timedelta(days=3650)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PART = re.compile(r"([0-9]{1,6})([smhd])")


def parse(text: str) -> dt.timedelta:
    """Read a span; raise ValueError, with a sentence that says what is allowed."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no span of time such as 90m, 12h, 5d or 1d12h")
    found = sum((dt.timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), dt.timedelta(0))
    if not dt.timedelta(0) < found <= LONGEST:
        raise ValueError(f"{text} is not between 1s and {LONGEST.days}d")
    return found


def words(length: dt.timedelta) -> str:
    """Return it to the second: `4d 23h 59m 55s`."""
    seconds = max(round(length.total_seconds()), 0)
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    return " ".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
