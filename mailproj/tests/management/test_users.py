"""Users and organizations in the API."""

from __future__ import annotations

import pytest

from accounts.models import Domain, Organization, Plan, TrailEntry, User
from mailflow import erasure
from mailflow.models import FiledMessage
from mailproj.tests.management.asking import V1, ask, fields, problem
from queue.tests.mail import accepted, file

pytestmark = pytest.mark.django_db


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
