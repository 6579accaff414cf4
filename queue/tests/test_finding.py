"""What is due is found, whatever else waits: paused and full destinations, retries beside new mail, wrong clocks."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from mailflow.ids import new_row_id
from mailflow.models import Event, Message
from mailflow.smtp.envelope import DeliverBy
from queue import settle
from queue.finding import KINDS, Closed, Finder
from queue.models import Destination, Entry
from queue.patrol import Patrol

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]

LEASE = dt.timedelta(seconds=60)
HOUR = dt.timedelta(hours=1)
PENDING, RETRY = KINDS


@pytest.fixture(autouse=True)
def _live(settings: Any) -> None:
    """Mail of the sandbox has a clock of its own, and no destination."""
    settings.DELIVERY_MODE = "live"


@pytest.fixture
def fill(accept: Accept) -> Callable[..., None]:
    """Put many entries of one domain into the queue, as copies of an accepted one."""

    def put(domain: str, count: int, *, status: str = PENDING, due: dt.timedelta = -HOUR, **values: Any) -> None:
        model = Entry.objects.get(pk=accept(f"a@{domain}")[0])
        at = timezone.now() + due
        fields = {field.attname: getattr(model, field.attname) for field in Entry._meta.concrete_fields}
        fields |= {"status": status, "attempts": int(status == RETRY), **values}
        Entry.objects.bulk_create(
            Entry(**{**fields, "id": new_row_id(), "next_attempt_at": at + dt.timedelta(milliseconds=number)})
            for number in range(count)
        )
        Entry.objects.filter(pk=model.pk).delete()

    return put


def all_due(finder: Finder, kind: str, closed: Closed, most: int = 200) -> Counter[str]:
    """Claim until there is nothing more; count by domain. More than `most` claims would be no bound."""
    found: Counter[str] = Counter()
    for _ in range(most):
        step = finder.claim_due(kind, limit=20, lease=LEASE, closed=closed)
        found.update(parcel.domain for parcel in step.parcels)
        if step.is_all:
            return found
    raise AssertionError("no end")


def test_retries_and_first_attempts_are_claimed_apart(fill: Callable[..., None]) -> None:
    fill("x.example", 30, status=RETRY)
    fill("x.example", 3, due=-HOUR / 2)
    assert len(Finder("w").claim_due(PENDING, limit=10, lease=LEASE).parcels) == 3
    found = Finder("w").claim_due(RETRY, limit=10, lease=LEASE)
    assert (len(found.parcels), found.is_all) == (10, False)


def test_behind_many_entries_of_a_full_domain_the_others_are_found(
    fill: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.finding.WIDE", 50)
    monkeypatch.setattr("queue.finding.DOMAINS_A_STEP", 4)
    fill("full.example", 200)
    for number in range(11):
        fill(f"d{number:02}.example", 3, due=-HOUR / 2)
    finder, closed = Finder("w"), Closed(first={"full.example"})
    assert all_due(finder, PENDING, closed) == {f"d{number:02}.example": 3 for number in range(11)}
    assert all_due(finder, PENDING, closed) == {}
    fill("late.example", 1, due=-HOUR / 3)
    assert all_due(finder, PENDING, closed) == {"late.example": 1}


def test_a_paused_destination_is_passed_over_and_its_entries_cost_no_attempt(fill: Callable[..., None]) -> None:
    fill("dead.example", 30)
    fill("live.example", 2, due=-HOUR / 2)
    now = timezone.now()
    Destination.objects.create(domain="dead.example", paused_until=now + HOUR / 4, failures=1, used_at=now)
    assert all_due(Finder("w"), PENDING, Closed()) == {"live.example": 2}
    assert set(Entry.objects.filter(domain="dead.example").values_list("attempts", "lease")) == {(0, "")}
    dead = list(Entry.objects.filter(domain="dead.example").values_list("pk", flat=True))
    assert Finder("w").claim_rung(dead[:5], limit=9, lease=LEASE).parcels == []
    Destination.objects.update(paused_until=now + dt.timedelta(days=400))  # no pause is so long: the clock was wrong
    assert all_due(Finder("w"), PENDING, Closed()) == {"dead.example": 30}


def test_a_domain_that_has_room_again_is_claimed_for_by_its_name(fill: Callable[..., None]) -> None:
    fill("x.example", 30, due=-HOUR / 3)
    fill("x.example", 30, status=RETRY)
    fill("y.example", 30)
    found = Finder("w").claim_of(["x.example"], limit=20, lease=LEASE).parcels
    assert Counter((parcel.domain, parcel.attempts) for parcel in found) == {("x.example", 0): 10, ("x.example", 1): 10}


def test_what_is_only_to_be_woken_is_found_though_its_domain_is_closed(accept: Accept) -> None:
    accept("a@x.example", deliver_by=DeliverBy(600, "R"))
    Entry.objects.update(deliver_by_at=timezone.now() - HOUR)
    assert len(Finder("w").claim_due(PENDING, limit=9, lease=LEASE, closed=Closed({"x.example"})).parcels) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_look_goes_by_an_index(fill: Callable[..., None], kind: str) -> None:
    """The plans, where the tables are large enough to have any: no scan, and no sort of more than was asked for."""
    fill("x.example", 2500, status=kind)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    connection.force_debug_cursor = True
    connection.queries_log.clear()
    try:
        finder = Finder("w")
        finder.claim_due(kind, limit=100, lease=LEASE)
        finder.claim_of(["x.example"], limit=100, lease=LEASE)
        finder._blocked_until[kind] = float("inf")
        finder.claim_due(kind, limit=100, lease=LEASE)
        statements = [query["sql"] for query in connection.queries_log if "queue_entry" in query["sql"]]
    finally:
        connection.force_debug_cursor = False
    assert len(statements) >= 6
    for statement in statements:
        plan = _plan(statement)
        assert "Seq Scan on queue_entry" not in plan and "SCAN queue_entry" not in plan and "SCAN e" not in plan, plan


def _plan(statement: str) -> str:
    explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
    if connection.vendor == "sqlite":
        statement = statement.replace("%", "%%")
    with connection.cursor() as cursor:
        cursor.execute(explain + statement)
        return "\n".join(str(row) for row in cursor.fetchall())


# --- the patrol ---


def patrolled(now: dt.datetime, **options: Any) -> list[str]:
    """Let a patrol make a round; return the recipients that it wants settled."""
    patrol, found, has_ended = Patrol("w", LEASE), [], False
    while not has_ended:
        results, has_ended = patrol.step(now, **options)
        found += [result.parcel.recipient for result in results]
        settle.settle(results, worker="w")
    return found


def pause(domain: str = "x.example") -> None:
    now = timezone.now()
    Destination.objects.create(
        domain=domain, paused_until=now + HOUR / 4, failures=1, used_at=now, failure="no connection: timed out"
    )


def test_who_waits_behind_a_pause_hears_of_the_delay_once(accept: Accept) -> None:
    accept("a@x.example")
    pause()
    Entry.objects.update(created_at=timezone.now() - 5 * HOUR)
    assert patrolled(timezone.now(), only_mends=True) == []
    assert patrolled(timezone.now()) == ["a@x.example"]
    assert patrolled(timezone.now()) == []
    entry = Entry.objects.get(recipient="a@x.example")
    assert (entry.attempts, entry.lease) == (0, "") and entry.delay_told_at is not None
    assert Message.objects.filter(source="dsn").count() == 1
    assert Event.objects.filter(kind="deferred", entry_id=entry.pk).count() == 1


@pytest.mark.parametrize(
    "values",
    [
        {"notify": "NEVER"},
        {"notify": "FAILURE"},
        {"deliver_by_mode": "N", "deliver_by_at": timezone.now() - HOUR, "delay_told_at": timezone.now() - HOUR},
        {"expires_at": timezone.now() - HOUR, "delay_told_at": timezone.now(), "domain": "open.example"},
        {},
    ],
    ids=["never", "failure", "told", "its turn comes", "null path"],
)
def test_many_that_nobody_is_told_of_keep_none_from_being_found(
    fill: Callable[..., None], accept: Accept, values: dict[str, Any]
) -> None:
    fill(**{"domain": "x.example", "count": 1200, "created_at": timezone.now() - 5 * HOUR, **values})
    if not values:
        Message.objects.update(reverse_path="")
    accept("last@x.example")
    Entry.objects.filter(recipient="last@x.example").update(created_at=timezone.now() - 5 * HOUR)
    pause()
    assert patrolled(timezone.now()) == ["last@x.example"]


def test_a_step_ends_with_as_many_as_it_may_settle_and_the_next_goes_on_there(
    fill: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.patrol.MAX_FOUND", 5)
    monkeypatch.setattr("queue.patrol.STEP", 16)
    fill("x.example", 40, status=RETRY, created_at=timezone.now() - 5 * HOUR)
    fill("x.example", 40, created_at=timezone.now() - 5 * HOUR)
    pause()
    patrol, has_ended, found = Patrol("w", LEASE), False, []
    while not has_ended:
        results, has_ended = patrol.step(timezone.now())
        assert len(results) <= 10
        found += [result.parcel.entry_id for result in results]
    assert len(found) == len(set(found)) == 80


def test_mail_behind_a_pause_bounces_when_its_time_is_over_and_says_why(accept: Accept) -> None:
    accept("a@x.example")
    accept("b@y.example")
    pause()
    Entry.objects.update(expires_at=timezone.now(), delay_told_at=timezone.now())
    assert patrolled(timezone.now()) == ["a@x.example"]  # the other one has its turn yet, however late
    entry = Entry.objects.get(recipient="a@x.example")
    assert (entry.status, entry.attempts) == ("bounced", 0)
    assert "no connection: timed out" in entry.last_reply


def test_a_deadline_passes_behind_a_pause(accept: Accept) -> None:
    accept("a@x.example", deliver_by=DeliverBy(600, "R"))
    pause()
    Entry.objects.update(deliver_by_at=timezone.now())
    assert patrolled(timezone.now()) == ["a@x.example"]
    assert Entry.objects.get(recipient="a@x.example").status == "bounced"


def test_after_a_jump_back_nothing_waits_for_a_time_that_a_wrong_clock_set(accept: Accept) -> None:
    now = timezone.now()
    names = ("leased", "retry", "scheduled", "soon", "mine", "fetched")
    accept(*(f"{name}@x.example" for name in names))
    entries = {entry.recipient.partition("@")[0]: entry for entry in Entry.objects.all()}
    ahead = {"leased": 5 * HOUR, "retry": 24 * 200 * HOUR, "scheduled": 24 * 200 * HOUR, "soon": HOUR, "mine": LEASE}
    ahead["fetched"] = 24 * 20 * HOUR
    for name, by in ahead.items():
        entries[name].next_attempt_at = now + by
        entries[name].save()
    Entry.objects.filter(pk__in=[entries["leased"].pk, entries["mine"].pk]).update(lease="somebody")
    Entry.objects.filter(pk=entries["fetched"].pk).update(waits_for_host=True)  # by a host that comes when it likes
    Entry.objects.filter(pk=entries["scheduled"].pk).update(scheduled_at=now + ahead["scheduled"])
    chosen = accept("chosen@x.example")  # by a person, who let it live so long
    Entry.objects.filter(pk__in=chosen).update(next_attempt_at=now + 240 * HOUR, expires_at=now + 300 * HOUR)
    assert patrolled(now, only_mends=True) == []
    due = Entry.objects.filter(next_attempt_at__lte=now, lease="")
    assert sorted(due.values_list("recipient", flat=True)) == ["leased@x.example", "retry@x.example"]


def test_a_patrol_goes_through_more_than_one_step(fill: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queue.patrol.STEP", 7)
    fill("x.example", 40, status=RETRY, due=5 * HOUR, lease="gone")
    fill("x.example", 40, due=5 * HOUR, lease="gone")
    patrolled(timezone.now(), only_mends=True)
    assert not Entry.objects.exclude(lease="").exists()
