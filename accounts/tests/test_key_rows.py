"""A key's row is what it is now, at every look, and costs one query."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import key_rows, keys
from accounts.models import ApiKey, Organization, User

pytestmark = pytest.mark.django_db


@pytest.fixture
def key() -> ApiKey:
    organization = Organization.objects.create(name="Example")
    user = User.objects.create_user("alice", "alice@example.com", "x", organization=organization)
    return keys.create("test", user, daily_limit=5)[0]


def test_a_second_look_costs_one_query_and_gives_an_object_of_its_own(key: ApiKey) -> None:
    first = key_rows.find(key.prefix)
    with CaptureQueriesContext(connection) as queries:
        second = key_rows.find(key.prefix)
        assert second is not None and second.user.organization is not None
    assert len(queries) == 1
    assert first == second == key and first is not second and first is not None
    second.name = second.user.username = second.user.organization.name = "changed"
    third = key_rows.find(key.prefix)
    assert third is not None and third.user.organization is not None
    assert (third.name, third.user.username, third.user.organization.name) == ("test", "alice", "Example")


@pytest.mark.parametrize(
    "change",
    [
        lambda key: ApiKey.objects.update(is_active=False, scopes=["read"]),
        lambda key: User.objects.update(is_active=False, first_name="Ann"),
        lambda key: Organization.objects.update(is_active=False),
    ],
)
def test_a_change_of_any_of_the_three_rows_is_seen_at_once(key: ApiKey, change: Any) -> None:
    key_rows.find(key.prefix)
    change(key)
    seen = key_rows.find(key.prefix)
    now = ApiKey.objects.select_related("user__organization").get()
    assert seen is not None and seen.user.organization is not None and now.user.organization is not None
    for one, other in ((seen, now), (seen.user, now.user), (seen.user.organization, now.user.organization)):
        fields = [field.attname for field in one._meta.concrete_fields]
        assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]


def test_a_key_that_is_gone_or_never_was_is_not_found(key: ApiKey) -> None:
    assert key_rows.find(key.prefix) is not None
    key.delete()
    assert key_rows.find(key.prefix) is None and key_rows.find("sk_live_" + "0" * 12) is None


def test_a_rotated_key_is_found_by_both_texts(key: ApiKey) -> None:
    before = key.prefix
    keys.rotate(key, overlap=dt.timedelta(hours=1))
    assert key_rows.find(before) == key_rows.find(key.prefix) == key
