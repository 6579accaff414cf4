"""Users, organizations, keys, domains and aliases in the API: who may, what is refused and how, what a list costs."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from accounts import credentials, keys
from accounts.models import Alias, ApiKey, Domain, Organization, Plan, TrailEntry, User
from accounts.tests.zone import Zone, serving
from mailflow import erasure
from mailflow.models import FiledMessage
from queue.tests.mail import accepted, file

pytestmark = pytest.mark.django_db

V1 = "/api/v1"
PASSWORD = "MyP@ssw0rd"


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    credentials.remembered.clear()


@pytest.fixture(autouse=True)
def cast(db: None) -> None:
    """Two tenants, each with a domain, an administrator, a member, a key of the member's and an alias; and staff."""
    User.objects.create_superuser("root", "root@platform.example", PASSWORD)
    User.objects.create_user("clerk", "clerk@platform.example", PASSWORD, is_staff=True)
    for name in ("acme", "blue"):
        organization = Organization.objects.create(name=name)
        domain = Domain.objects.create(name=f"{name}.example", organization=organization, is_trusted=True)
        for user, is_admin in ((f"{name}-boss", True), (f"{name}-jane", False), (f"{name}-john", False)):
            User.objects.create_user(
                user, f"{user}@{name}.example", PASSWORD, organization=organization, is_organization_admin=is_admin
            )
        keys.create(f"{name} key", User.objects.get(username=f"{name}-jane"), daily_limit=5)
        Alias.objects.create(domain=domain, local_part="sales", targets=[f"{name}-jane@{name}.example"])


def ask(method: str, path: str, body: object = None, *, user: str = "root", key: str = "") -> Any:
    headers = {}
    if user and not key:
        headers["Authorization"] = f"Basic {b64encode(f'{user}:{PASSWORD}'.encode()).decode()}"
    if key:
        headers["X-API-Key"] = key
    text = body if isinstance(body, (str, bytes)) else "" if body is None else json.dumps(body)
    return Client().generic(method, path, text, content_type="application/json", headers=headers)


def problem(answer: Any, status: int) -> dict[str, Any]:
    """Check that the answer is a problem of this status in the one shape, and return it."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body.keys() >= {"type", "title", "status", "error", "detail", "code"} and body["status"] == status
    assert "Traceback" not in answer.content.decode() and "SELECT" not in answer.content.decode()
    return body


def fields(answer: Any, status: int = 400) -> set[str]:
    return {error["field"] for error in problem(answer, status).get("errors", [])}


def paths_of(tenant: str) -> dict[str, tuple[str, list[str]]]:
    """Every route with an id, filled with one of the tenant's objects, and the methods that it knows."""
    domain = Domain.objects.get(name=f"{tenant}.example")
    organization = Organization.objects.get(name=tenant)
    key, alias = ApiKey.objects.get(name=f"{tenant} key"), Alias.objects.get(domain=domain)
    jane = User.objects.get(username=f"{tenant}-jane")
    return {
        "user": (f"users/{jane.username}", ["GET", "PUT", "PATCH", "DELETE"]),
        "user by address": (f"users/{jane.email}", ["GET", "PUT", "PATCH", "DELETE"]),
        "user by id": (f"users/{jane.pk}", ["GET", "PUT", "PATCH", "DELETE"]),
        "organization": (f"organizations/{organization.pk}", ["GET", "PATCH", "DELETE"]),
        "key": (f"api-keys/{key.pk}", ["GET", "PATCH", "DELETE"]),
        "rotation": (f"api-keys/{key.pk}/rotate", ["POST"]),
        "domain": (f"domains/{domain.pk}", ["GET", "PATCH", "DELETE"]),
        "verification": (f"domains/{domain.pk}/verify", ["POST"]),
        "records": (f"domains/{domain.pk}/dns-records", ["GET"]),
        "alias": (f"aliases/{alias.pk}", ["GET", "PATCH", "DELETE"]),
        "aliases of a domain": (f"aliases?domain_id={domain.pk}", ["GET"]),
    }


LISTS = ["users", "organizations", "api-keys", "domains", "aliases"]
ROUTES = [
    "user", "user by address", "user by id", "organization", "key", "rotation", "domain", "verification", "records",
    "alias", "aliases of a domain",
]  # fmt: skip


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


# --- users ---


def test_oneself_changes_address_and_password_and_nothing_else() -> None:
    path = f"{V1}/users/acme-john"
    assert ask("GET", path, user="acme-john").json()["statistics"]["messages_sent"] == 0
    assert ask("PUT", path, {"email": "Johnny@acme.example"}, user="acme-john").json()["email"] == "johnny@acme.example"
    whole = ask("GET", path, user="acme-john").json()
    assert ask("PUT", path, whole, user="acme-john").status_code == 200  # what is as it was is no change
    for body in ({"quota_mb": 9}, {"enabled": False}, {"is_organization_admin": True}, {"organization_id": None}):
        detail = problem(ask("PATCH", path, body, user="acme-john"), 403)["detail"]
        assert next(iter(body)).removesuffix("_id") in detail
    problem(ask("DELETE", path, user="acme-john"), 403)
    assert ask("PATCH", path, {"password": "An0ther-secret"}, user="acme-john").status_code == 200
    problem(ask("GET", path, user="acme-john"), 401)
    assert User.objects.get(username="acme-john").check_password("An0ther-secret")


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("john@blue.example", 400),  # another tenant's domain
        ("john@gmail.example", 400),  # nobody's
        ("john@pending.example", 400),
        ("postmaster@acme.example", 400),
        ("ADMIN@acme.example", 400),
        ("john+tag@acme.example", 400),
        ('"john doe"@acme.example', 400),
        ("john@[192.0.2.1]", 400),
        ("john", 400),
        ("acme-jane@acme.example", 409),
        ("Sales@acme.example", 409),  # an alias
    ],
)
def test_nobody_takes_an_address_that_is_not_theirs_to_take(address: str, status: int) -> None:
    acme = Organization.objects.get(name="acme")
    Domain.objects.create(name="pending.example", organization=acme)
    problem(ask("PATCH", f"{V1}/users/acme-john", {"email": address}, user="acme-john"), status)
    assert User.objects.get(username="acme-john").email == "acme-john@acme.example"


def test_an_administrator_makes_accounts_in_own_domains_alone_and_staff_elsewhere_too() -> None:
    body = {"username": "post", "email": "postmaster@acme.example", "password": "SecureP@ssw0rd"}
    assert ask("POST", f"{V1}/users", body, user="acme-boss").json()["organization_id"] is not None
    assert fields(ask("POST", f"{V1}/users", {**body, "email": "x@blue.example"}, user="acme-boss")) == {"email"}
    foreign = ask("POST", f"{V1}/users", {**body, "username": "f", "email": "f@gmail.example"}, user="root").json()
    assert foreign["organization_id"] is None
    blue = ask("POST", f"{V1}/users", {**body, "username": "b", "email": "b@blue.example"}, user="root").json()
    assert blue["organization_id"] == Organization.objects.get(name="blue").pk
    acme = Organization.objects.get(name="acme").pk
    wrong = {**body, "username": "c", "email": "c@blue.example", "organization_id": acme}
    assert fields(ask("POST", f"{V1}/users", wrong, user="root")) == {"email"}
    assert fields(ask("POST", f"{V1}/users", {**wrong, "organization_id": blue["organization_id"]}, user="acme-boss"))


def test_an_address_is_no_name_for_another_account() -> None:
    body = {"username": "root@example.com", "email": "new@acme.example", "password": "SecureP@ssw0rd"}
    assert fields(ask("POST", f"{V1}/users", body, user="acme-boss")) == {"username"}
    own = {**body, "username": "New@ACME.example"}
    assert ask("POST", f"{V1}/users", own, user="acme-boss").status_code == 201


def test_nobody_takes_an_address_that_another_account_is_named_by() -> None:
    User.objects.filter(username="acme-jane").update(username="Old@acme.example")
    problem(ask("PATCH", f"{V1}/users/acme-john", {"email": "old@acme.example"}, user="acme-john"), 409)
    assert ask("PATCH", f"{V1}/users/acme-john", {"email": "john@acme.example"}, user="acme-john").status_code == 200


def test_an_account_that_is_switched_off_is_off_at_once() -> None:
    assert ask("GET", f"{V1}/domains", user="acme-john").status_code == 200
    assert ask("PATCH", f"{V1}/users/acme-john", {"enabled": False}, user="acme-boss").json()["enabled"] is False
    problem(ask("GET", f"{V1}/domains", user="acme-john"), 401)


def test_nobody_switches_off_or_deletes_the_account_that_they_act_as() -> None:
    problem(ask("PATCH", f"{V1}/users/root", {"enabled": False}), 409)
    problem(ask("DELETE", f"{V1}/users/root"), 409)
    problem(ask("DELETE", f"{V1}/users/acme-boss", user="acme-boss"), 409)


def test_a_deletion_that_takes_long_is_answered_and_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.api.users.ERASE_SECONDS", 0)
    monkeypatch.setattr(erasure, "BATCH", 1)
    jane = User.objects.get(username="acme-jane")
    for _ in range(3):
        file(accepted(jane.email), jane)
    body = ask("DELETE", f"{V1}/users/acme-jane", user="acme-boss").json()
    assert body == {"success": True, "message": "User deleted successfully", "data_removed": False}
    assert FiledMessage.objects.exists()
    problem(ask("GET", f"{V1}/users/acme-jane"), 404)
    problem(ask("GET", f"{V1}/users/{jane.pk}"), 404)
    assert ask("GET", f"{V1}/users").json()["total"] == 7
    assert ask("GET", f"{V1}/organizations/{jane.organization_id}").json()["user_count"] == 2
    again = {"username": "acme-jane", "email": jane.email, "password": "SecureP@ssw0rd"}
    assert ask("POST", f"{V1}/users", again, user="acme-boss").status_code == 201
    assert erasure.erase_all() == 1 and not FiledMessage.objects.exists()
    assert not User.objects.filter(pk=jane.pk).exists()


def test_what_was_done_with_accounts_is_in_the_trail() -> None:
    body = {"username": "new", "email": "new@acme.example", "password": "SecureP@ssw0rd"}
    ask("POST", f"{V1}/users", body, user="acme-boss")
    ask("PATCH", f"{V1}/users/new", {"quota_mb": 7, "password": "An0ther-secret"}, user="acme-boss")
    ask("PATCH", f"{V1}/users/new", {"quota_mb": 7}, user="acme-boss")
    ask("DELETE", f"{V1}/users/new", user="acme-boss")
    found = TrailEntry.objects.filter(subject="new").order_by("pk")
    assert [(entry.kind, entry.actor) for entry in found] == [
        ("user.created", "acme-boss"), ("user.changed", "acme-boss"), ("user.deleted", "acme-boss"),
    ]  # fmt: skip
    assert not any("An0ther" in entry.detail or "SecureP" in entry.detail for entry in found)


def test_a_plans_limits_hold_for_users_and_domains() -> None:
    Plan.objects.create(name="Small", max_domains=1, max_mailboxes=3, is_default=True)
    body = {"username": "new", "email": "new@acme.example", "password": "SecureP@ssw0rd"}
    for path, wanted in (("users", body), ("domains", {"name": "second.example"})):
        answer = ask("POST", f"{V1}/{path}", wanted, user="acme-boss")
        assert "The plan Small allows" in problem(answer, 403)["detail"]
    blue = Organization.objects.get(name="blue")
    moved = {"organization_id": blue.pk, "email": "john@blue.example"}
    problem(ask("PATCH", f"{V1}/users/acme-john", moved), 403)
    Plan.objects.update(max_mailboxes=4)
    assert ask("PATCH", f"{V1}/users/acme-john", moved).json()["organization_id"] == blue.pk


# --- organizations ---


def test_an_organization_is_made_renamed_switched_off_and_removed_when_empty() -> None:
    made = ask("POST", f"{V1}/organizations", {"name": "New"}).json()
    path = f"{V1}/organizations/{made['id']}"
    assert (made["user_count"], made["domain_count"], made["is_active"]) == (0, 0, True)
    problem(ask("POST", f"{V1}/organizations", {"name": "New"}), 409)
    problem(ask("PATCH", path, {"name": "acme"}), 409)
    assert ask("PATCH", path, {"name": "Newer", "is_active": False}).json()["name"] == "Newer"
    assert ask("DELETE", path).status_code == 204
    acme = Organization.objects.get(name="acme")
    assert "3 users and 1 domains" in problem(ask("DELETE", f"{V1}/organizations/{acme.pk}"), 409)["detail"]


def test_an_administrator_renames_the_own_organization_and_no_more() -> None:
    path = f"{V1}/organizations/{Organization.objects.get(name='acme').pk}"
    assert ask("PATCH", path, {"name": "Acme Inc."}, user="acme-boss").json()["name"] == "Acme Inc."
    problem(ask("PATCH", path, {"is_active": False}, user="acme-boss"), 403)
    problem(ask("DELETE", path, user="acme-boss"), 403)


def test_an_organization_that_is_off_keeps_everybody_of_it_out() -> None:
    acme = Organization.objects.get(name="acme")
    ask("PATCH", f"{V1}/organizations/{acme.pk}", {"is_active": False})
    problem(ask("GET", f"{V1}/domains", user="acme-boss"), 401)


# --- keys ---


def new_key(by: str = "acme-jane", **body: Any) -> dict[str, Any]:
    answer = ask("POST", f"{V1}/api-keys", {"name": "k", **body}, user=by)
    assert answer.status_code == 201, answer.content
    assert answer["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def test_a_key_is_shown_once_with_its_defaults() -> None:
    made = new_key()
    assert made["key"].startswith("sk_live_") and made["key"].startswith(made["prefix"])
    assert (made["daily_limit"], made["scopes"], made["expires_at"]) == (15, ["send", "read"], None)
    again = ask("GET", f"{V1}/api-keys/{made['id']}", user="acme-jane")
    assert "key" not in again.json() and made["key"] not in again.content.decode()
    assert ask("GET", f"{V1}/domains", key=made["key"]).status_code == 200


def test_a_key_has_all_the_limits_that_it_was_given() -> None:
    at = (timezone.now() + dt.timedelta(days=1)).isoformat()
    limits: dict[str, Any] = {"allowed_domains": ["ACME.example"], "allowed_addresses": ["Acme-Jane@acme.example"]}
    made = new_key(scopes=["send"], is_test=True, expires_at=at, daily_limit=3, **limits)
    assert made["key"].startswith("sk_test_") and made["is_test"] is True
    assert (made["allowed_domains"], made["allowed_addresses"]) == (["acme.example"], ["acme-jane@acme.example"])
    problem(ask("GET", f"{V1}/domains", key=made["key"]), 403)


@pytest.mark.parametrize(
    ("scopes", "read", "change"),
    [(["send"], 403, 403), (["read"], 200, 403), (["send", "read"], 200, 403), (["admin"], 200, 200)],
)
def test_a_scope_opens_what_it_says_on_every_path(scopes: list[str], read: int, change: int) -> None:
    made = new_key("acme-boss", scopes=scopes)["key"]
    for path in LISTS:
        assert ask("GET", f"{V1}/{path}", key=made).status_code == read
    for prefix in (V1, "/api"):
        answer = ask("PATCH", f"{prefix}/users/acme-john", {"quota_mb": 5}, key=made)
        assert answer.status_code == change
    domain = Domain.objects.get(name="acme.example").pk
    assert ask("PATCH", f"/domains/{domain}", {"is_active": True}, key=made).status_code == change
    if change == 403:
        assert "admin" in problem(answer, 403)["detail"]


def test_a_key_can_never_do_more_than_its_user() -> None:
    made = new_key("acme-john", scopes=["admin"])["key"]
    problem(ask("GET", f"{V1}/users", key=made), 403)
    problem(ask("GET", f"{V1}/users/blue-jane", key=made), 404)


def test_a_rotation_overlaps_and_a_revocation_ends_all() -> None:
    made = new_key()
    path = f"{V1}/api-keys/{made['id']}"
    rotated = ask("POST", f"{path}/rotate", {"overlap_seconds": 60}, user="acme-jane").json()
    assert rotated["id"] == made["id"] and rotated["previous_expires_at"] is not None
    texts = (made["key"], rotated["key"])
    assert [ask("GET", f"{V1}/domains", key=text).status_code for text in texts] == [200, 200]
    assert ask("DELETE", path, user="acme-jane").status_code == 204
    assert [ask("GET", f"{V1}/domains", key=text).status_code for text in texts] == [401, 401]
    assert ask("GET", path, user="acme-jane").json()["revoked_at"] is not None
    problem(ask("POST", f"{path}/rotate", user="acme-jane"), 409)
    problem(ask("PATCH", path, {"is_active": True}, user="acme-jane"), 409)
    assert ask("DELETE", path, user="acme-jane").status_code == 204


def test_a_key_is_paused_and_changed() -> None:
    made = new_key()
    path = f"{V1}/api-keys/{made['id']}"
    assert ask("PATCH", path, {"is_active": False}, user="acme-jane").json()["is_active"] is False
    problem(ask("GET", f"{V1}/domains", key=made["key"]), 401)
    body = {"is_active": True, "daily_limit": 99, "scopes": ["read"], "name": "other"}
    assert ask("PATCH", path, body, user="acme-boss").json().items() >= body.items()
    assert ask("PATCH", path, {"expires_at": None}, user="acme-boss").json()["scopes"] == ["read"]


def test_an_administrator_makes_keys_for_colleagues_and_members_for_themselves() -> None:
    assert new_key("acme-boss", user="acme-john")["username"] == "acme-john"
    problem(ask("POST", f"{V1}/api-keys", {"name": "k", "user": "acme-john"}, user="acme-jane"), 403)
    for nobody in ("blue-jane", "nobody"):
        for field in ("user", "user_id"):
            assert fields(ask("POST", f"{V1}/api-keys", {"name": "k", field: nobody}, user="acme-boss")) == {field}
    for jane in (User.objects.get(username="blue-jane").pk, str(User.objects.get(username="blue-jane").pk)):
        assert new_key("root", user=jane)["username"] == "blue-jane"


@pytest.mark.parametrize("limits", [{"allowed_domains": ["blue.example"]}, {"allowed_addresses": ["x@blue.example"]}])
def test_a_key_is_not_made_for_senders_that_its_user_does_not_hold(limits: dict[str, Any]) -> None:
    answer = ask("POST", f"{V1}/api-keys", {"name": "k", **limits}, user="acme-jane")
    assert fields(answer) == set(limits)


# --- domains ---


@pytest.fixture
def zone(settings: LazySettings) -> Iterator[Zone]:
    with serving(Zone()) as running:
        settings.DNS_SERVERS = [running.address]
        yield running


def test_an_administrator_makes_a_domain_that_is_pending_until_it_is_verified(zone: Zone) -> None:
    made = ask("POST", "/domains", {"name": "Straße.Example."}, user="acme-boss").json()
    assert (made["name"], made["status"], made["is_usable"]) == ("xn--strae-oqa.example", "pending", False)
    assert made["organization_id"] == Organization.objects.get(name="acme").pk
    checked = ask("POST", f"/domains/{made['id']}/verify", user="acme-boss").json()
    assert checked["status"] == "failed" and checked["last_checked_at"] is not None
    problem(ask("PATCH", f"/domains/{made['id']}", {"is_trusted": True}, user="acme-boss"), 403)
    assert ask("PATCH", f"/domains/{made['id']}", {"is_trusted": True}).json()["is_usable"] is True


def test_staff_say_whose_domain_it_is() -> None:
    blue = Organization.objects.get(name="blue").pk
    assert fields(ask("POST", "/domains", {"name": "n.example"})) == {"organization_id"}
    made = ask("POST", "/domains", {"name": "n.example", "organization_id": blue, "is_trusted": True}).json()
    assert made["organization_id"] == blue and made["is_usable"]
    acme_boss = ask("POST", "/domains", {"name": "m.example", "organization_id": blue}, user="acme-boss")
    assert fields(acme_boss) == {"organization_id"}
    problem(ask("POST", "/domains", {"name": "m.example", "is_trusted": True}, user="acme-boss"), 403)


def test_domains_are_listed_by_status() -> None:
    Domain.objects.filter(name="acme.example").update(status="failed")
    assert [item["name"] for item in ask("GET", "/domains?status=failed").json()["items"]] == ["acme.example"]


def test_a_domain_with_mailboxes_cannot_be_given_up() -> None:
    domain = Domain.objects.get(name="acme.example")
    assert "3 mailboxes" in problem(ask("DELETE", f"/domains/{domain.pk}", user="acme-boss"), 409)["detail"]


def test_whether_a_domain_is_local_tells_of_pending_ones_to_their_owners_alone() -> None:
    Domain.objects.create(name="pending.example", organization=Organization.objects.get(name="acme"))
    for name, user, exists in (
        ("pending.example", "acme-john", True),
        ("pending.example", "blue-john", False),
        ("PENDING.example", "root", True),
        ("blue.example", "acme-john", True),  # any sending host learns it at RCPT
        ("gmail.example", "root", False),
    ):
        for path in (f"/api/domains/{name}/exists", f"{V1}/domains/{name}/exists/", f"/domains/{name}/exists"):
            assert ask("GET", path, user=user).json() == {"exists": exists, "domain": name.lower()}


# --- aliases ---


def test_an_alias_is_made_changed_and_removed() -> None:
    body = {"address": "Info@ACME.example", "targets": ["a@b.example", "c@d.example"]}
    made = ask("POST", f"{V1}/aliases", body, user="acme-boss").json()
    assert (made["address"], made["targets"], made["announcement"], made["is_active"]) == (
        "info@acme.example", ["a@b.example", "c@d.example"], "silent", True,
    )  # fmt: skip
    path = f"{V1}/aliases/{made['id']}"
    assert fields(ask("PATCH", path, {"announcement": "moved"}, user="acme-boss")) == {"announcement"}
    change = {"announcement": "moved", "targets": "a@b.example", "is_active": False}
    assert ask("PATCH", path, change, user="acme-boss").json()["targets"] == ["a@b.example"]
    assert ask("DELETE", path, user="acme-boss").status_code == 204
    kinds = TrailEntry.objects.filter(subject="info@acme.example").order_by("pk").values_list("kind", flat=True)
    assert list(kinds) == ["alias.created", "alias.changed", "alias.deleted"]


def test_a_catch_all_is_an_alias_named_by_an_asterisk() -> None:
    domain = Domain.objects.get(name="acme.example").pk
    body = {"domain_id": domain, "local_part": "*", "targets": "acme-jane@acme.example"}
    assert ask("POST", f"{V1}/aliases", body, user="acme-boss").json()["address"] == "*@acme.example"
    problem(ask("POST", f"{V1}/aliases", {"address": "*@acme.example", "targets": "x@y.example"}), 409)


@pytest.mark.parametrize("address", ["SALES@acme.example", "acme-jane@acme.example"])
def test_an_address_that_is_taken_is_a_conflict(address: str) -> None:
    problem(ask("POST", f"{V1}/aliases", {"address": address, "targets": "a@b.example"}), 409)


# --- wrong input ---

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
