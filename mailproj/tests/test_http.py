"""Paths, headers, errors and limits that every request meets."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import LazySettings
from django.test import Client
from pytest_django.live_server_helper import LiveServer

from accounts import keys
from accounts.models import User
from mailproj.api.urls import RESOURCES, everywhere

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_every_path_is_there_with_a_slash_and_without() -> None:
    routes = {str(pattern.pattern) for pattern in everywhere()}
    bare = {route for route in routes if not route.endswith("/")}
    assert routes == bare | {f"{route}/" for route in bare}
    assert {f"api/v1/{resource.route}" for resource in RESOURCES} < bare
    assert {"send", "api/send", "health", "api/stats", "api/queue/<str:message_id>/retry", "messages", "emails"} < bare


@pytest.mark.django_db
def test_an_unknown_path_is_a_problem_for_programs_and_a_page_for_browsers() -> None:
    for path, headers in (("/api/v1/nothing", BROWSER), ("/nothing", {}), ("/api/nothing", {})):
        answer = Client(headers=headers).get(path)
        assert answer.status_code == 404 and answer["Content-Type"] == "application/problem+json"
        assert answer.json().keys() >= {"type", "title", "status", "error", "detail", "code"}
    assert Client(headers=BROWSER).get("/nothing")["Content-Type"].startswith("text/html")


@pytest.mark.django_db
def test_a_view_that_breaks_outside_the_api_is_answered_without_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr("mailproj.health.run_checks", fail)
    client = Client(raise_request_exception=False)
    answer = client.get("/")
    assert answer.status_code == 500 and answer.json()["code"] == "INTERNAL_ERROR" and b"hunter2" not in answer.content
    assert answer.json()["request_id"] == answer["X-Request-ID"]


@pytest.mark.django_db
def test_the_version_header_is_on_every_answer_of_the_api() -> None:
    for path in ("/health", "/api/v1/nothing", "/api/v1/messages", "/metrics", "/"):
        assert Client().get(path)["X-API-Version"] == "1.0"
    assert "X-API-Version" not in Client().get("/admin/login/")


@pytest.mark.django_db
def test_a_request_id_that_could_hurt_a_log_is_replaced() -> None:
    for offered in ("x", "a b c d e f g h", "x" * 100, "<script>alert(1)</script>"):
        assert Client(headers={"X-Request-ID": offered}).get("/health")["X-Request-ID"].startswith("req_")


@pytest.mark.django_db
def test_a_session_needs_a_csrf_token_to_change_anything(admin_user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    answer = client.post("/api/v1/send", json.dumps({}), content_type="application/json")
    assert answer.status_code == 403 and "CSRF" in answer.json()["detail"]


@pytest.mark.django_db
def test_a_body_of_another_type_is_refused(admin_user: User) -> None:
    _, text = keys.create("k", admin_user, daily_limit=5)
    answer = Client(headers={"X-API-Key": text}).post("/api/v1/send", {"to": "a@example.com"})
    assert answer.status_code == 415 and answer.json()["code"] == "UNSUPPORTED_MEDIA_TYPE"


@pytest.mark.django_db
def test_the_schema_is_openapi_3_1_and_names_each_view_once() -> None:
    schema = Client().get("/api/v1/schema/", headers={"Accept": "application/json"}).json()
    assert schema["openapi"].startswith("3.1")
    assert set(schema["paths"]) == {
        "/api/v1/" + re.sub(r"<str:(\w+)>", r"{\1}", resource.route) for resource in RESOURCES
    }
    assert set(schema["components"]["securitySchemes"]) == {"apiKey", "basic", "session"}
    assert schema["paths"]["/api/v1/send"]["post"]["requestBody"]


@pytest.mark.django_db
def test_the_docs_need_nothing_from_elsewhere() -> None:
    page = Client().get("/api/v1/docs/").content.decode()
    assert "/static/drf_spectacular_sidecar/" in page and "cdn." not in page


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("length", ["5000", "99999999999"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    live_server: LiveServer, settings: LazySettings, length: str
) -> None:
    settings.MAX_REQUEST_SIZE = 4096
    connection = http.client.HTTPConnection(urlsplit(live_server.url).netloc, timeout=20)
    connection.putrequest("POST", "/api/v1/send")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", length)
    connection.endheaders()  # and not one octet of the body
    answer = connection.getresponse()
    body: dict[str, Any] = json.loads(answer.read())
    connection.close()
    assert answer.status == 413 and body["code"] == "REQUEST_TOO_LARGE" and "4096" in body["detail"]


@pytest.mark.django_db
def test_a_body_at_the_limit_is_taken(settings: LazySettings) -> None:
    settings.MAX_REQUEST_SIZE = 10
    post: Callable[..., Any] = Client().post
    assert post("/api/v1/send", "x" * 10, content_type="application/json").status_code == 401
    assert post("/api/v1/send", "x" * 11, content_type="application/json").status_code == 413
