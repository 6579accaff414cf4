"""Counters: nothing is lost or counted twice, and the dead do not count as living."""

from __future__ import annotations

import datetime as dt
import os
import threading

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from mailflow import counters, figures
from mailflow.counters import Counters
from mailflow.models import Counter, Gauge


@pytest.fixture
def own(db: None) -> Counters:
    return Counters()


def test_sums_are_added_to_what_is_there(own: Counters) -> None:
    for _ in range(2):
        own.add("a")
        own.add("b", 3)
        own.flush()
    assert (figures.read().sum("a"), figures.read().sum("b"), figures.read().sum("c")) == (2, 6, 0)


def test_two_processes_add_up(own: Counters) -> None:
    other = Counters()
    for one in (own, other):
        one.add("a", 5)
        one.gauge("open", 2)
        one.flush()
    found = figures.read()
    assert found.sum("a") == 10 and found.gauge("open") == (4 if own._process != other._process else 2)


def test_what_could_not_be_written_is_kept(own: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("gone")

    own.add("a", 2)
    own.gauge("open", 1)
    with monkeypatch.context() as patched:
        patched.setattr(own, "_write", fail)
        own.flush()
        own.add("a")
    own.flush()
    assert figures.read().sum("a") == 3 and figures.read().gauge("open") == 1


def test_a_gauge_that_is_not_renewed_counts_no_more(own: Counters) -> None:
    own.gauge("open", 7)
    own.flush()
    assert figures.read().gauge("open") == 7 and figures.read().is_running("open")
    Gauge.objects.update(updated_at=timezone.now() - dt.timedelta(minutes=1))
    assert figures.read().gauge("open") == 0 and not figures.read().is_running("open")
    assert figures.forget_the_dead() == 0
    Gauge.objects.update(updated_at=timezone.now() - dt.timedelta(days=2))
    assert figures.forget_the_dead() == 1


def test_a_clean_end_takes_the_gauges_back_and_keeps_the_sums(own: Counters) -> None:
    own.gauge("open", 7)
    own.flush()
    own.add("a")
    own.stop()
    assert not Gauge.objects.exists() and figures.read().sum("a") == 1


def test_an_unchanged_gauge_is_not_written_every_time(own: Counters) -> None:
    own.gauge("open", 7)
    own.flush()
    Gauge.objects.all().delete()
    own.gauge("open", 7)
    own.flush()
    assert not Gauge.objects.exists()


def test_uptime_is_the_oldest_living_process(own: Counters) -> None:
    now = timezone.now()
    assert figures.read().uptime_seconds(now) == 0
    own.gauge(counters.STARTED, int((now - dt.timedelta(hours=1)).timestamp() * 1000))
    own.flush()
    assert figures.read().uptime_seconds(now) == pytest.approx(3600, abs=1)


def test_percentiles_come_from_the_observations(own: Counters) -> None:
    for _ in range(95):
        own.observe("processing_ms", 1.5)
    for _ in range(5):
        own.observe("processing_ms", 150)
    own.flush()
    found = figures.read().histogram("processing_ms")
    assert found.count == 100 and found.average == pytest.approx(8.925)
    assert 1 <= found.percentile(0.5) <= 2 and 100 < found.percentile(0.99) <= 200


def test_observations_over_the_last_bound_count(own: Counters) -> None:
    own.observe("processing_ms", 10**9)
    own.flush()
    found = figures.read().histogram("processing_ms")
    assert (found.count, found.over, found.percentile(0.99)) == (1, 1, 10000.0)


def test_no_observations_are_no_time() -> None:
    found = figures.Histogram((1, 2), (0, 0), 0, 0.0)
    assert (found.average, found.percentile(0.95)) == (0.0, 0.0)


def test_a_forked_child_does_not_write_what_its_parent_counted(own: Counters) -> None:
    own.add("a", 5)
    before = own._process
    own.after_fork()
    own.flush()
    assert not Counter.objects.exists() and str(os.getpid()) in before


@pytest.mark.django_db(transaction=True)
def test_once_started_the_counts_are_written_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "FLUSH_SECONDS", 0.01)
    own, written = Counters(), threading.Event()
    flush = own.flush

    def flush_and_tell() -> None:
        flush()
        written.set()

    monkeypatch.setattr(own, "flush", flush_and_tell)
    own.start()
    own.add("a")
    assert written.wait(60)
    own.stop()
    assert own._thread is not None
    own._thread.join(60)
    connection.close()
    assert figures.read().sum("a") == 1
