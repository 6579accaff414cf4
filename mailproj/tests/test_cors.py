"""Pages of other origins: off by default, exact origins, `*` without credentials, preflights without any."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from accounts import keys
from accounts.models import User

APP = "https://app.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


def ask(method: str, path: str, origin: str | None = APP, **headers: str) -> Any:
    return Client(headers={"Origin": origin} if origin else {}).generic(method, path, headers=headers)


def cors(answer: Any) -> set[str]:
    return {name for name in answer.headers if name.startswith("Access-Control-")}


@pytest.mark.django_db
def test_by_default_no_origin_is_let_in(settings: Any) -> None:
    assert settings.CORS_ORIGINS == []
    for answer in (ask("GET", "/health"), ask("OPTIONS", "/api/v1/send", **PREFLIGHT)):
        assert not cors(answer) and "Origin" not in answer.get("Vary", "")


@pytest.mark.django_db
def test_a_named_origin_reads_answers_and_refusals(admin_user: User, settings: Any) -> None:
    settings.CORS_ORIGINS = [APP, "http://localhost:3000"]
    _, key = keys.create("k", admin_user, daily_limit=5)
    for answer, status in (
        (ask("GET", "/api/v1/messages", **{"X-API-Key": key}), 200), (ask("GET", "/messages"), 401),
        (ask("GET", "/nothing"), 404), (ask("POST", "/api/v1/send", **{"Content-Length": "999999999"}), 413),
    ):  # fmt: skip
        assert answer.status_code == status
        assert answer["Access-Control-Allow-Origin"] == APP and answer["Access-Control-Allow-Credentials"] == "true"
        assert "X-RateLimit-Remaining" in answer["Access-Control-Expose-Headers"] and "Origin" in answer["Vary"]


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/api/v1/send", "/send/", "/api/v1/users/alice", "/nothing"])
def test_a_preflight_is_answered_without_credentials(settings: Any, path: str) -> None:
    settings.CORS_ORIGINS = [APP]
    answer = ask("OPTIONS", path, **PREFLIGHT)
    assert answer.status_code == 204 and answer["Access-Control-Allow-Origin"] == APP and not answer.content
    assert "X-API-Key" in answer["Access-Control-Allow-Headers"] and "DELETE" in answer["Access-Control-Allow-Methods"]
    assert answer["X-API-Version"] and int(answer["Access-Control-Max-Age"]) > 0


@pytest.mark.django_db
@pytest.mark.parametrize(
    "origin",
    [
        None, "null", "http://app.example.com", "https://app.example.com:8443", "https://app.example.com.evil.test",
        "https://evil.test", "https://APP.example.com", "https://app.example.com/", "*",
    ],
)  # fmt: skip
def test_any_other_origin_is_not_let_in(settings: Any, origin: str | None) -> None:
    settings.CORS_ORIGINS = [APP]
    assert not cors(ask("GET", "/messages", origin))
    refused = ask("OPTIONS", "/api/v1/send", origin, **PREFLIGHT)
    assert refused.status_code == 401 and not cors(refused) and "Origin" in refused["Vary"]


@pytest.mark.django_db
def test_a_star_lets_every_origin_in_without_credentials(settings: Any) -> None:
    settings.CORS_ORIGINS = ["*"]
    for answer in (ask("GET", "/messages", "https://evil.test"), ask("OPTIONS", "/send", "null", **PREFLIGHT)):
        assert answer["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/admin/login/", "/metrics", "/metrics/"])
def test_the_admin_and_the_metrics_are_for_no_other_origin(settings: Any, path: str) -> None:
    settings.CORS_ORIGINS = ["*"]
    assert not cors(ask("GET", path)) and not cors(ask("OPTIONS", path, **PREFLIGHT))


@pytest.mark.django_db
def test_an_options_request_that_is_no_preflight_goes_to_the_view(settings: Any) -> None:
    settings.CORS_ORIGINS = [APP]
    assert ask("OPTIONS", "/api/v1/send").status_code == 401
