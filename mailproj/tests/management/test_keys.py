"""API keys in the API: what they may, and for how long."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Domain, User
from mailproj.tests.management.asking import LISTS, V1, ask, fields, new_key, problem

pytestmark = pytest.mark.django_db


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
