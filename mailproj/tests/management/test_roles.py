"""Users, organizations, keys, domains and aliases in the API: who may, at which paths, and what a list costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accounts import keys
from accounts.models import Alias, Domain, Organization, User
from mailproj.tests.management.asking import LISTS, PASSWORD, ROUTES, V1, ask, new_key, paths_of, problem

pytestmark = pytest.mark.django_db


# --- tenants and roles ---


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("user", ["acme-boss", "acme-jane"])
def test_another_tenants_object_is_404_for_every_method(route: str, user: str) -> None:
    path, methods = paths_of("blue")[route]
    for method in methods:
        body = problem(ask(method, f"{V1}/{path}", {}, user=user), 404)
        assert body["code"] == "NOT_FOUND" and body["detail"].startswith("There is no ")
    assert User.objects.filter(username="blue-jane").exists() and Alias.objects.count() == 2


@pytest.mark.parametrize("route", ROUTES)
def test_a_colleague_without_the_role_is_forbidden_what_is_not_for_members(route: str) -> None:
    for_members = {"domain": ["GET"], "records": ["GET"], "alias": ["GET"], "aliases of a domain": ["GET"]}
    path, methods = paths_of("acme")[route]
    for method in methods:
        answer = ask(method, f"{V1}/{path}", {}, user="acme-john")
        if method in for_members.get(route, []):
            assert answer.status_code == 200
        else:
            assert problem(answer, 403)["code"] == "FORBIDDEN"


@pytest.mark.parametrize("path", ["users", "organizations"])
def test_lists_for_administrators_are_forbidden_for_members(path: str) -> None:
    problem(ask("GET", f"{V1}/{path}", user="acme-john"), 403)


@pytest.mark.parametrize(
    ("path", "user", "count"),
    [
        ("users", "root", 8),
        ("users", "clerk", 8),
        ("users", "acme-boss", 3),
        ("organizations", "clerk", 2),
        ("organizations", "acme-boss", 1),
        ("api-keys", "root", 2),
        ("api-keys", "acme-boss", 1),
        ("api-keys", "acme-jane", 1),
        ("api-keys", "acme-john", 0),
        ("domains", "clerk", 2),
        ("domains", "acme-john", 1),
        ("aliases", "root", 2),
        ("aliases", "acme-john", 1),
    ],
)
def test_everybody_lists_what_is_theirs(path: str, user: str, count: int) -> None:
    body = ask("GET", f"{V1}/{path}", user=user).json()
    assert (body["total"], len(body["items"])) == (count, count)


def test_who_has_no_organization_is_no_member_of_those_who_have_none() -> None:
    User.objects.create_user("lone", "lone@x.example", PASSWORD, is_organization_admin=True)
    problem(ask("GET", f"{V1}/users", user="lone"), 403)
    problem(ask("GET", f"{V1}/users/clerk", user="lone"), 404)
    for path in ("domains", "aliases", "api-keys"):
        assert ask("GET", f"{V1}/{path}", user="lone").json()["total"] == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("users", {"username": "new", "email": "new@acme.example", "password": "SecureP@ssw0rd"}),
        ("organizations", {"name": "New"}),
        ("domains", {"name": "new.example"}),
        ("aliases", {"address": "new@acme.example", "targets": "a@b.example"}),
    ],
)
def test_making_things_needs_a_role(path: str, body: dict[str, str]) -> None:
    problem(ask("POST", f"{V1}/{path}", body, user="acme-john"), 403)
    may_boss = path != "organizations"
    answer = ask("POST", f"{V1}/{path}", body, user="acme-boss")
    assert answer.status_code == (201 if may_boss else 403), answer.content
    problem(ask("POST", f"{V1}/{path}", body, user=""), 401)


def test_staff_manage_every_tenant() -> None:
    for user in ("clerk", "root"):
        assert ask("GET", f"{V1}/users/blue-jane", user=user).status_code == 200
    assert ask("PATCH", f"{V1}/users/blue-jane", {"quota_mb": 5}, user="clerk").json()["quota_mb"] == 5


def test_nobody_without_those_powers_touches_an_account_that_has_more() -> None:
    boss = User.objects.get(username="acme-boss")
    User.objects.filter(username="clerk").update(organization=boss.organization)
    for actor, mightier in (("acme-boss", "clerk"), ("clerk", "root")):
        for method in ("PUT", "PATCH", "DELETE"):
            problem(ask(method, f"{V1}/users/{mightier}", {"password": "An0ther-secret"}, user=actor), 403)
        problem(ask("POST", f"{V1}/api-keys", {"name": "mine", "user": mightier}, user=actor), 403)
    problem(ask("PATCH", f"{V1}/users/acme-john", {"is_staff": True}, user="clerk"), 403)
    problem(ask("PATCH", f"{V1}/users/acme-john", {"is_staff": True}, user="acme-boss"), 403)
    assert ask("PATCH", f"{V1}/users/acme-john", {"is_staff": True}, user="root").json()["is_staff"] is True


# --- places and costs ---


@pytest.mark.parametrize(
    "path", ["users", "users/acme-john", "domains", "domains/{domain}", "domains/{domain}/dns-records"]
)
def test_each_path_is_at_every_place_with_a_slash_and_without(path: str) -> None:
    path = path.format(domain=Domain.objects.get(name="acme.example").pk)
    prefixes = ["/api/v1/", "/api/"] if path.startswith("users") else ["/api/v1/", "/"]
    for prefix in prefixes:
        for end in ("", "/"):
            assert ask("GET", f"{prefix}{path}{end}").status_code == 200


def _rows(numbers: range) -> None:
    acme = Organization.objects.get(name="acme")
    domain = Domain.objects.get(name="acme.example")
    for number in numbers:
        user = User.objects.create_user(f"u{number}", f"u{number}@acme.example", organization=acme)
        keys.create(f"k{number}", user, daily_limit=1)
        Domain.objects.create(name=f"d{number}.example", organization=acme)
        Alias.objects.create(domain=domain, local_part=f"a{number}", targets=[user.email])
        Organization.objects.create(name=f"o{number}")


@pytest.mark.parametrize("path", [*[f"{V1}/{path}" for path in LISTS], "/api/users", "/domains"])
@pytest.mark.parametrize("user", ["root", "acme-boss"])
def test_a_list_of_fifty_costs_as_many_queries_as_a_list_of_one(
    path: str, user: str, django_assert_num_queries: Callable[..., Any]
) -> None:
    ask("GET", path, user=user)  # the password is checked once
    for numbers in (range(1), range(1, 50)):
        _rows(numbers)
        more = path.endswith("domains")  # the keys that sign, of all domains of the page
        with django_assert_num_queries(3 + more):  # who asks, how many there are, the page
            assert ask("GET", f"{path}?limit=100", user=user).status_code == 200


def test_a_key_costs_one_query_beside_the_list(django_assert_num_queries: Callable[..., Any]) -> None:
    made = new_key("acme-boss")["key"]
    for _ in range(2):  # its use is noted once a minute, and the row then read anew
        ask("GET", f"{V1}/aliases", key=made)
    with django_assert_num_queries(3):
        assert ask("GET", f"{V1}/aliases", key=made).status_code == 200


def test_a_key_for_another_user_may_be_asked_for_by_either_name() -> None:
    for field in ("user", "user_id"):
        for named in ("acme-jane", User.objects.get(username="acme-jane").pk):
            made = ask("POST", f"{V1}/api-keys", {"name": "k", field: named}, user="acme-boss")
            assert made.status_code == 201 and made.json()["username"] == "acme-jane"
