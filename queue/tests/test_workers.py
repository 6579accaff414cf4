"""What each worker does is visible: in the admin, by API and from a shell."""

from __future__ import annotations

import datetime as dt
import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from mailflow.models import Message
from queue import delivery, workers
from queue.engine import Engine
from queue.models import Entry, Worker
from queue.simulation.internet import SESSIONS
from queue.tests.conftest import drain, open_entries, running_engine, wait_until
from queue.tests.mail import client_of
from queue.waiting import around, waiting_for

PAGE = "admin:queue_worker_changelist"
MESSAGE = "msg_" + "0" * 26


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.net")


@pytest.fixture
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what tells seconds: on a busy machine some pass before it does."""
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)


@pytest.fixture
def add(db: None) -> Callable[..., Worker]:
    """Add a worker that was heard a few seconds ago, and delivers what it is given."""

    def add_worker(name: str, *destinations: str, silent: float = 2, **values: Any) -> Worker:
        now = timezone.now()
        deliveries = [
            {
                "destination": destination,
                "message_id": MESSAGE,
                "recipients": number + 1,
                "since": (now - dt.timedelta(seconds=10 * number)).isoformat(),
            }
            for number, destination in enumerate(destinations)
        ]
        values = {"running": len(destinations), "in_flight": 7, "waiting": 3, "rung": 1, **values}
        return Worker.objects.create(
            name=name, host="mail1", pid=17, started_at=now - dt.timedelta(hours=1), deliveries=deliveries,
            seen_at=now - dt.timedelta(seconds=silent), leased_until=now, **values,
        )  # fmt: skip

    return add_worker


def test_the_silent_come_first_and_the_longest_delivery_too(add: Callable[..., Worker]) -> None:
    add("alive", "a.example", "b.example", running=60)
    add("dead", silent=90)
    dead, alive = workers.read(timezone.now())
    assert (dead.name, dead.is_silent, alive.name, alive.is_silent) == ("dead", True, "alive", False)
    assert [one.destination for one in alive.doing] == ["b.example", "a.example"]
    assert (alive.hidden, dead.hidden) == (58, 0)


@pytest.mark.usefixtures("_time_stands_still")
def test_the_page_says_what_each_does_and_since_when(root: User, add: Callable[..., Worker]) -> None:
    add("one:<b>", "slow.example", "b.example")
    add("two", silent=90)
    page = client_of(root).get(reverse(PAGE)).content.decode()
    for words in (
        "one:&lt;b&gt;",
        "slow.example",
        MESSAGE,
        "10 s",
        "silent for 1",
        "No delivery to another host runs.",
    ):
        assert words in page
    assert "<b>" not in page


def test_without_a_worker_the_page_says_what_that_means(root: User) -> None:
    assert "No worker runs" in client_of(root).get(reverse(PAGE)).content.decode()


def test_the_page_costs_as_much_for_twenty_workers_as_for_one(root: User, add: Callable[..., Worker]) -> None:
    client, counts = client_of(root), []
    for number in (1, 19):
        for ordinal in range(number):
            add(f"{number}-{ordinal}", "a.example")
        client.get(reverse(PAGE))
        with CaptureQueriesContext(connection) as captured:
            client.get(reverse(PAGE))
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_the_api_tells_the_same_to_staff_alone(root: User, alice: User, add: Callable[..., Worker]) -> None:
    add("one", "a.example")
    body = client_of(root).get("/api/v1/queue/workers").json()
    (item,) = body["items"]
    assert (body["total"], item["name"], item["running"], item["is_silent"]) == (1, "one", 1, False)
    assert item["doing"][0]["destination"] == "a.example"
    assert client_of(alice).get("/api/v1/queue/workers").status_code == 403
    assert Client().get("/api/v1/queue/workers").status_code == 401
    assert client_of(alice).get(reverse(PAGE)).status_code == 302


@pytest.mark.usefixtures("_time_stands_still")
def test_the_command_tells_the_same(add: Callable[..., Worker]) -> None:
    add("one", "a.example", "b.example")
    add("two", silent=90)
    assert "No worker runs" not in _run()
    lines = _run().splitlines()
    assert lines[1].startswith("two") and "silent for 1 min 30 s" in lines[1]
    assert lines[2].startswith("one") and "alive" in lines[2]
    assert lines[3].split()[:2] == ["b.example", MESSAGE] and lines[3].endswith("10 s")
    assert [item["name"] for item in json.loads(_run("--json"))] == ["two", "one"]


def test_the_command_says_that_no_worker_runs(db: None) -> None:
    assert _run() == "No worker runs: what is accepted waits until one does.\n"


def _run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("queue", "workers", *arguments, stdout=out)
    return out.getvalue()


# --- what is delivered beside the lanes ---


@pytest.mark.django_db(transaction=True)
def test_a_worker_tells_what_it_delivers_to_simulated_hosts(
    alice: User, accept: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.pacing.beats.BEAT_SECONDS", 0.1)
    monkeypatch.setattr("queue.simulation.host.STEP_SECONDS", 60.0)
    for number in range(SESSIONS + 2):
        accept(f"slow+{number}@sim.test", sender="alice@example.com")
    engine = Engine()
    engine.start()
    try:
        row = wait_until(lambda: Worker.objects.filter(running=SESSIONS, waiting=2).first())
        assert {told["destination"] for told in row.deliveries} == {"sim.test"}
        now = timezone.now()
        entries = list(Entry.objects.all())
        said = Counter(waiting_for(entry, now, around([entry], now)).partition(row.name)[0] for entry in entries)
        assert said == {"the attempt that worker ": SESSIONS, "its turn at worker ": 2}
    finally:
        drain(engine, 0.1)


@pytest.mark.django_db(transaction=True)
def test_a_worker_tells_what_it_files_by_message_and_domain(
    alice: User, accept: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.pacing.beats.BEAT_SECONDS", 0.1)
    gate, deliver = threading.Event(), delivery.deliver_ours

    def slowly(group: Any) -> Any:
        gate.wait(20)
        return deliver(group)

    monkeypatch.setattr(delivery, "deliver_ours", slowly)
    for sender in ("a@x.example", "b@x.example"):
        accept("alice@example.com", sender=sender)
    with running_engine():
        try:
            row = wait_until(lambda: Worker.objects.filter(running=2).first())
        finally:
            gate.set()
        assert [told["destination"] for told in row.deliveries] == ["example.com", "example.com"]
        assert {told["message_id"] for told in row.deliveries} == set(Message.objects.values_list("pk", flat=True))
        wait_until(lambda: open_entries() == 0)
        wait_until(lambda: Worker.objects.filter(running=0).exists())
