"""When a message is to be sent, as a request says it: which texts are times."""

from __future__ import annotations

import datetime as dt
from typing import Any

from rest_framework import serializers

_EXAMPLE = "such as 2026-12-01T09:00:00Z"


class ScheduledAtField(serializers.DateTimeField):
    """A date with a time of day; without a zone it is UTC. The value is aware, in UTC."""

    default_error_messages = {
        "invalid": f"A time {_EXAMPLE} is needed.",
        "only_a_day": f"A day alone is no time: add the time of day, {_EXAMPLE}.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(default_timezone=dt.UTC, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        if _is_day(data):
            self.fail("only_a_day")
        return super().to_internal_value(data)


def _is_day(data: Any) -> bool:
    try:
        dt.date.fromisoformat(data)
    except (TypeError, ValueError):
        return False
    return True
