"""`health` and the front page: live checks, and the union of what the references print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import OperationalError, connection
from django.test import Client

from mailflow import counters, events
from mailflow.events import NewEvent
from mailproj import health, machine
from mailproj.health import Check

R1 = {"status", "controller_running", "uptime_seconds", "emails_in_queue"}
R2 = {"status", "uptime_seconds", "active_connections"}
R4 = {"status", "version", "uptime_seconds", "connections", "memory"}

pytestmark = pytest.mark.django_db


@pytest.fixture
def redis_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is tested where one runs; here the other checks are looked at."""
    monkeypatch.setattr(health, "check_redis", lambda: Check("redis", True, "answers"))


@pytest.mark.parametrize("path", ["/health", "/health/", "/api/health", "/api/v1/health", "/api/v1/health/"])
def test_every_printed_field_is_there_without_credentials(redis_answers: None, path: str) -> None:
    answer = Client().get(path)
    body = answer.json()
    assert answer.status_code == 200 and body["status"] == "healthy" and body["failing"] == []
    assert body.keys() >= R1 | R2 | R4 | {"features"}
    assert body["features"]["billing"] is False and body["features"]["smtp_authentication"] is True
    assert (
        body["connections"].keys() == {"active", "total"}
        and body["memory"]["allocated_mb"] > body["memory"]["heap_mb"] > 1
    )


def test_a_redis_that_is_away_is_named() -> None:
    answer = Client().get("/health")  # nothing listens at the REDIS_URL of the tests
    assert answer.status_code == 503 and answer.json()["failing"] == ["redis"]
    assert answer.json()["status"] == "unhealthy" and answer.json()["checks"]["database"]["status"] == "ok"


def test_a_database_that_is_away_is_named_and_its_figures_are_null(
    redis_answers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("password=secret")

    monkeypatch.setattr(connection, "cursor", fail)
    answer = Client().get("/health")
    body = answer.json()
    assert answer.status_code == 503 and body["failing"] == ["database"]
    assert body["emails_in_queue"] is None and body["connections"] is None and b"secret" not in answer.content


def test_a_full_disk_and_a_full_memory_are_named(redis_answers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "disk_free_share", lambda path: 0.09)
    monkeypatch.setattr(machine, "memory_used_share", lambda: 0.91)
    answer = Client().get("/health")
    assert answer.status_code == 503 and answer.json()["failing"] == ["disk", "memory"]


def test_too_many_refused_connections_are_named(redis_answers: None, settings: LazySettings) -> None:
    settings.HEALTH_MAX_REFUSED_CONNECTIONS = 2
    refusal = NewEvent("refused", "Refused at connect: too many.", stage="connection")
    events.record([refusal, refusal, NewEvent("refused", "no", stage="recipient")])
    assert Client().get("/health").json()["checks"]["connections"]["words"] == "2 refused within a minute"
    events.record([refusal])
    answer = Client().get("/health")
    assert answer.status_code == 503 and answer.json()["failing"] == ["connections"]
    assert answer.json()["checks"]["connections"]["words"] == "more than 2 refused within a minute"
    settings.HEALTH_MAX_REFUSED_CONNECTIONS = 0
    assert Client().get("/health").status_code == 200


def test_a_listener_that_lives_shows(redis_answers: None) -> None:
    before: dict[str, Any] = Client().get("/health").json()
    counters.gauge("smtp.connections.active", 4)
    counters.flush()
    body = Client().get("/health").json()
    counters.gauge("smtp.connections.active", 0)
    assert before["controller_running"] is False and body["controller_running"] is True
    assert body["active_connections"] == 4 == body["connections"]["active"]


def test_health_answers_while_credentials_are_wrong(redis_answers: None) -> None:
    assert Client(headers={"X-API-Key": "wrong", "Authorization": "Basic ???"}).get("/health").status_code == 200


def test_the_front_page_is_json_for_programs_and_html_for_browsers(redis_answers: None) -> None:
    for accept in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        answer = Client().get("/", headers=accept)
        assert answer.json()["status"] == "healthy" and answer.json()["version"]
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    page = Client().get("/", headers={"Accept": browser})
    assert page["Content-Type"].startswith("text/html") and b"/admin/" in page.content
    assert b"http://" not in page.content and b"https://" not in page.content


def test_the_machine_tells_real_figures(tmp_path: Path) -> None:
    allocated, heap = machine.process_memory()
    assert allocated > heap > 0
    assert 0 < machine.memory_used_share() < 1
    stat = os.statvfs(tmp_path)
    assert machine.disk_free_share(tmp_path / "not" / "yet") == pytest.approx(stat.f_bavail / stat.f_blocks, abs=0.05)


def test_the_limits_are_the_contracts(settings: LazySettings) -> None:
    assert (health.MIN_DISK_FREE, health.MAX_MEMORY_USED) == (0.10, 0.90)
