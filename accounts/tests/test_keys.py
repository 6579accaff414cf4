"""Keys: made, recognised, and held to their daily limit, whoever comes at once."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import LazySettings
from django.db import IntegrityError, connection

from accounts import keys
from accounts.models import ApiKey, DailyUsage, Organization, TrailEntry, User

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
    taken = [keys.take(key, TODAY) for _ in range(4)]
    assert [usage.allowed for usage in taken] == [True, True, False, False]
    assert [usage.remaining for usage in taken] == [1, 0, 0, 0]
    assert DailyUsage.objects.get(api_key=key).count == 2
    assert taken[0].resets_at == dt.datetime(2026, 11, 21, tzinfo=dt.UTC)


def test_a_new_day_counts_anew(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=1)
    assert keys.take(key, TODAY).allowed and not keys.take(key, TODAY).allowed
    assert keys.take(key, TODAY + dt.timedelta(days=1)).allowed


def test_a_limit_of_nothing_allows_nothing(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=0)
    assert not keys.take(key, TODAY).allowed


def test_what_was_not_sent_can_be_given_back(user: User) -> None:
    key, _ = keys.create("one", user, daily_limit=1)
    keys.take(key, TODAY)
    keys.give_back(key, TODAY)
    keys.give_back(key, TODAY)
    assert keys.usage(key, TODAY).remaining == 1
    assert keys.take(key, TODAY).allowed


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_exactly_the_limit_is_let_through() -> None:
    user = User.objects.create_user("alice", "alice@example.com")
    key, _ = keys.create("one", user, daily_limit=7)

    def take(_: int) -> bool:
        try:
            return keys.take(key, TODAY).allowed
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(take, range(40)))
    assert sum(allowed) == 7
    assert DailyUsage.objects.get(api_key=key).count == 7
