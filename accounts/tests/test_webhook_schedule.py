"""When a webhook is tried again."""

from __future__ import annotations

import datetime as dt

import pytest
from django.conf import settings

from accounts.webhooks.schedule import MAX_RETRY_AFTER, next_delay, parse_retry_after

DELAYS = [dt.timedelta(seconds=10), dt.timedelta(minutes=10)]
NOW = dt.datetime(2025, 10, 23, 12, tzinfo=dt.UTC)


def test_the_schedule_is_gone_through_and_then_it_is_given_up() -> None:
    assert [next_delay(attempts, DELAYS, fraction=0.5) for attempts in (1, 2, 3)] == [*DELAYS, None]


def test_chance_spreads_a_delay_by_a_fifth_to_each_side() -> None:
    assert next_delay(1, DELAYS, fraction=0.0) == dt.timedelta(seconds=8)
    assert next_delay(1, DELAYS, fraction=1.0) == dt.timedelta(seconds=12)


def test_retry_after_makes_a_delay_longer_and_never_shorter() -> None:
    assert next_delay(1, DELAYS, fraction=0.5, asked=dt.timedelta(seconds=60)) == dt.timedelta(seconds=60)
    assert next_delay(1, DELAYS, fraction=0.5, asked=dt.timedelta(seconds=1)) == DELAYS[0]
    assert next_delay(1, DELAYS, fraction=0.5, asked=dt.timedelta(days=300)) == MAX_RETRY_AFTER


def test_the_default_schedule_ends_after_about_a_day() -> None:
    total = sum(settings.WEBHOOK_RETRY_SCHEDULE, dt.timedelta())
    assert dt.timedelta(hours=20) < total < dt.timedelta(hours=30)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("120", dt.timedelta(seconds=120)),
        ("Thu, 23 Oct 2025 12:01:00 GMT", dt.timedelta(minutes=1)),
        ("Thu, 23 Oct 2025 11:00:00 GMT", dt.timedelta()),
        ("9" * 400, MAX_RETRY_AFTER),
        ("soon", None), ("-5", None), ("", None), ("١٢", None), ("Thu, 99 Oct 2025 99:99:99 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value: str, wait: dt.timedelta | None) -> None:
    assert parse_retry_after(value, NOW) == wait
