"""Names and passwords: right ones get in cheaply, wrong ones pay, switched-off accounts stay out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth import hashers
from django.contrib.auth.hashers import get_hasher
from django.utils import timezone

from accounts import credentials, users
from accounts.hashers import Argon2idHasher
from accounts.models import Organization, User

PASSWORD = "correct horse battery"


@pytest.fixture
def user(db: None) -> User:
    credentials.remembered.clear()
    organization = Organization.objects.create(name="Acme")
    return User.objects.create_user("alice", "alice@example.com", PASSWORD, organization=organization)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every password that the hasher has worked on."""
    seen: list[str] = []
    hasher = type(get_hasher("default"))
    encode = hasher.encode

    def counting(self: hashers.BasePasswordHasher, password: str, salt: str, *args: object) -> str:
        seen.append(password)
        return encode(self, password, salt, *args)

    monkeypatch.setattr(hasher, "encode", counting)
    return seen


@pytest.mark.parametrize("name", ["alice", "alice@example.com", "Alice@Example.com"])
def test_a_user_gets_in_by_username_or_address(user: User, name: str) -> None:
    assert credentials.verify(name, PASSWORD) == user


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong"), ("alice", ""), ("nobody", PASSWORD), ("", PASSWORD), ("a\0lice", PASSWORD),
        ("alice", "x" * 5000), ("alice", "\udcff"), ("\udcff", PASSWORD), ("x" * 1000, PASSWORD),
    ],
)  # fmt: skip
def test_anything_else_does_not(user: User, name: str, password: str) -> None:
    assert credentials.verify(name, password) is None


@pytest.mark.parametrize("was_remembered", [False, True])
def test_the_right_password_of_who_is_switched_off_costs_what_a_wrong_one_does(
    user: User, hashed: list[str], was_remembered: bool
) -> None:
    """Else a second, quick no would tell a guesser that the password is right."""
    if was_remembered:
        assert credentials.verify("alice", PASSWORD) == user
    User.objects.update(is_active=False)
    hashed.clear()
    assert [credentials.verify("alice", PASSWORD) for _ in range(3)] == [None] * 3
    assert hashed == [PASSWORD] * 3


def test_an_id_is_no_login_name(user: User) -> None:
    assert credentials.verify(str(user.pk), PASSWORD) is None
    assert users.find(str(user.pk)) == user


def test_an_address_as_a_username_catches_nobody_elses_login(user: User) -> None:
    User.objects.create_user("alice@example.com", "mallory@example.com", "other password")
    assert credentials.verify("alice@example.com", "other password") is None
    assert credentials.verify("alice@example.com", PASSWORD) == user


def test_a_right_password_is_hashed_once(user: User, hashed: list[str]) -> None:
    for _ in range(3):
        assert credentials.verify("alice", PASSWORD) == user
    assert hashed == [PASSWORD]


def test_a_wrong_password_is_hashed_each_time_whether_the_name_exists_or_not(user: User, hashed: list[str]) -> None:
    for name in ("alice", "alice", "nobody", "nobody"):
        credentials.verify(name, "wrong")
    assert hashed == ["wrong"] * 4


def test_a_changed_password_counts_at_once(user: User) -> None:
    assert credentials.verify("alice", PASSWORD) == user
    user.set_password("another password")
    user.save()
    assert credentials.verify("alice", PASSWORD) is None
    assert credentials.verify("alice", "another password") == user


def test_switching_off_the_user_or_the_organization_counts_at_once(user: User) -> None:
    assert credentials.verify("alice", PASSWORD) == user
    Organization.objects.update(is_active=False)
    assert credentials.verify("alice", PASSWORD) is None
    Organization.objects.update(is_active=True)
    User.objects.update(is_active=False)
    assert credentials.verify("alice", PASSWORD) is None


def test_what_is_remembered_is_bounded(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_REMEMBERED", 2)
    digests = [bytes([number]) for number in range(3)]
    for digest in digests:
        credentials.remembered.add(digest)
    assert [credentials.remembered.holds(digest) for digest in digests] == [False, True, True]


def test_passwords_are_argon2id_with_the_contracts_parameters(user: User, settings: LazySettings) -> None:
    settings.PASSWORD_HASHERS = ["accounts.hashers.Argon2idHasher"]
    user.set_password(PASSWORD)
    user.save()
    assert "$argon2id$v=19$m=65536,t=3,p=4$" in user.password
    assert isinstance(get_hasher("default"), Argon2idHasher)
    assert credentials.verify("alice", PASSWORD) == user
    assert credentials.verify("alice", "wrong") is None


def test_a_login_is_noted_at_most_once_a_minute(user: User) -> None:
    before = timezone.now()
    credentials.verify("alice", "wrong")
    user.refresh_from_db()
    assert user.last_login is None
    credentials.verify("alice", PASSWORD)
    user.refresh_from_db()
    noted = user.last_login
    assert noted is not None and noted >= before
    credentials.remembered.clear()
    credentials.verify("alice", PASSWORD)
    user.refresh_from_db()
    assert user.last_login == noted
    User.objects.update(last_login=noted - dt.timedelta(minutes=2))
    credentials.remembered.clear()
    credentials.verify("alice", PASSWORD)
    user.refresh_from_db()
    assert user.last_login > noted


def test_a_right_password_that_was_checked_lately_costs_one_query_and_no_hash(
    user: User, hashed: list[str], django_assert_num_queries: Callable[..., Any]
) -> None:
    credentials.verify("alice", PASSWORD)
    with django_assert_num_queries(1):
        assert credentials.verify("alice", PASSWORD) == user
    assert hashed == [PASSWORD]


def test_who_was_deleted_is_nobody(user: User) -> None:
    User.objects.update(deleted_at=timezone.now())
    assert credentials.verify("alice", PASSWORD) is None
    assert users.find("alice") is None and users.find(str(user.pk)) is None
