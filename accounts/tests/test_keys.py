"""Keys: made, recognised, and held to their daily limit, whoever comes at once."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey, DailyUsage, Organization, Scope, TrailEntry, User
from accounts.names import parse_address

TODAY = dt.date(2026, 11, 20)
PUBLISHED = "sk_test_default_key_123"


@pytest.fixture
def user(db: None) -> User:
    organization = Organization.objects.create(name="Acme")
    return User.objects.create_user("alice", "alice@example.com", organization=organization)


def test_a_key_is_found_again_by_its_text(user: User) -> None:
    key, text = keys.create("one", user, daily_limit=5)
    found = keys.authenticate(text)
    assert text.startswith("sk_live_")
    assert found == key and key.user == user


def test_a_test_key_says_so(user: User) -> None:
    assert keys.create("one", user, daily_limit=5, test=True)[1].startswith("sk_test_")


def test_the_text_is_kept_nowhere(user: User) -> None:
    key, text = keys.create("one", user, daily_limit=5)
    stored = " ".join(str(value) for value in ApiKey.objects.filter(pk=key.pk).values_list()[0])
    assert text not in stored and text[keys.PREFIX_LENGTH :] not in stored


def test_a_key_may_have_a_published_text(user: User) -> None:
    key, text = keys.create("demo", user, daily_limit=10_000, text=PUBLISHED)
    assert text == PUBLISHED and keys.authenticate(PUBLISHED) == key
    with pytest.raises(IntegrityError):
        keys.create("again", user, daily_limit=1, text=PUBLISHED)


@pytest.mark.parametrize("text", ["x", "secret", "sk_live_short", "sk_prod_" + "a" * 40, "sk_live_" + "ä" * 40])
def test_no_key_is_made_with_a_text_that_is_none(user: User, text: str) -> None:
    with pytest.raises(ValueError, match="sk_live_"):
        keys.create("one", user, daily_limit=1, text=text)


def test_a_key_with_a_wrong_end_is_not_recognised(user: User) -> None:
    _, text = keys.create("one", user, daily_limit=5)
    changed = text[:-1] + ("0" if text[-1] != "0" else "1")
    assert keys.authenticate(changed) is None
    assert keys.authenticate(text[: keys.PREFIX_LENGTH]) is None
    assert keys.authenticate(text + "\0") is None
    assert keys.authenticate("") is None


def test_a_key_that_is_off_or_whose_user_is_off_is_not_recognised(user: User) -> None:
    key, text = keys.create("one", user, daily_limit=5)
    ApiKey.objects.filter(pk=key.pk).update(is_active=False)
    assert keys.authenticate(text) is None
    ApiKey.objects.filter(pk=key.pk).update(is_active=True)
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert keys.authenticate(text) is None


def test_a_key_whose_organization_is_off_is_not_recognised(user: User) -> None:
    _, text = keys.create("one", user, daily_limit=5)
    User.objects.filter(pk=user.pk).update(organization=Organization.objects.create(name="Off", is_active=False))
    assert keys.authenticate(text) is None
    Organization.objects.update(is_active=True)
    assert keys.authenticate(text) is not None


def test_keys_survive_a_change_of_the_secret_key(user: User, settings: LazySettings) -> None:
    key, text = keys.create("one", user, daily_limit=5)
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another" * 10
    assert keys.authenticate(text) == key
    settings.SECRET_KEY_FALLBACKS = []
    assert keys.authenticate(text) is None


def test_making_a_key_leaves_a_trail(user: User) -> None:
    keys.create("one", user, daily_limit=5, actor="root")
    entry = TrailEntry.objects.get(kind="api_key.created")
    assert entry.actor == "root" and "one" in entry.subject


def test_messages_are_counted_up_to_the_limit_and_no_further(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=2)
    charge = keys.charge_of(key, TODAY)
    assert [keys.take(charge) for _ in range(4)] == [(1, 1), (1, 2), (0, 2), (0, 2)]
    assert DailyUsage.objects.get(api_key=key).count == 2
    usage = charge.usage(1, allowed=True)
    assert (usage.remaining, usage.resets_at) == (1, dt.datetime(2026, 11, 21, tzinfo=dt.UTC))


def test_of_many_messages_those_that_the_limit_leaves_are_allowed(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=10)
    charge = keys.charge_of(key, TODAY)
    assert keys.take(charge, 7) == (7, 7)
    assert keys.take(charge, 7) == (3, 10)
    assert keys.take(charge, 7) == (0, 10)
    assert keys.take(keys.charge_of(key, TODAY + dt.timedelta(days=1)), 12) == (10, 10)


def test_a_limit_that_was_lowered_below_the_count_allows_nothing(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=5)
    keys.take(keys.charge_of(key, TODAY), 5)
    key.daily_limit = 3
    assert keys.take(keys.charge_of(key, TODAY)) == (0, 5)
    assert keys.usage(key, TODAY).remaining == 0


def test_a_new_day_counts_anew(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=1)
    assert keys.take(keys.charge_of(key, TODAY))[0] and not keys.take(keys.charge_of(key, TODAY))[0]
    assert keys.take(keys.charge_of(key, TODAY + dt.timedelta(days=1)))[0]


def test_a_limit_of_nothing_allows_nothing(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=0)
    assert keys.take(keys.charge_of(key, TODAY)) == (0, 0)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("number", [1, 3])
def test_of_many_at_once_exactly_the_limit_is_let_through(number: int) -> None:
    user = User.objects.create_user("alice", "alice@example.com")
    charge = keys.charge_of(keys.create("one", user, daily_limit=7)[0], TODAY)

    def take(_: int) -> int:
        try:
            with transaction.atomic():
                return keys.take(charge, number)[0]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(take, range(40)))
    assert sum(allowed) == 7
    assert DailyUsage.objects.get(api_key=charge.api_key_id).count == 7


# --- scopes, senders, expiry, use ---


def good(text: str) -> bool:
    return keys.authenticate(text) is not None


def test_a_key_may_send_and_read_unless_it_is_told_otherwise(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=5)
    assert [keys.has_scope(key, scope) for scope in Scope] == [True, True, False]
    key.scopes = ["admin"]
    assert all(keys.has_scope(key, scope) for scope in Scope)
    key.scopes = ["read"]
    assert [keys.has_scope(key, scope) for scope in Scope] == [False, True, False]


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("any@shop.example", True),
        ("any@sub.shop.example", False),
        ("jane@other.example", True),
        ("Jane+news@OTHER.example", True),
        ("john@other.example", False),
    ],
)
def test_a_key_sends_from_its_domains_and_addresses_alone(user: User, address: str, allowed: bool) -> None:
    addresses = keys.kept_addresses(["Jane@Other.example", "jane@other.example"])
    key, _ = keys.create("one", user, daily_limit=5, allowed_domains=["shop.example"], allowed_addresses=addresses)
    assert len(key.allowed_addresses) == 1
    assert keys.may_send_from(key, parse_address(address)) is allowed
    key.allowed_domains, key.allowed_addresses = [], []
    assert keys.may_send_from(key, parse_address(address))


def test_a_key_ends_when_its_time_is_over(user: User) -> None:
    hour = dt.timedelta(hours=1)
    _, text = keys.create("one", user, daily_limit=5, expires_at=timezone.now() + hour)
    assert good(text)
    ApiKey.objects.update(expires_at=timezone.now() - hour)
    assert not good(text)


def test_the_last_use_is_written_once_a_minute(user: User, django_assert_num_queries: Callable[..., Any]) -> None:
    key, text = keys.create("one", user, daily_limit=5)
    now = timezone.now()
    keys.note_use(key, now)
    found = keys.authenticate(text)
    assert found is not None and found.last_used_at == now
    with django_assert_num_queries(0):
        keys.note_use(found, now + dt.timedelta(seconds=59))
    keys.note_use(found, now + dt.timedelta(seconds=61))
    found.refresh_from_db()
    assert found.last_used_at == now + dt.timedelta(seconds=61)


# --- rotation and revocation ---


def test_a_rotated_key_works_under_both_texts_for_a_while(user: User) -> None:
    key, old = keys.create("one", user, daily_limit=5, test=True)
    keys.take(keys.charge_of(key, TODAY))
    new = keys.rotate(key, overlap=dt.timedelta(hours=1), actor="root")
    assert new.startswith("sk_test_") and new != old
    assert keys.authenticate(old) == key == keys.authenticate(new)
    assert keys.usage(key, TODAY).count == 1  # the same key, so the same count
    ApiKey.objects.update(previous_expires_at=timezone.now())
    assert not good(old) and good(new)
    assert TrailEntry.objects.get(kind="api_key.rotated").actor == "root"


def test_without_an_overlap_the_old_text_ends_at_once(user: User) -> None:
    key, old = keys.create("one", user, daily_limit=5)
    new = keys.rotate(key, overlap=dt.timedelta())
    assert not good(old) and good(new)


def test_of_two_rotations_the_last_text_before_works(user: User) -> None:
    key, first = keys.create("one", user, daily_limit=5)
    second = keys.rotate(key, overlap=dt.timedelta(hours=1))
    third = keys.rotate(key, overlap=dt.timedelta(hours=1))
    assert (good(first), good(second), good(third)) == (False, True, True)


def test_a_revoked_key_opens_nothing_under_any_text_and_never_again(user: User) -> None:
    key, old = keys.create("one", user, daily_limit=5)
    new = keys.rotate(key, overlap=dt.timedelta(hours=1))
    assert keys.revoke(key, actor="root") and not keys.revoke(key)
    assert not good(old) and not good(new)
    with pytest.raises(ValueError, match="revoked"):
        keys.rotate(key, overlap=dt.timedelta())
    with pytest.raises(ValueError, match="revoked"):
        keys.change(key, {"is_active": True})
    assert list(TrailEntry.objects.values_list("kind", flat=True)).count("api_key.revoked") == 1


@pytest.mark.django_db(transaction=True)
def test_a_revocation_is_in_force_at_once_in_another_process(tmp_path: Path) -> None:
    """Nothing remembers a key: a process that has just let one in refuses it as soon as the row says so."""
    alice = User.objects.create_user("alice", "alice@example.com")
    key, text = keys.create("one", alice, daily_limit=5)
    code = (
        "import sys, mailproj, django; django.setup(); from accounts import keys\n"
        "for line in sys.stdin: print(keys.authenticate(line.strip()) is not None, flush=True)"
    )
    variables = {**os.environ, "DATABASE_URL": _url_of_the_test_database(), "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        print(text, file=other.stdin, flush=True)
        assert other.stdout.readline() == "True\n"
        keys.revoke(key)
        print(text, file=other.stdin, flush=True)
        assert other.stdout.readline() == "False\n"
        other.stdin.close()


def _url_of_the_test_database() -> str:
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return os.environ["TEST_DATABASE_URL"].replace("/postgres?", f"/{name}?")
