"""docker-compose.yml and Dockerfile: they parse, and start the very commands that the tests start."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from mailproj.processes import PROCESSES, command
from mailproj.tests.starting import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = sorted(name for name, service in SERVICES.items() if str(service["image"]).startswith("mailproj:"))


def test_every_process_of_the_system_is_a_service() -> None:
    assert set(OWN) == set(PROCESSES)


@pytest.mark.parametrize("name", OWN)
def test_a_service_runs_the_command_that_is_tested(name: str) -> None:
    assert SERVICES[name]["command"] == command(name)


def test_the_image_runs_the_web_command_by_itself() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    shown = ", ".join(f'"{word}"' for word in command("web"))
    assert f"CMD [{shown}]" in dockerfile


def test_the_image_runs_as_user_1000_and_has_a_health_check() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER 1000:1000$", dockerfile, flags=re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*\"probe\", \"web\"", dockerfile, flags=re.MULTILINE)


@pytest.mark.parametrize("name", OWN)
def test_a_service_can_be_scaled(name: str) -> None:
    assert "container_name" not in SERVICES[name]
    for port in SERVICES[name].get("ports", []):
        assert re.search(r":\$\{\w+:-\d+-\d+\}:\d+$", port), f"{port} names one port of the host, not a range"


@pytest.mark.parametrize("name", OWN)
def test_a_service_gets_the_production_profile_and_a_database_for_its_mail(name: str) -> None:
    variables = SERVICES[name]["environment"]
    assert (variables["MAIL_PROFILE"], variables["SMTP_STORAGE_TYPE"]) == ("production", "database")
    assert variables["DATABASE_URL"].startswith("postgresql://")


def test_no_service_starts_before_the_migrations_are_done() -> None:
    for name in set(OWN) - {"migrate"}:
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{(?:SECRET_KEY|POSTGRES_PASSWORD)(?!:\?)", text) == []
