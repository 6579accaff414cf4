"""`templates`: each organization has its own, and what cannot be filled in is refused when it is made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from accounts import keys
from accounts.models import Domain, Organization, User
from mailflow.models import MailTemplate

pytestmark = pytest.mark.django_db

WELCOME = {
    "name": "welcome",
    "subject": "Hi {{ name }}",
    "text_body": "Dear {{ name }}",
    "html_body": "<p>{{ name }}</p>",
}


@pytest.fixture
def key(alice: User) -> str:
    return keys.create("test", alice, daily_limit=5)[1]


@pytest.fixture
def stranger(db: None) -> str:
    organization = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.test", organization=organization, is_trusted=True)
    user = User.objects.create_user("eve", "eve@other.test", "x", organization=organization)
    return keys.create("eve", user, daily_limit=5)[1]


def call(method: str, path: str, key: str, body: Any = None) -> Any:
    text = json.dumps(body) if body is not None else ""
    headers = {"X-API-Key": key} if key else {}
    return Client().generic(method, f"/api/v1/templates{path}", text, content_type="application/json", headers=headers)


def test_a_template_is_made_read_changed_filled_in_and_removed(key: str) -> None:
    made = call("POST", "", key, WELCOME)
    assert made.status_code == 201, made.content
    number = made.json()["id"]
    assert call("GET", f"/{number}", key).json() == made.json()
    assert call("GET", "/", key).json()["items"] == [made.json()]
    changed = call("PATCH", f"/{number}", key, {"subject": "Hello {{ name }}"})
    assert changed.status_code == 200 and changed.json()["text_body"] == WELCOME["text_body"]
    rendered = call("POST", f"/{number}/render", key, {"template_data": {"name": "<Tom>"}})
    assert rendered.json() == {"subject": "Hello <Tom>", "text_body": "Dear <Tom>", "html_body": "<p>&lt;Tom&gt;</p>"}
    assert call("DELETE", f"/{number}", key).status_code == 204
    assert call("GET", f"/{number}", key).status_code == 404


def test_another_organization_sees_nothing_of_it(key: str, stranger: str) -> None:
    number = call("POST", "", key, WELCOME).json()["id"]
    assert call("GET", "", stranger).json()["total"] == 0
    for method, path, body in (
        ("GET", "", None), ("PATCH", "", {"subject": "x"}), ("DELETE", "", None), ("POST", "/render", {}),
    ):  # fmt: skip
        assert call(method, f"/{number}{path}", stranger, body).status_code == 404
    assert call("POST", "", stranger, WELCOME).status_code == 201, "a name is one organization's own"
    assert MailTemplate.objects.get(pk=number).subject == WELCOME["subject"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({**WELCOME, "name": "1x"}, 400, "name"), ({**WELCOME, "name": None}, 400, "name"),
        ({"name": "x", "subject": "only"}, 400, "text_body"), ({**WELCOME, "name": ""}, 400, "name"),
        ({**WELCOME, "html_body": "{% include 'x' %}"}, 400, "html_body"),
        ({**WELCOME, "text_body": "{{ a.b|nothing }}"}, 400, "text_body"), ({**WELCOME, "organization_id": 10**9}, 400,
        "organization_id"), ({**WELCOME, "subject": "x" * 2001}, 400, "subject"), ([], 400, ""),
        ({**WELCOME, "name": 5}, 400, "name"), ({**WELCOME, "text_body": 5}, 400, "text_body"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_template_is_refused_naming_the_field(key: str, body: Any, status: int, field: str) -> None:
    answer = call("POST", "", key, body)
    assert answer.status_code == status, answer.content
    assert {error["field"] for error in answer.json()["errors"]} == {field}


def test_a_name_that_is_taken_is_a_conflict(key: str) -> None:
    call("POST", "", key, WELCOME)
    assert call("POST", "", key, WELCOME).status_code == 409


def test_data_that_it_cannot_be_filled_in_with_is_refused(key: str) -> None:
    number = call(
        "POST", "", key, {**WELCOME, "text_body": "{% for a in x %}{% for b in x %}.{% endfor %}{% endfor %}"}
    ).json()["id"]
    answer = call("POST", f"/{number}/render", key, {"template_data": {"x": list(range(1000))}})
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"] == "template_data"


def test_without_credentials_and_without_an_organization_there_is_nothing(key: str) -> None:
    assert call("GET", "", "").status_code == 401
    loner = keys.create("loner", User.objects.create_user("loner", "l@example.net", "x"), daily_limit=5)[1]
    assert call("GET", "", loner).json()["total"] == 0
    assert call("POST", "", loner, WELCOME).status_code == 400


def test_a_list_costs_the_same_however_long_it_is(key: str, alice: User, django_assert_max_num_queries: Any) -> None:
    MailTemplate.objects.bulk_create(
        [MailTemplate(organization=alice.organization, name=f"t{number}", text_body="x") for number in range(50)]
    )
    with django_assert_max_num_queries(6):
        assert call("GET", "?page_size=50", key).json()["total"] == 50
