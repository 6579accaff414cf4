"""The admin pages of destinations and warm-up plans, and the words that say what an entry waits for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import Domain, Organization, TrailEntry, User
from queue.models import Destination, Entry, Slots, WarmupPlan, Worker
from queue.waiting import around, waiting_for

Accept = Callable[..., list[int]]
NOW = dt.datetime(2026, 11, 26, 14, 30, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _live(settings: Any) -> None:
    """Mail of the sandbox has a clock of its own, and no destination."""
    settings.DELIVERY_MODE = "live"


@pytest.fixture
def browser(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    return client


def destination(domain: str = "x.example", **values: Any) -> Destination:
    return Destination.objects.create(domain=domain, **{"used_at": timezone.now(), **values})


def worker(name: str = "host:1:abc", now: dt.datetime | None = None, **values: Any) -> Worker:
    now = now or timezone.now()
    return Worker.objects.create(
        name=name, host="host", pid=1, started_at=now, seen_at=now, leased_until=now + MINUTE, **values
    )


def words(entry: Entry, now: dt.datetime = NOW) -> str:
    return waiting_for(entry, now, around([entry], now))


@pytest.fixture
def entry(accept: Accept) -> Entry:
    accept("a@x.example")
    Entry.objects.update(created_at=NOW, next_attempt_at=NOW)
    return Entry.objects.get()


# --- words ---


def test_an_entry_without_an_obstacle_waits_for_a_worker(entry: Entry) -> None:
    assert words(entry) == "a free worker"
    destination(max_connections=5)
    assert words(entry) == "a free worker"


def test_an_entry_says_which_limits_of_its_destination_it_waits_for(entry: Entry) -> None:
    destination(max_connections=3, per_minute=20, bucket_level=0.0, bucket_at=NOW)
    for name, count in (("w1", 1), ("w2", 2), ("dead", 9)):
        Slots.objects.create(domain="x.example", worker=name, held=3, in_use=count, wanted=9)
    worker("w1", NOW)
    worker("w2", NOW)
    assert words(entry) == "x.example: 3 of 3 connections in use; 20/min reached; next at 14:30:03 UTC"


def test_a_rate_that_is_reached_is_told_beside_connections_that_are_free(entry: Entry) -> None:
    destination(max_connections=5, per_minute=20, bucket_level=0.0, bucket_at=NOW)
    Slots.objects.create(domain="x.example", worker="w1", held=3, in_use=3, wanted=9)
    worker("w1", NOW)
    assert words(entry) == "x.example: 3 of 5 connections in use; 20/min reached; next at 14:30:03 UTC"


def test_what_its_host_is_fetching_says_so(entry: Entry) -> None:
    entry.lease, entry.next_attempt_at = "odmr:17:abc", NOW + MINUTE
    assert words(entry) == "the session in which its host is fetching it (ATRN)"


def test_what_waits_in_a_worker_for_a_simulated_host_is_not_said_to_be_attempted(entry: Entry) -> None:
    entry.lease, entry.next_attempt_at, entry.is_sandbox = "w1", NOW + MINUTE, True
    worker("w1", NOW)
    assert words(entry) == "its turn at worker w1"


def test_an_entry_says_that_its_destination_is_paused_and_why(entry: Entry) -> None:
    destination(paused_until=NOW + 2 * MINUTE, failures=3, learned=1.0, failure="no connection: timed out")
    assert words(entry) == (
        "x.example: paused since it failed 3 times in a row: no connection: timed out; next at 14:32 UTC"
    )


def test_an_entry_says_that_its_destination_was_slowed_down(entry: Entry) -> None:
    destination(max_connections=8, learned=2.0, failure="421 4.7.0 too many")
    Slots.objects.create(domain="x.example", worker="w1", held=2, in_use=2, wanted=9)
    worker("w1", NOW)
    assert words(entry) == "x.example: 2 of 2 connections in use; 2 allowed of 8 since “421 4.7.0 too many”"


def test_a_leased_entry_tells_its_turn_from_its_attempt(entry: Entry) -> None:
    entry.lease, entry.next_attempt_at = "w1", NOW + MINUTE
    assert words(entry) == "the attempt that worker w1 is making now"
    destination(max_connections=1)
    Slots.objects.create(domain="x.example", worker="w1", held=1, in_use=1, wanted=2)
    other = {"destination": "x.example", "message_id": "msg_other", "recipients": 1, "since": NOW.isoformat()}
    row = worker("w1", NOW, running=1, deliveries=[other])
    assert words(entry) == "its turn at worker w1; 1 of 1 connections in use"
    row.running = 2  # more than it tells
    row.save()
    assert words(entry) == (
        "its turn at worker w1, or the end of an attempt that runs there; 1 of 1 connections in use"
    )
    row.deliveries = [{**other, "message_id": entry.message_id}]
    row.save()
    assert words(entry) == "the attempt that worker w1 is making now, since 14:30:00 UTC"


def test_an_entry_that_was_put_off_says_by_what(entry: Entry) -> None:
    entry.waits_for = "the warm-up plan of example.com: all 50 messages of day 1 have begun"
    entry.next_attempt_at = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
    assert words(entry) == f"{entry.waits_for}; next at 2026-11-27 00:00 UTC"


def test_the_words_of_a_page_cost_four_queries_however_many_entries(
    accept: Accept, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        accept(f"a@d{number}.example")
        destination(f"d{number}.example", paused_until=timezone.now() + MINUTE, failures=1)
    Entry.objects.filter(pk__in=Entry.objects.values("pk")[:5]).update(lease="w1")
    entries = list(Entry.objects.all())
    around(entries, timezone.now())
    with django_assert_max_num_queries(5):  # the limit that is set while the system runs is read once a second
        about = around(entries, timezone.now())
    assert sum("paused" in waiting_for(one, timezone.now(), about) for one in entries) == 15


# --- pages ---


def page(browser: Client, name: str, *args: object) -> str:
    answer = browser.get(reverse(f"admin:queue_{name}", args=args))
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_the_list_of_destinations_costs_the_same_for_one_and_for_thirty(browser: Client, accept: Accept) -> None:
    destination("d.example")
    page(browser, "destination_changelist")
    with CaptureQueriesContext(connection) as one:
        page(browser, "destination_changelist")
    for number in range(29):
        accept(f"a@d{number}.example")
        destination(f"d{number}.example", max_connections=3)
    with CaptureQueriesContext(connection) as thirty:
        assert "d28.example" in page(browser, "destination_changelist")
    assert abs(len(thirty) - len(one)) <= 1  # what is read once a second


def test_a_destination_tells_its_state_who_uses_it_and_what_waits(browser: Client, accept: Accept) -> None:
    accept("a@x.example", "b@x.example")
    destination(
        paused_until=timezone.now() + 20 * MINUTE, failures=2, failure="<b>no route</b>", failed_at=timezone.now()
    )
    worker("w1")
    Slots.objects.create(domain="x.example", worker="w1", held=4, in_use=2, wanted=9)
    listed, single = page(browser, "destination_changelist"), page(browser, "destination_change", "x.example")
    assert "Paused until" in listed and "&lt;b&gt;no route&lt;/b&gt;" in listed
    assert "w1: 2 of 4 that it holds" in single and "Paused until" in single and "(&#x27;" not in single
    assert "<b>no route" not in listed + single


def test_staff_set_limits_and_nothing_that_was_learned_is_overwritten(browser: Client) -> None:
    row = destination(learned=2.0)
    address = reverse("admin:queue_destination_change", args=["x.example"])
    answer = browser.post(address, {"max_connections": "3", "per_minute": "20", "note": "asked for by them"})
    assert answer.status_code == 302
    row.refresh_from_db()
    assert (row.max_connections, row.per_minute, row.learned) == (3, 20, 2.0)
    assert TrailEntry.objects.get(kind="destination.changed").subject == "x.example"
    for wrong in ("0", "-1", "1001", "x"):
        answer = browser.post(address, {"max_connections": wrong, "per_minute": "", "note": ""})
        assert answer.status_code == 200 and "max_connections" in answer.context["adminform"].form.errors


def test_a_destination_can_be_given_limits_before_any_mail_goes_there(browser: Client) -> None:
    address = reverse("admin:queue_destination_add")
    assert browser.post(address, {"domain": "Bücher.example", "max_connections": "2"}).status_code == 302
    assert Destination.objects.get().domain == "xn--bcher-kva.example"
    answer = browser.post(address, {"domain": "no domain", "max_connections": "2"})
    assert "This is no domain" in answer.content.decode()


def test_resuming_asks_first_and_forgets_the_pause(browser: Client) -> None:
    row = destination(paused_until=timezone.now() + 20 * MINUTE, failures=5, learned=1.0, failure="no connection")
    address = reverse("admin:queue_destination_changelist")
    asked = {"action": "resume", "_selected_action": ["x.example"]}
    assert "Resume 1 destination now?" in browser.post(address, asked).content.decode()
    row.refresh_from_db()
    assert row.failures == 5
    browser.post(address, {**asked, "confirmed": "yes"})
    row.refresh_from_db()
    assert (row.paused_until, row.failures, row.learned, row.failure) == (None, 0, None, "no connection")
    assert TrailEntry.objects.filter(kind="destination.resumed").count() == 1


def test_who_may_only_look_neither_sets_limits_nor_resumes(client: Client, db: None) -> None:
    reader = User.objects.create_user("reader", "reader@example.com", "x", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_destination"))
    client.force_login(reader)
    row = destination(paused_until=timezone.now() + MINUTE, failures=1)
    client.post(
        reverse("admin:queue_destination_changelist"),
        {"action": "resume", "_selected_action": ["x.example"], "confirmed": "yes"},
    )
    client.post(reverse("admin:queue_destination_change", args=["x.example"]), {"max_connections": "1"})
    row.refresh_from_db()
    assert (row.failures, row.max_connections) == (1, None)


def test_a_warm_up_plan_is_offered_with_default_steps_and_checked(browser: Client) -> None:
    domain = Domain.objects.create(name="example.com", organization=Organization.objects.create(name="E"))
    assert "50, 100, 200" in page(browser, "warmupplan_add")
    address = reverse("admin:queue_warmupplan_add")
    given = {"domain": str(domain.pk), "started_on": "2026-11-26", "is_active": "on"}
    answer = browser.post(address, {**given, "steps": "50, many"})
    assert "Day 2: a number from 1" in answer.content.decode()
    assert browser.post(address, {**given, "steps": "50, 100"}).status_code == 302
    plan = WarmupPlan.objects.get()
    assert plan.steps == [50, 100]
    WarmupPlan.objects.update(granted=7, granted_on=timezone.now().date(), started_on=timezone.now().date())
    assert "7 of 50" in page(browser, "warmupplan_changelist")
    change = reverse("admin:queue_warmupplan_change", args=[plan.pk])
    assert browser.post(change, {**given, "steps": "60"}).status_code == 302
    plan.refresh_from_db()
    assert (plan.steps, plan.granted) == ([60], 7)
