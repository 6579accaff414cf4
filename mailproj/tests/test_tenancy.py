"""Another tenant's object does not exist: every object route of the API, and every list, search, count and export.

The routes are those of `mailproj.api.urls`: a new one is walked too, and fails here until its parameter has an object
in `mailproj.tests.tenants`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.test import Client

from accounts import credentials
from accounts.models import Domain, TrailEntry
from accounts.tests.zone import Zone, serving
from mailflow.models import Counter, Gauge, Mailbox
from mailproj.api.urls import CANONICAL, RESOURCES, Resource
from mailproj.tests import tenants
from mailproj.tests.described import described
from mailproj.tests.tenants import Tenant

pytestmark = pytest.mark.django_db

# Actions on the queue are staff's alone: without the role it is a 403 (contract §1.3), whether there is one or not.
FOR_STAFF = {"queue/actions/<str:action_id>", "queue/actions/<str:action_id>/stop"}
PUBLIC = {"domains/<str:name>/exists"}  # what every sending host learns at RCPT
OF_THE_SYSTEM = {"stats", "health"}  # figures of the whole system (contract §1.2): numbers, of nobody by name
QUERIES = ["", "q=acme", "recipient=friend@acme-customer.example&address=gone@acme-customer.example"]
NOTED_OF_THE_CALLER = {"last_login", "last_used_at"}
MAY_CHANGE = {TrailEntry, Counter, Gauge}


@pytest.fixture(autouse=True)
def _nothing_is_remembered(settings: Any) -> Iterator[None]:
    credentials.remembered.clear()
    with serving(Zone()) as zone:
        settings.DNS_SERVERS = [zone.address]
        yield


def methods(resource: Resource) -> list[str]:
    known = dir(resource.view.cls)  # type: ignore[attr-defined]
    return [method.upper() for method in ("get", "post", "put", "patch", "delete") if method in known]


OBJECTS = [resource for resource in RESOURCES if "<" in resource.route]
READ_OBJECTS = [resource for resource in OBJECTS if "GET" in methods(resource)]
LISTS = [
    resource
    for resource in RESOURCES
    if "<" not in resource.route and resource.route not in OF_THE_SYSTEM and "GET" in methods(resource)
]


def strangers(tenant: Tenant) -> list[Client]:
    """An administrator, a member and a key that may do all its user may."""
    return [tenants.client_of(who) for who in (tenant.boss, tenant.member, tenant.key)]


def example_of(route: str, method: str) -> str:
    """A body that the operation would take."""
    path = "/" + CANONICAL + "".join(
        part if index % 2 == 0 else "{" + part.partition(":")[2] + "}"
        for index, part in enumerate(route.replace(">", "<").split("<"))
    )  # fmt: skip
    content = described()["paths"][path][method.lower()].get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples", {})
    return next((json.dumps(example["value"]) for example in examples.values()), "")


def everything(callers: Tenant) -> dict[str, list[dict[str, Any]]]:
    """Every row of ours, but for what is noted of whoever asks, and the folders that everybody has at first use."""
    own = {callers.boss.pk, callers.member.pk}
    models = [
        model
        for name in ("accounts", "mailflow", "queue")
        for model in apps.get_app_config(name).get_models()
        if model not in MAY_CHANGE
    ]
    return {
        model.__name__: [
            {name: value for name, value in row.items() if name not in NOTED_OF_THE_CALLER}
            for row in model._default_manager.order_by("pk").values()
            if not (model is Mailbox and row["user_id"] in own)
        ]
        for model in models
    }


@pytest.mark.parametrize("resource", OBJECTS, ids=lambda resource: resource.route)
def test_another_tenants_object_is_not_there_and_stays_as_it_is(resource: Resource) -> None:
    acme, blue = tenants.make("acme"), tenants.make("blue")
    before = everything(blue)
    for client, method in itertools.product(strangers(blue), methods(resource)):
        for prefix in (CANONICAL, *resource.also):
            path = f"/{prefix}{acme.path(resource.route)}"
            body = example_of(resource.route, method)
            answer = client.generic(method, path, body, content_type="application/json")
            if resource.route in PUBLIC:
                assert answer.json() == {"exists": True, "domain": "acme.example"}
                continue
            wanted = 403 if resource.route in FOR_STAFF else 404
            assert answer.status_code == wanted, (method, path, answer.content)
            assert answer["Content-Type"] == "application/problem+json"
            assert "acme subject" not in answer.content.decode()
    assert everything(blue) == before


def test_whether_a_domain_that_is_not_in_use_exists_is_told_to_its_tenant_alone() -> None:
    acme, blue = tenants.make("acme"), tenants.make("blue")
    Domain.objects.filter(name="acme.example").update(is_trusted=False)
    path = "/api/v1/domains/acme.example/exists"
    assert [tenants.client_of(tenant.boss).get(path).json()["exists"] for tenant in (acme, blue)] == [True, False]


@pytest.mark.parametrize("resource", READ_OBJECTS, ids=lambda resource: resource.route)
def test_the_same_routes_lead_to_the_object_for_its_own_tenant_or_for_staff(resource: Resource) -> None:
    """Else a 404 of the walk would say nothing; what has no GET is carried out by `test_schema_examples`."""
    acme, root = tenants.make("acme"), tenants.staff()
    path = f"/{CANONICAL}{acme.path(resource.route)}"
    found = [tenants.client_of(user).get(path).status_code for user in (acme.member, acme.boss, root)]
    assert 200 in found, found


@pytest.mark.parametrize("resource", LISTS, ids=lambda resource: resource.route)
def test_nothing_of_another_tenant_is_listed_found_counted_or_exported(resource: Resource) -> None:
    blue = tenants.make("blue")
    callers = [tenants.client_of(who) for who in (blue.key, blue.member)]
    before = [_read(client, resource, query) for client in callers for query in QUERIES]
    acme = tenants.make("acme")
    after = [_read(client, resource, query) for client in callers for query in QUERIES]
    assert after == before
    marks = ["acme", *(str(acme.ids[name]) for name in ("message_id", "key_id", "endpoint_id", "delivery_id"))]
    for answer in after:
        assert not [mark for mark in marks if mark in answer], answer


@pytest.mark.parametrize(
    "path",
    ["aliases?domain_id={domain_id}", "emails?user={username}", "folders?user={username}", "emails?user_id={username}"],
)
def test_an_object_that_the_query_names_is_not_there(path: str) -> None:
    acme, blue = tenants.make("acme"), tenants.make("blue")
    for client in strangers(blue):
        assert client.get(f"/{CANONICAL}{acme.path(path)}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "events?message_id={message_id}", "suppressions?organization_id={organization_id}",
        "suppressions?source_message_id={message_id}", "suppressions/export?organization_id={organization_id}",
    ],
)  # fmt: skip
def test_a_condition_that_names_another_tenants_object_finds_nothing(path: str) -> None:
    acme, blue = tenants.make("acme"), tenants.make("blue")
    for client in strangers(blue):
        answer = client.get(f"/{CANONICAL}{acme.path(path)}")
        assert answer.status_code == 200 and "acme" not in _text(answer)


def test_a_body_that_names_another_tenants_object_is_refused_as_if_there_were_none() -> None:
    acme, blue = tenants.make("acme"), tenants.make("blue")
    client = tenants.client_of(blue.boss)
    organization, domain = acme.organization.pk, acme.ids["domain_id"]
    for path, body in (
        ("fetch", {"user_id": acme.member.username}),
        ("api-keys", {"name": "k", "user": acme.member.username}),
        ("users", {"username": "n", "email": "n@acme.example", "password": "SecureP@ssw0rd"}),
        ("domains", {"name": "n.example", "organization_id": organization}),
        ("aliases", {"domain_id": domain, "local_part": "n", "targets": "n@x.example"}),
        ("templates", {"name": "n", "text_body": "n", "organization_id": organization}),
        ("suppressions", {"address": "n@x.example", "organization_id": organization}),
        ("webhook-endpoints", {"url": "https://blue.example/", "organization_id": organization}),
    ):
        answer = client.post(f"/{CANONICAL}{path}", body, content_type="application/json")
        assert answer.status_code in (400, 404, 422), (path, answer.content)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "messages/{message_id}/status?new_status=delivered"), ("GET", "queue/{message_id}"),
        ("DELETE", "queue/{message_id}"), ("POST", "queue/{message_id}/retry"),
    ],
)  # fmt: skip
def test_what_is_for_staff_is_403_for_a_message_of_ones_own_and_404_for_any_other(method: str, path: str) -> None:
    """Contract §1.3: a missing role is 403, another tenant's object is 404, as one that never was."""
    acme, blue = tenants.make("acme"), tenants.make("blue")
    client = tenants.client_of(acme.boss)
    for tenant, status in ((acme, 403), (blue, 404)):
        assert client.generic(method, f"/{CANONICAL}{tenant.path(path)}").status_code == status
    assert client.generic(method, f"/{CANONICAL}{path.replace('{message_id}', 'msg_none')}").status_code == 404
    assert Client().generic(method, f"/{CANONICAL}{acme.path(path)}").status_code == 401


def _read(client: Client, resource: Resource, query: str) -> str:
    answer = client.get(f"/{CANONICAL}{resource.route}?{query}")
    return f"{answer.status_code} {_text(answer)}"


def _text(answer: Any) -> str:
    if answer.streaming:
        return b"".join(answer.streaming_content).decode()
    body = json.loads(answer.content)
    for one in (body, *(body.get("items") or [])):
        for name in ("request_id", "last_used_at", "last_login"):
            one.pop(name, None)
    return json.dumps(body)
