"""Restarts and changes as running processes meet them: the supervisor, a real Redis, the whole system."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mailflow import bell, runtime
from mailflow.runtime import RuntimeConfig, Watcher
from mailproj import supervisor
from mailproj.embedded_redis import find_server, plan
from mailproj.probes import redis_answers
from mailproj.supervisor import CLEAN_AFTER, FIRST_DELAY, STEADY_AFTER, Service
from mailproj.tests import whole_system
from mailproj.tests.test_supervisor import Start, start  # noqa: F401  (a fixture)
from mailproj.tests.whole_system import System, database_settings, is_alive, wait_until

# --- the supervisor ---


def child(lived: float, delay: float = FIRST_DELAY) -> supervisor._Child:
    found = supervisor._Child(Service("door", []))
    found.started_at, found.delay = 100.0 - lived, delay
    return found


def test_a_clean_end_costs_no_delay_however_often_it_comes() -> None:
    door = child(lived=CLEAN_AFTER)
    for _ in range(5):
        door.ended(0, 100.0)
        assert (door.next_try_at, door.delay) == (100.0, FIRST_DELAY)
        assert door.process is None and not door.is_noted


@pytest.mark.parametrize(("status", "lived"), [(1, 20.0), (-9, 20.0), (-15, 20.0), (0, 0.1), (1, 0.1)])
def test_a_crash_and_a_process_that_ends_as_soon_as_it_starts_are_put_off(status: int, lived: float) -> None:
    door = child(lived)
    door.ended(status, 100.0)
    assert (door.next_try_at, door.delay) == (100.0 + FIRST_DELAY, 2 * FIRST_DELAY)


def test_a_clean_end_after_crashes_takes_back_nothing_but_its_own_delay() -> None:
    door = child(lived=2.0, delay=1.6)
    door.ended(0, 100.0)
    assert (door.next_try_at, door.delay) == (100.0, 1.6)
    steady = child(lived=STEADY_AFTER, delay=1.6)
    steady.ended(0, 100.0)
    assert steady.delay == FIRST_DELAY


def test_a_process_that_ends_cleanly_is_started_again_and_called_no_crash(
    start: Start,  # noqa: F811
    tmp_path: Path,
) -> None:
    running = start([("door", "")])
    running.hear("door is up")
    running.hear("announced")
    first = int((tmp_path / "door.pid").read_text())
    subprocess.run(["kill", "-TERM", str(first)], check=True)
    line = running.hear_next("door (")
    assert line == f"door (process {first}) has ended as it was asked to; it is started again."
    running.hear_next("door is up")


# --- a real Redis ---


@pytest.fixture
def real_redis(tmp_path: Path, settings: Any) -> Iterator[str]:
    binary = find_server()
    assert binary is not None
    planned = plan(binary, tmp_path / "redis")
    process = subprocess.Popen(planned.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert process.stdin is not None
        process.stdin.write(planned.configuration)
        process.stdin.close()
        wait_until(lambda: redis_answers(planned.url))
        settings.REDIS_URL = planned.url
        yield planned.url
    finally:
        process.kill()
        process.wait()


def listening(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        found: int = client.pubsub_numsub(bell.CHANNEL)[0][1]
        return found


@pytest.mark.django_db(transaction=True)
def test_the_bell_wakes_every_watcher_before_its_time(real_redis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "POLL_SECONDS", 3600)
    found: list[RuntimeConfig] = []
    restarts: list[str] = []
    watchers = [Watcher(), Watcher()]
    try:
        for watcher in watchers:
            watcher.start(found.append, lambda: restarts.append("restart"))
        wait_until(lambda: listening(real_redis) == 2)
        runtime.change(runtime.checked(["smtp"], {"max_connections": 7}), actor="test")
        wait_until(lambda: len(found) == 2)
        assert {config.smtp.max_connections for config in found} == {7}
        runtime.request_restart("smtp", actor="test")
        wait_until(lambda: len(restarts) == 2)
    finally:
        for watcher in watchers:
            watcher.stop(10)


@pytest.mark.django_db(transaction=True)
def test_a_watcher_hears_the_bell_again_after_redis_was_gone(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is dead at first; from the moment that it serves, rings are heard."""
    monkeypatch.setattr(runtime, "POLL_SECONDS", 3600)
    monkeypatch.setattr(bell, "PAUSE_SECONDS", 0.05)
    binary = find_server()
    assert binary is not None
    planned = plan(binary, tmp_path / "redis")
    settings.REDIS_URL = planned.url
    found: list[RuntimeConfig] = []
    watcher = Watcher()
    watcher.start(found.append, lambda: None)
    process = subprocess.Popen(planned.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert process.stdin is not None
        process.stdin.write(planned.configuration)
        process.stdin.close()
        wait_until(lambda: redis_answers(planned.url) and listening(planned.url) == 1)
        runtime.change(runtime.checked(["smtp"], {"max_connections": 7}), actor="test")
        wait_until(lambda: found)
    finally:
        watcher.stop(10)
        process.kill()
        process.wait()


# --- the whole system ---


@pytest.mark.slow
def test_a_worker_restarts_by_the_api_and_mail_and_changes_outlive_the_system(tmp_path: Path) -> None:
    """How long it may take to end is in test_supervisor.py: what a busy machine adds to that is in nobody's hands."""
    system = whole_system.plan(tmp_path / "data", **database_settings())
    system.start()
    try:
        assert system.as_admin("PUT", "/api/config", {"max_workers": 8, "timeout": 60}).status == 200
        first = system.pid("worker")
        answer = system.as_admin("POST", "/api/restart?service=worker")
        assert (answer.status, answer.json["status"]) == (200, "restarted")
        wait_until(lambda: system.pid("worker") != first and is_alive(system.pid("worker")))
        said = f"worker (process {first}) has ended as it was asked to; it is started again."
        wait_until(lambda: any(said in line for line in system.lines))
        message_id = delivered(system, "after the restart")
        assert system.as_admin("PUT", "/api/config?service=smtp", {"enabled": False}).status == 200
        wait_until(lambda: send(system, "too late").status == 503)
        pids = [system.pid(name) for name in ("web", "smtp", "worker", "beat", "redis")]
        system.process.send_signal(signal.SIGINT)
        assert system.wait(60) == 0
        assert not any(is_alive(pid) for pid in pids)
    finally:
        system.stop(signal.SIGTERM)
    system.start()
    try:
        assert status_of(system, message_id) == "delivered"
        config = system.as_admin("GET", "/api/config").json
        assert (config["max_workers"], config["timeout"], config["enabled"]) == (8, 60, False)
        assert send(system, "still too late").status == 503
        assert system.as_admin("PUT", "/api/config?service=smtp", {"enabled": True}).status == 200
        wait_until(lambda: send(system, "taken again").status == 202)
    finally:
        system.stop(signal.SIGTERM)


def send(system: System, subject: str) -> whole_system.Answer:
    mail = {"to": "outside@foreign.example", "subject": subject, "text_body": "Hello."}
    return system.request("POST", "/api/v1/send", mail, key=whole_system.KEY)


def delivered(system: System, subject: str) -> str:
    message_id = str(send(system, subject).json["email_id"])
    wait_until(lambda: status_of(system, message_id) == "delivered")
    timeline = str(system.as_admin("GET", f"/api/v1/messages/{message_id}/timeline").json)
    assert "captured by the sandbox" in timeline
    return message_id


def status_of(system: System, message_id: str) -> str:
    return str(system.as_admin("GET", f"/api/v1/messages/{message_id}").json["status"])
