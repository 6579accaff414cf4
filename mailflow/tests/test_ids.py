"""Ids sort as they were made, and nobody gets one twice."""

from __future__ import annotations

import datetime as dt
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailflow import ids


def test_message_ids_of_one_millisecond_sort_as_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: moment)
    made = [ids.new_message_id() for _ in range(1000)]
    assert made == sorted(set(made)) and {len(one) for one in made} == {ids.MESSAGE_ID_LENGTH}
    assert {one[:16] for one in made} == {ids.first_message_id(dt.datetime.fromtimestamp(moment / 1e9, dt.UTC))}


def test_threads_that_make_ids_at_once_share_none() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [
            one for many in pool.map(lambda _: [ids.new_message_id() for _ in range(500)], range(8)) for one in many
        ]
    assert len(set(made)) == 4000
