"""The admin pages of accounts."""

from __future__ import annotations

import datetime as dt

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts import keys
from accounts.models import Alias, ApiKey, DailyUsage, Domain, Organization, TrailEntry, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-7"
CHANGELISTS = ["organization", "user", "domain", "alias", "apikey", "dailyusage", "trailentry"]


@pytest.fixture
def staff() -> User:
    return User.objects.create_superuser("root", "root@example.com", PASSWORD)


@pytest.fixture
def browser(staff: User, client: Client) -> Client:
    client.force_login(staff)
    return client


def _rows(start: int, stop: int) -> None:
    for number in range(start, stop):
        organization = Organization.objects.create(name=f"Tenant {number}")
        user = User.objects.create(
            username=f"user{number}", email=f"user{number}@example.com", organization=organization
        )
        domain = Domain.objects.create(name=f"d{number}.example", organization=organization)
        Alias.objects.create(domain=domain, local_part="sales", targets=[user.email])
        key, _ = keys.create(f"key {number}", user, daily_limit=5)
        DailyUsage.objects.create(api_key=key, date=dt.date(2026, 1, 1), count=number)


@pytest.mark.parametrize("model", CHANGELISTS)
def test_a_list_of_thirty_needs_no_more_queries_than_a_list_of_one(browser: Client, model: str) -> None:
    address = reverse(f"admin:accounts_{model}_changelist")
    _rows(0, 1)
    browser.get(address)
    with CaptureQueriesContext(connection) as one:
        assert browser.get(address).status_code == 200
    _rows(1, 30)
    with CaptureQueriesContext(connection) as thirty:
        assert browser.get(address).status_code == 200
    assert len(thirty) == len(one)


@pytest.mark.parametrize("model", CHANGELISTS)
def test_every_list_can_be_searched(browser: Client, model: str) -> None:
    _rows(0, 2)
    assert browser.get(reverse(f"admin:accounts_{model}_changelist"), {"q": "user1@example.com"}).status_code == 200


def test_an_alias_is_found_by_its_target(browser: Client) -> None:
    _rows(0, 3)
    page = browser.get(reverse("admin:accounts_alias_changelist"), {"q": "user1@example"}).content.decode()
    assert "sales@d1.example" in page
    assert "sales@d2.example" not in page


def test_an_alias_may_announce_one_target_and_says_so_where_it_has_more(browser: Client) -> None:
    _rows(0, 1)
    alias = Alias.objects.get()
    address = reverse("admin:accounts_alias_change", args=[alias.pk])
    form = {"domain": alias.domain_id, "local_part": "sales", "announcement": "moved", "is_active": "on"}
    answer = browser.post(address, form | {"targets": '["a@b.example", "c@d.example"]'})
    assert "one target only" in answer.content.decode()
    for wrong in ("", "{}", "null", "17"):
        assert browser.post(address, form | {"targets": wrong}).status_code == 200
    assert browser.post(address, form | {"targets": '["a@b.example"]'}).status_code == 302
    alias.refresh_from_db()
    assert (alias.announcement, alias.targets) == ("moved", ["a@b.example"])
    assert "moved" in browser.get(reverse("admin:accounts_alias_changelist"), {"announcement": "moved"}).text


def test_a_domain_can_be_made_to_only_send(browser: Client) -> None:
    _rows(0, 1)
    domain = Domain.objects.get()
    address = reverse("admin:accounts_domain_change", args=[domain.pk])
    form = {"name": domain.name, "organization": domain.organization_id, "status": "verified", "is_active": "on"}
    assert browser.post(address, form).status_code == 302
    domain.refresh_from_db()
    assert (domain.is_usable, domain.takes_mail) == (True, False)
    assert domain.name in browser.get(reverse("admin:accounts_domain_changelist"), {"accepts_mail": "0"}).text


def test_a_key_is_shown_once_after_it_is_made_and_then_works(browser: Client, staff: User) -> None:
    form = {"name": "Shop", "user": staff.pk, "daily_limit": 25}
    page = browser.post(reverse("admin:accounts_apikey_add"), form, follow=True).content.decode()
    text = page.split("The key is <strong>")[1].split("</strong>")[0]
    made = keys.authenticate(text)
    assert made is not None
    assert (made.name, made.user, made.daily_limit) == ("Shop", staff, 25)
    again = browser.get(reverse("admin:accounts_apikey_change", args=[made.pk])).content.decode()
    assert text not in again
    assert made.key_hash not in again
    assert TrailEntry.objects.get(kind="api_key.created").actor == "root"


def test_a_test_key_begins_as_one(browser: Client, staff: User) -> None:
    browser.post(
        reverse("admin:accounts_apikey_add"), {"name": "T", "user": staff.pk, "daily_limit": 1, "is_test": "on"}
    )
    assert ApiKey.objects.get().prefix.startswith("sk_test_")


def test_a_key_can_be_switched_off(browser: Client, staff: User) -> None:
    key, text = keys.create("k", staff, daily_limit=3)
    address = reverse("admin:accounts_apikey_change", args=[key.pk])
    browser.post(address, {"name": "k", "user": staff.pk, "daily_limit": 3})
    assert keys.authenticate(text) is None


def test_a_users_page_shows_neither_the_hash_nor_a_part_of_it(browser: Client) -> None:
    user = User.objects.create_user("jane", "jane@example.com", PASSWORD)
    page = browser.get(reverse("admin:accounts_user_change", args=[user.pk])).content.decode()
    assert "Set; it can be changed, not read." in page
    algorithm, _, rest = user.password.partition("$")
    assert algorithm not in page
    assert rest[:6] not in page


def test_a_user_is_made_and_the_password_can_be_changed(browser: Client) -> None:
    form = {
        "username": "jane", "email": "Jane@Example.com", "quota_mb": 10, "usable_password": "true",
        "password1": PASSWORD, "password2": PASSWORD,
    }  # fmt: skip
    answer = browser.post(reverse("admin:accounts_user_add"), form)
    assert answer.status_code == 302, answer.context["errors"]
    user = User.objects.get(username="jane")
    assert user.email == "jane@example.com"
    assert user.check_password(PASSWORD)
    fresh = "another-horse-8"
    address = reverse("admin:auth_user_password_change", args=[user.pk])
    browser.post(address, {"usable_password": "true", "password1": fresh, "password2": fresh})
    user.refresh_from_db()
    assert user.check_password(fresh)


def test_saving_a_users_page_keeps_the_password(browser: Client) -> None:
    user = User.objects.create_user("jane", "jane@example.com", PASSWORD)
    form = {"username": "jane", "email": "jane@example.com", "quota_mb": 77, "is_active": "on"}
    answer = browser.post(reverse("admin:accounts_user_change", args=[user.pk]), form)
    assert answer.status_code == 302, answer.context["errors"]
    user.refresh_from_db()
    assert user.quota_mb == 77
    assert user.check_password(PASSWORD)


def test_staff_cannot_give_themselves_powers_nor_touch_a_superuser(client: Client, staff: User) -> None:
    clerk = User.objects.create_user("clerk", "clerk@example.com", PASSWORD, is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="accounts"))
    client.force_login(clerk)
    form = {"username": "clerk", "email": "clerk@example.com", "quota_mb": 1, "is_active": "on", "is_superuser": "on"}
    client.post(reverse("admin:accounts_user_change", args=[clerk.pk]), form)
    clerk.refresh_from_db()
    assert clerk.quota_mb == 1
    assert not clerk.is_superuser
    assert client.post(reverse("admin:auth_user_password_change", args=[staff.pk]), {}).status_code == 403


@pytest.mark.parametrize("model", ["dailyusage", "trailentry"])
def test_records_cannot_be_added(browser: Client, model: str) -> None:
    assert browser.get(reverse(f"admin:accounts_{model}_add")).status_code == 403


def test_nobody_without_staff_rights_gets_in(client: Client) -> None:
    client.force_login(User.objects.create_user("jane", "jane@example.com", PASSWORD))
    assert client.get(reverse("admin:accounts_user_changelist")).status_code == 302
