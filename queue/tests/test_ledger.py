"""Workers that share destinations through the database: slots, rates, what was learned, and whose lease is over."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from django.db import connection
from django.utils import timezone

from queue.models import Destination, Slots, Worker
from queue.pacing import heartbeat, ledger
from queue.pacing.heartbeat import Report
from queue.pacing.ledger import Grant, Want
from queue.pacing.signals import Signal
from queue.pacing.state import Mark

pytestmark = pytest.mark.django_db(transaction=True)

NOW = dt.datetime(2026, 11, 26, 12, 0, tzinfo=dt.UTC)
LEASE = dt.timedelta(seconds=60)
SECOND = dt.timedelta(seconds=1)


def beat(name: str, now: dt.datetime = NOW) -> int:
    return heartbeat.beat(Report(name, "host", 1, now), now=now, lease=LEASE)


def ask(worker: str, want: Want | int, domain: str = "x.example", now: dt.datetime = NOW, cap: int = 10) -> Grant:
    wants = {domain: Want(want) if isinstance(want, int) else want}
    return ledger.share_out(worker, wants, now=now, default_cap=cap, lease=LEASE)[domain]


def held() -> dict[str, int]:
    return dict(Slots.objects.values_list("worker", "held"))


def test_a_worker_alone_gets_everything_and_what_it_gives_back_is_free() -> None:
    beat("a")
    assert ask("a", 3).slots == 10
    assert ask("a", Want(0)).slots == 0
    assert held() == {}


def test_who_is_first_leaves_something_for_the_others_that_are_alive() -> None:
    assert (beat("a"), beat("b")) == (0, 1)
    assert ask("a", 50).slots == 5
    assert ask("b", 50).slots == 5
    grant = ask("a", Want(50, in_use=5))
    assert (grant.slots, grant.is_shared) == (5, True)


def test_a_worker_that_came_later_gets_its_share_as_deliveries_end() -> None:
    beat("a")
    assert ask("a", 50).slots == 10
    beat("b")
    assert ask("b", 50).slots == 0
    assert ask("a", Want(50, in_use=9)).slots == 9
    assert ask("b", 50).slots == 1
    assert ask("a", Want(50, in_use=4)).slots == 5
    assert ask("b", Want(50, in_use=1)).slots == 5
    assert ask("a", Want(0)).slots == 0
    assert ask("b", Want(50, in_use=5)).slots == 10


def test_the_slots_of_a_worker_that_died_are_free_when_its_lease_ends_and_not_before() -> None:
    beat("dead")
    assert ask("dead", 50).slots == 10
    beat("b", NOW + 50 * SECOND)
    assert ask("b", 50, now=NOW + 59 * SECOND).slots == 0
    assert ask("b", 50, now=NOW + 61 * SECOND).slots == 10
    heartbeat.forget_the_dead(NOW + 61 * SECOND, LEASE)
    assert held() == {"b": 10}
    assert Worker.objects.count() == 2  # people can see that it died
    heartbeat.forget_the_dead(NOW + 700 * SECOND, LEASE, but=["b"])
    assert list(Worker.objects.values_list("name", flat=True)) == ["b"]


def test_a_lease_that_a_wrong_clock_put_into_the_future_counts_for_nothing() -> None:
    beat("dead", NOW + dt.timedelta(hours=5))
    ask("dead", 50, now=NOW + dt.timedelta(hours=5))
    beat("b")
    assert ask("b", 50).slots == 10


def test_at_a_clean_end_everything_is_free_and_what_was_learned_is_kept() -> None:
    beat("a")
    ask("a", 5)
    mark = Mark(Signal.UNREACHABLE, NOW, NOW + SECOND, "no connection: refused")
    ledger.leave("a", {"x.example": Want(0, 0, [mark])}, now=NOW, default_cap=10, lease=LEASE)
    assert (Slots.objects.count(), Worker.objects.count()) == (0, 0)
    row = Destination.objects.get()
    assert (row.failures, row.failure) == (1, "no connection: refused")


def test_what_one_worker_learned_holds_for_all_and_after_a_restart() -> None:
    beat("a")
    ask("a", 5)
    ask("a", Want(5, 5, [Mark(Signal.BUSY, NOW, NOW + SECOND, "450 slower")]))
    beat("b")
    assert ask("b", 50).state.learned == 5
    paused = ask("b", Want(50, 0, [Mark(Signal.UNREACHABLE, NOW + 2 * SECOND, NOW + 3 * SECOND, "gone")]))
    assert paused.slots == 0
    assert ask("a", Want(50, 1), now=NOW + 4 * SECOND).slots == 1  # what runs, runs on
    again = ask("b", 50, now=NOW + 40 * SECOND)
    assert again.slots + held()["a"] == 1  # one delivery tries it


def test_the_limits_that_staff_set_hold_whatever_the_default() -> None:
    Destination.objects.create(domain="x.example", max_connections=2, used_at=NOW)
    beat("a")
    grant = ask("a", 50, cap=10)
    assert (grant.slots, grant.cap) == (2, 2)


def test_a_rate_is_shared_by_all_workers_and_what_was_not_begun_comes_back() -> None:
    Destination.objects.create(domain="x.example", per_minute=24, used_at=NOW)  # two at once, one in 2.5 s
    beat("a"), beat("b")
    assert ask("a", 50).messages == 2
    assert ask("b", 50).messages == 0
    assert ask("a", Want(0, unused=1)).messages == 0
    assert ask("b", 50).messages == 1
    assert ask("b", 50, now=NOW + 3 * SECOND).messages == 1


def test_a_destination_in_good_health_is_not_written_at_every_beat(django_assert_num_queries: object) -> None:
    beat("a")
    ask("a", Want(5, 0, [Mark(Signal.DELIVERED, NOW, NOW + SECOND)]))
    before = Destination.objects.get()
    ask("a", Want(5, 5, [Mark(Signal.DELIVERED, NOW, NOW + 20 * SECOND)]))
    assert Destination.objects.get().answered_at == before.answered_at == NOW + SECOND
    ask("a", Want(5, 5, [Mark(Signal.DELIVERED, NOW, NOW + 70 * SECOND)]))
    assert Destination.objects.get().answered_at == NOW + 70 * SECOND


def test_three_hundred_new_domains_cost_as_many_statements_as_one() -> None:
    beat("a")

    def statements(names: list[str]) -> int:
        connection.force_debug_cursor = True
        try:
            before = len(connection.queries_log)
            ledger.share_out("a", {name: Want(1) for name in names}, now=NOW, default_cap=10, lease=LEASE)
            return len(connection.queries_log) - before
        finally:
            connection.force_debug_cursor = False

    one = statements(["one.example"])
    assert statements([f"d{number}.example" for number in range(150)]) <= one + 2  # rows go in batches


def test_workers_that_ask_at_once_never_hold_more_than_there_is() -> None:
    domains = [f"d{number}.example" for number in range(6)]
    names = [f"w{number}" for number in range(4)]
    for name in names:
        beat(name, timezone.now())
    too_many: list[dict[str, int]] = []
    errors: list[Exception] = []

    def work(name: str, shift: int) -> None:
        try:
            for number in range(12):
                order = domains[shift:] + domains[:shift]
                wanted = (number * 7 + shift) % 20
                wants = {domain: Want(wanted) for domain in order[: 3 + number % 3]}
                ledger.share_out(name, wants, now=timezone.now(), default_cap=5, lease=LEASE)
        except Exception as error:  # noqa: BLE001  (a deadlock would be one)
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(name, number)) for number, name in enumerate(names)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        sums: dict[str, int] = {}
        for domain, count in Slots.objects.values_list("domain", "held"):
            sums[domain] = sums.get(domain, 0) + count
        if max(sums.values(), default=0) > 5:
            too_many.append(sums)
        threads[0].join(0.01)
        for thread in threads:
            thread.join(0.001)
    assert not errors
    assert not too_many
