"""Times and spans as people write them: `2026-11-27T10:00Z`, `in 2h`, `90m`; pure."""

from __future__ import annotations

import datetime as dt
import re

SPAN_WORDS = "a span such as 90s, 30m, 2h or 3d"
MOMENT_WORDS = "a time such as 2026-11-27T10:00Z or 2026-11-27 (UTC), or a span from now such as 2h or 3d"

_SPAN = re.compile(r"(\d{1,9})\s*([smhdw])\Z", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST = dt.timedelta(days=36500)


class InvalidMoment(ValueError):
    """The text says no time; the exception's text says what would."""


def parse_span(text: str) -> dt.timedelta:
    """Return a span; raises `InvalidMoment`."""
    found = _SPAN.match(text.strip())
    if found is None:
        raise InvalidMoment(f"{SPAN_WORDS} is needed")
    seconds = int(found[1]) * _SECONDS[found[2].lower()]
    if seconds > _LONGEST.total_seconds():
        raise InvalidMoment("a span of at most 100 years is needed")
    return dt.timedelta(seconds=seconds)


def parse_moment(text: str, now: dt.datetime) -> dt.datetime:
    """Return an aware time; without a zone it is UTC, a date is its first moment. Raises `InvalidMoment`."""
    text = text.strip()
    if text.lower() == "now":
        return now
    span = re.sub(r"\A(?:in\s+|\+)", "", text, flags=re.IGNORECASE)
    if _SPAN.match(span):
        return now + parse_span(span)
    try:
        # the space: what a + becomes in a query that was not encoded
        moment = dt.datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        raise InvalidMoment(f"{MOMENT_WORDS} is needed") from None


def spoken_span(span: dt.timedelta) -> str:
    """Return a span in its two largest units: `3 d 4 h`, `12 min`, `5 s`; never below nought."""
    seconds = max(0, int(span.total_seconds()))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"
