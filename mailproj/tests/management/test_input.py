"""Wrong input to what manages users, organizations, keys, domains and aliases: the code, and which field."""

from __future__ import annotations

import uuid

import pytest
from django.test import Client

from accounts.models import Alias, ApiKey, Domain, Organization, TrailEntry
from mailproj.tests.management.asking import LISTS, ROUTES, V1, ask, fields, paths_of, problem

pytestmark = pytest.mark.django_db


_USER = {"username": "new", "email": "new@acme.example", "password": "SecureP@ssw0rd"}
_ALIAS = {"address": "new@acme.example", "targets": "a@b.example"}
WRONG: list[tuple[str, str, object, str]] = [
    ("POST", "users", {}, "username"),
    ("POST", "users", {**_USER, "username": ""}, "username"),
    ("POST", "users", {**_USER, "username": "x" * 151}, "username"),
    ("POST", "users", {**_USER, "username": "a b"}, "username"),
    ("POST", "users", {**_USER, "username": "17"}, "username"),
    ("POST", "users", {**_USER, "username": ["x"]}, "username"),
    ("POST", "users", {**_USER, "username": 5.5}, "username"),
    ("POST", "users", {**_USER, "password": 5_839_201_746_301}, "password"),
    ("POST", "users", {**_USER, "username": "a\0b"}, "username"),
    ("POST", "users", {**_USER, "username": "\ud800"}, "username"),
    ("POST", "users", {**_USER, "email": "nobody"}, "email"),
    ("POST", "users", {**_USER, "email": "x" * 300 + "@acme.example"}, "email"),
    ("POST", "users", {**_USER, "email": None}, "email"),
    ("POST", "users", {**_USER, "password": "short"}, "password"),
    ("POST", "users", {**_USER, "password": "password1"}, "password"),
    ("POST", "users", {**_USER, "password": "x" * 5000}, "password"),
    ("POST", "users", {**_USER, "password": "é" * 4000}, "password"),
    ("POST", "users", {**_USER, "password": {"a": 1}}, "password"),
    ("POST", "users", {**_USER, "quota_mb": -1}, "quota_mb"),
    ("POST", "users", {**_USER, "quota_mb": "many"}, "quota_mb"),
    ("POST", "users", {**_USER, "quota_mb": 10**12}, "quota_mb"),
    ("POST", "users", {**_USER, "quota_mb": 1.5}, "quota_mb"),
    ("POST", "users", {**_USER, "enabled": "perhaps"}, "enabled"),
    ("POST", "users", {**_USER, "organization_id": 10**30}, "organization_id"),
    ("POST", "users", {**_USER, "organization_id": 999_999}, "organization_id"),
    ("PUT", "users/acme-john", {"email": 17.5}, "email"),
    ("PUT", "users/acme-john", {"quota_mb": []}, "quota_mb"),
    ("POST", "organizations", {}, "name"),
    ("POST", "organizations", {"name": " "}, "name"),
    ("POST", "organizations", {"name": 5}, "name"),
    ("POST", "organizations", {"name": "x" * 201}, "name"),
    ("POST", "organizations", {"name": "x", "is_active": "so-so"}, "is_active"),
    ("POST", "domains", {}, "name"),
    ("POST", "domains", {"name": "com"}, "name"),
    ("POST", "domains", {"name": "a..b"}, "name"),
    ("POST", "domains", {"name": "192.0.2.1"}, "name"),
    ("POST", "domains", {"name": "x" * 64 + ".example"}, "name"),
    ("POST", "domains", {"name": "a." * 200 + "example"}, "name"),
    ("POST", "domains", {"name": "sp ace.example"}, "name"),
    ("POST", "domains", {"name": 5}, "name"),
    ("POST", "domains", {"name": "n.example", "organization_id": 0}, "organization_id"),
    ("PATCH", "domains/{domain}", {"is_active": "maybe"}, "is_active"),
    ("GET", "domains?status=lost", None, "status"),
    ("GET", "domains/a..b/exists", None, "name"),
    ("POST", "aliases", {}, "targets"),
    ("POST", "aliases", {"targets": "a@b.example"}, "address"),
    ("POST", "aliases", {**_ALIAS, "domain_id": 1}, "address"),
    ("POST", "aliases", {"targets": "a@b.example", "domain_id": 1}, "local_part"),
    ("POST", "aliases", {"targets": "a@b.example", "domain_id": 999_999, "local_part": "x"}, "domain_id"),
    ("POST", "aliases", {**_ALIAS, "address": "x@nowhere.example"}, "address"),
    ("POST", "aliases", {**_ALIAS, "address": "nobody"}, "address"),
    ("POST", "aliases", {**_ALIAS, "address": "a b@acme.example"}, "address"),
    ("POST", "aliases", {**_ALIAS, "address": "a+b@acme.example"}, "address"),
    ("POST", "aliases", {**_ALIAS, "address": "x" * 70 + "@acme.example"}, "address"),
    ("POST", "aliases", {**_ALIAS, "address": "x@a..b"}, "address"),
    ("POST", "aliases", {**_ALIAS, "targets": []}, "targets"),
    ("POST", "aliases", {**_ALIAS, "targets": ["nobody"]}, "targets"),
    ("POST", "aliases", {**_ALIAS, "targets": "a@b.example, c@b.example"}, "targets"),
    ("POST", "aliases", {**_ALIAS, "targets": ""}, "targets"),
    ("POST", "aliases", {**_ALIAS, "targets": [17, None]}, "targets.1"),
    ("POST", "aliases", {**_ALIAS, "targets": ["a@b.example"] * 101}, "targets"),
    ("POST", "aliases", {"targets": "a@b.example", "domain_id": 1, "local_part": 5}, "local_part"),
    ("POST", "aliases", {**_ALIAS, "targets": "new@acme.example"}, "targets"),
    ("POST", "aliases", {**_ALIAS, "announcement": "loud"}, "announcement"),
    ("POST", "aliases", {**_ALIAS, "announcement": "\ud800"}, "announcement"),
    ("POST", "api-keys", {}, "name"),
    ("POST", "api-keys", {"name": "x" * 101}, "name"),
    ("POST", "api-keys", {"name": 5}, "name"),
    ("POST", "api-keys", {"name": "k", "allowed_domains": [5]}, "allowed_domains.0"),
    ("POST", "api-keys", {"name": "k", "user": 5.5}, "user"),
    ("POST", "api-keys", {"name": "k", "daily_limit": 0}, "daily_limit"),
    ("POST", "api-keys", {"name": "k", "daily_limit": 10**10}, "daily_limit"),
    ("POST", "api-keys", {"name": "k", "scopes": []}, "scopes"),
    ("POST", "api-keys", {"name": "k", "scopes": "send"}, "scopes"),
    ("POST", "api-keys", {"name": "k", "scopes": ["all"]}, "scopes.0"),
    ("POST", "api-keys", {"name": "k", "allowed_domains": ["a..b"]}, "allowed_domains.0"),
    ("POST", "api-keys", {"name": "k", "allowed_addresses": ["x"]}, "allowed_addresses.0"),
    ("POST", "api-keys", {"name": "k", "expires_at": "tomorrow"}, "expires_at"),
    ("POST", "api-keys", {"name": "k", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ("POST", "api-keys", {"name": "k", "expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
    ("POST", "api-keys", {"name": "k", "user": "nobody"}, "user"),
    ("POST", "api-keys", {"name": "k", "user": "acme-jane", "user_id": "acme-jane"}, "user_id"),
    ("POST", "api-keys/{key}/rotate", {"overlap_seconds": -1}, "overlap_seconds"),
    ("POST", "api-keys/{key}/rotate", {"overlap_seconds": 10**9}, "overlap_seconds"),
    ("PATCH", "api-keys/{key}", {"daily_limit": None}, "daily_limit"),
    *[("GET", f"{path}?page_size=0", None, "page_size") for path in LISTS],
    *[("GET", f"{path}?limit=1001", None, "limit") for path in LISTS],
    *[("GET", f"{path}?offset=x", None, "offset") for path in LISTS],
]


@pytest.mark.parametrize(("method", "path", "body", "field"), WRONG, ids=lambda value: str(value)[:50])
def test_wrong_input_is_a_400_that_names_the_field(method: str, path: str, body: object, field: str) -> None:
    domain, key = Domain.objects.get(name="acme.example").pk, ApiKey.objects.get(name="acme key").pk
    before = TrailEntry.objects.count()
    answer = ask(method, f"{V1}/{path.format(domain=domain, key=key)}", body)
    assert field in fields(answer), answer.content
    assert TrailEntry.objects.count() == before


BODIES = ["", "[]", '"text"', "17", "null", "{", '{"name": ', "\xff".encode("latin-1"), "[" * 5000]
WRITERS = [("POST", path) for path in LISTS] + [
    ("PUT", "users/acme-john"), ("PATCH", "users/acme-john"), ("PATCH", "organizations/{organization}"),
    ("PATCH", "domains/{domain}"), ("PATCH", "aliases/{alias}"), ("PATCH", "api-keys/{key}"),
    ("POST", "api-keys/{key}/rotate"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), WRITERS)
def test_a_body_that_is_no_json_object_is_refused_and_never_an_error_of_ours(method: str, path: str) -> None:
    filled = path.format(
        organization=Organization.objects.get(name="acme").pk,
        domain=Domain.objects.get(name="acme.example").pk,
        alias=Alias.objects.all()[0].pk,
        key=ApiKey.objects.get(name="acme key").pk,
    )
    for body in BODIES:
        answer = ask(method, f"{V1}/{filled}", body)
        if body in ("", "null") and answer.status_code == 200:
            continue  # nothing is asked to change
        problem(answer, 400)
    text = Client().generic(method, f"{V1}/{filled}", "a=b", content_type="application/x-www-form-urlencoded")
    problem(text, 401)


@pytest.mark.parametrize("route", ROUTES)
def test_an_id_that_is_none_is_a_404(route: str) -> None:
    path, methods = paths_of("acme")[route]
    if route == "aliases of a domain":
        wrong = [f"aliases?domain_id={text}" for text in ("0", "x", "9" * 30, "-1", "%00")]
    else:
        head, _, tail = path.partition("/")
        tail = "/" + tail.partition("/")[2] if "/" in tail else ""
        none = uuid.uuid4()
        wrong = [f"{head}/{text}{tail}" for text in ("0", "nobody", "9" * 30, "-1", "%00", "%ff", "a%0ab", str(none))]
    for method in methods:
        for address in wrong:
            problem(ask(method, f"{V1}/{address}", {}), 404)


@pytest.mark.parametrize("route", [*ROUTES, *LISTS])
def test_without_or_with_wrong_credentials_it_is_a_401_that_says_which_to_add(route: str) -> None:
    path = paths_of("acme")[route][0] if route in ROUTES else route
    for answer in (ask("GET", f"{V1}/{path}", user=""), ask("GET", f"{V1}/{path}", key="sk_live_" + "0" * 72)):
        body = problem(answer, 401)
        assert "curl -u username:password" in body["detail"] and answer["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("route", [*ROUTES, *LISTS])
def test_a_method_that_a_path_does_not_know_is_a_405(route: str) -> None:
    path, methods = paths_of("acme")[route] if route in ROUTES else (route, ["GET", "POST"])
    methods = ["GET", "POST"] if path.startswith("aliases?") else methods
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(methods):
        answer = ask(method, f"{V1}/{path}", {})
        assert problem(answer, 405)["code"] == "METHOD_NOT_ALLOWED" and methods[0] in answer["Allow"]
