"""The OpenAPI schema: what is said of every operation, and that it is true."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.test import Client

from accounts.api import problems
from accounts.models import User
from mailproj.api.schema_hooks import PAGING, operations
from mailproj.api.urls import RESOURCES
from mailproj.tests.described import Json, described, short

ALWAYS = {"X-Request-ID", "X-API-Version"}
LIMITS = {"RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
PAGED = {
    "aliases", "api-keys", "audit", "domains", "emails", "folders", "messages", "messages/domain/{domain_id}",
    "messages/recent", "messages/search", "messages/thread/{thread_id}", "organizations", "queue", "queue/actions",
    "queue/workers", "suppressions", "templates", "users", "webhook-endpoints",
    "webhook-endpoints/{endpoint_id}/deliveries",
}  # fmt: skip
OPEN = {"health", "webhooks/stripe"}


@pytest.fixture(scope="module")
def schema() -> Json:
    return described()


def test_every_operation_names_its_errors_as_problems(schema: Json) -> None:
    for path, operation in operations(schema):
        responses = operation["responses"]
        always = {"400", "406", "429", "503"} | (set() if short(path) in OPEN else {"401", "403"})
        assert responses.keys() >= always | ({"404"} if "{" in path else set()), path
        assert responses.keys() >= ({"413", "415"} if "requestBody" in operation else set()), path
        for status, response in responses.items():
            if status >= "4":
                assert response["description"], (path, status)
                problem = response["content"][problems.CONTENT_TYPE]["schema"]
                assert problem == {"$ref": "#/components/schemas/Problem"}, (path, status)


def test_a_problem_has_the_members_that_the_schema_names(schema: Json) -> None:
    described = schema["components"]["schemas"]["Problem"]
    made = problems.body(400, "No.", errors=[{"field": "a", "message": "No."}])
    assert set(described["required"]) | {"errors"} == set(made)
    assert made.keys() | {"request_id"} == described["properties"].keys()


def test_nothing_that_clients_read_names_what_is_no_part_of_the_repository(schema: Json) -> None:
    views: set[Any] = {getattr(one.view, "cls", None) for one in RESOURCES} - {None}
    texts = {cls.__name__: cls().get_view_description() for cls in views}
    assert len(texts) > 50
    for where, text in {"schema": json.dumps(schema, default=str), **texts}.items():
        assert not (found := re.search(r".{0,60}(?:\bR[1-5]\b|contract §).{0,60}", text)), (where, found)


def test_every_answer_names_its_headers(schema: Json) -> None:
    for path, operation in operations(schema):
        for status, response in operation["responses"].items():
            more = {"401": {"WWW-Authenticate"}, "429": {"Retry-After"}, "503": {"Retry-After"}}
            assert response["headers"].keys() >= ALWAYS | LIMITS | more.get(status, set()), (path, status)
    names = {header for _, operation in operations(schema) for one in operation["responses"].values()
             for header in one["headers"]}  # fmt: skip
    assert schema["components"]["headers"].keys() <= names


def test_every_list_in_pages_names_how_they_are_asked_for(schema: Json) -> None:
    refs = [{"$ref": f"#/components/parameters/{name}"} for name in PAGING]
    paged = {short(path) for path, operation in operations(schema) if refs[0] in operation.get("parameters", [])}
    assert paged == PAGED
    for path, operation in operations(schema):
        if short(path) in paged and refs[0] in operation.get("parameters", []):
            assert operation["parameters"][-len(refs) :] == refs, path
            assert not PAGING.keys() & {one.get("name") for one in operation["parameters"]}, path


@pytest.mark.django_db
@pytest.mark.parametrize("path", sorted(path for path in PAGED if "{" not in path))
def test_a_list_takes_what_the_schema_says_of_its_pages(path: str, admin_user: User) -> None:
    client = Client()
    client.force_login(admin_user)
    needed = {"q": "a"} if path == "messages/search" else {}
    for name, parameter in PAGING.items():
        bounds = parameter["schema"]
        for value in (bounds["minimum"], bounds["maximum"]):
            answer = client.get(f"/api/v1/{path}", {**needed, name: value})
            assert answer.status_code == 200, (name, value, answer.content)
            assert answer.json().keys() == {"items", "total", "page", "page_size", "total_pages"}
        for value in (bounds["minimum"] - 1, bounds["maximum"] + 1):
            assert client.get(f"/api/v1/{path}", {**needed, name: value}).status_code == 400, (name, value)
