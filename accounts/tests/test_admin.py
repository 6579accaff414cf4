"""The admin pages of accounts."""

from __future__ import annotations

import datetime as dt
import hmac
import re
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import keys, odmr
from accounts.models import (
    Alias,
    ApiKey,
    DailyUsage,
    Domain,
    OdmrSecret,
    Organization,
    Plan,
    TrailEntry,
    User,
    WebhookEndpoint,
)
from accounts.tests.zone import Zone, serving
from accounts.webhooks import endpoints, signature

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-7"
CHANGELISTS = ["organization", "user", "domain", "alias", "apikey", "dailyusage", "trailentry", "odmrsecret"]


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
        odmr.make(domain, actor="tests")


def _shown_once(answer: Any) -> str:
    """Return the secret that the answer shows; it is kept by no cookie, no session and no cache."""
    found = re.findall(r"<code[^>]*>([^<]+)</code>", answer.content.decode())
    assert answer.status_code == 200 and len(found) == 1
    assert "no-store" in answer["Cache-Control"]
    assert found[0] not in str(answer.cookies) and not list(answer.context["messages"])
    return str(found[0])


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
    answer = browser.post(address, form | {"targets": "a@b.example\r\nc@d.example\r\n"})
    assert "one target only" in answer.content.decode()
    for wrong in ("", "no address", "a@b.example, c@d.example", '["a@b.example"]', "Sales@d0.example"):
        assert browser.post(address, form | {"targets": wrong}).status_code == 200
    assert browser.post(address, form | {"targets": " a@b.example "}).status_code == 302
    alias.refresh_from_db()
    assert (alias.announcement, alias.targets) == ("moved", ["a@b.example"])
    assert "moved" in browser.get(reverse("admin:accounts_alias_changelist"), {"announcement": "moved"}).text


def test_a_mailbox_gets_no_alias(browser: Client) -> None:
    _rows(0, 1)
    domain = Domain.objects.get()
    User.objects.create_user("info", f"info@{domain.name}")
    form = {"domain": domain.pk, "local_part": "info", "announcement": "silent", "targets": "a@b.example"}
    address = reverse("admin:accounts_alias_add")
    assert "can have no +" in browser.post(address, form | {"local_part": "in+fo"}).content.decode()
    assert "A mailbox has this address." in browser.post(address, form | {"is_active": "on"}).content.decode()
    assert browser.post(address, form).status_code == 302


def test_a_domain_can_be_made_to_only_send(browser: Client) -> None:
    _rows(0, 1)
    domain = Domain.objects.get()
    address = reverse("admin:accounts_domain_change", args=[domain.pk])
    form = {
        "name": domain.name, "organization": domain.organization_id, "is_trusted": "on", "is_active": "on",
        "delivery": "local",
    }  # fmt: skip
    assert browser.post(address, form).status_code == 302
    domain.refresh_from_db()
    assert (domain.is_usable, domain.takes_mail) == (True, False)
    assert domain.name in browser.get(reverse("admin:accounts_domain_changelist"), {"accepts_mail": "0"}).text


def test_a_key_is_shown_once_after_it_is_made_and_then_works(browser: Client, staff: User) -> None:
    form = {"name": "Shop", "user": staff.pk, "daily_limit": 25, "scopes": ["send"]}
    text = _shown_once(browser.post(reverse("admin:accounts_apikey_add"), form))
    made = keys.authenticate(text)
    assert made is not None
    assert (made.name, made.user, made.daily_limit) == ("Shop", staff, 25)
    again = browser.get(reverse("admin:accounts_apikey_change", args=[made.pk])).content.decode()
    assert text not in again
    assert made.key_hash not in again
    assert TrailEntry.objects.get(kind="api_key.created").actor == "root"


def test_a_webhooks_secret_is_shown_once_after_it_is_made_and_after_it_is_replaced(browser: Client) -> None:
    form = {"url": "https://hooks.example/a", "events": ["auth.failed"], "is_active": "on"}
    secret = _shown_once(browser.post(reverse("admin:accounts_webhookendpoint_add"), form))
    endpoint = WebhookEndpoint.objects.get()
    assert [signature.spoken(kept) for kept in endpoints.secrets_of(endpoint, timezone.now())] == [secret]
    address = reverse("admin:accounts_webhookendpoint_changelist")
    chosen = {"action": "rotate", "_selected_action": [str(endpoint.pk)]}
    assert "Make a new secret for 1 endpoint?" in browser.post(address, chosen).content.decode()
    fresh = _shown_once(browser.post(address, {**chosen, "confirmed": "yes"}))
    endpoint.refresh_from_db()
    assert [signature.spoken(kept) for kept in endpoints.secrets_of(endpoint, timezone.now())] == [fresh, secret]
    assert not browser.session.get("_messages")
    for page in (address, reverse("admin:accounts_webhookendpoint_change", args=[endpoint.pk])):
        assert fresh not in browser.get(page).content.decode()


def test_an_odmr_secret_is_asked_for_shown_once_and_works(browser: Client) -> None:
    domain = Domain.objects.create(
        name="d.example", organization=Organization.objects.create(name="o"), is_trusted=True, delivery="dial_up"
    )
    address = reverse("admin:accounts_domain_changelist")
    asked = {"action": "new_odmr_secret", "_selected_action": [domain.pk]}
    assert "Make a new ODMR secret for 1 domain?" in browser.post(address, asked).content.decode()
    assert not OdmrSecret.objects.exists()
    answer = browser.post(address, {**asked, "confirmed": "yes"})
    found = re.search(r"<code>([0-9a-f]{40})</code>", answer.content.decode())
    assert found is not None and "no-store" in answer["Cache-Control"]
    digest = hmac.digest(found[1].encode(), b"<1@x>", "md5").hex()
    assert odmr.verify("d.example", b"<1@x>", digest) == domain
    secret = OdmrSecret.objects.get()
    for shown in (address, reverse("admin:accounts_odmrsecret_change", args=[secret.pk])):
        page = browser.get(shown).content.decode()
        assert found[1] not in page and secret.sealed not in page
    assert "which opens nothing from then on" in browser.post(address, asked).content.decode()
    trail = TrailEntry.objects.get(kind="odmr_secret.created")
    assert (trail.actor, trail.subject) == ("root", "d.example")
    assert found[1] not in trail.detail


def test_deleting_an_odmr_secret_revokes_it_and_leaves_a_trail(browser: Client) -> None:
    domain = Domain.objects.create(name="d.example", organization=Organization.objects.create(name="o"))
    odmr.make(domain, actor="tests")
    page = reverse("admin:accounts_odmrsecret_delete", args=[OdmrSecret.objects.get().pk])
    assert browser.post(page, {"post": "yes"}).status_code == 302
    assert not OdmrSecret.objects.exists()
    assert TrailEntry.objects.get(kind="odmr_secret.revoked").actor == "root"


def test_who_may_only_look_at_domains_makes_no_secret(client: Client) -> None:
    helper = User.objects.create_user("helper", "helper@example.com", PASSWORD, is_staff=True)
    helper.user_permissions.add(Permission.objects.get(codename="view_domain"))
    client.force_login(helper)
    domain = Domain.objects.create(name="d.example", organization=Organization.objects.create(name="o"))
    asked = {"action": "new_odmr_secret", "_selected_action": [domain.pk], "confirmed": "yes"}
    client.post(reverse("admin:accounts_domain_changelist"), asked)
    assert not OdmrSecret.objects.exists()


def test_a_domain_stays_with_its_organization(browser: Client) -> None:
    _rows(0, 2)
    domain, other = Domain.objects.get(name="d0.example"), Organization.objects.get(name="Tenant 1")
    address = reverse("admin:accounts_domain_change", args=[domain.pk])
    page = browser.get(address).content.decode()
    assert 'name="organization"' not in page and "To give a domain to another organization" in page
    form = {"organization": other.pk, "is_active": "on", "delivery": "local"}
    assert browser.post(address, form).status_code == 302
    domain.refresh_from_db()
    assert domain.organization != other


def test_a_plan_and_the_addresses_of_others_hold_for_a_domain_made_here(browser: Client) -> None:
    _rows(0, 1)
    Plan.objects.create(name="Small", max_domains=1, is_default=True)
    full, fresh = Organization.objects.get(), Organization.objects.create(name="Fresh")
    address, form = reverse("admin:accounts_domain_add"), {"name": "new.example", "delivery": "local"}
    answer = browser.post(address, {**form, "organization": full.pk})
    words = "The plan Small allows 1 domains; for more, choose another plan."
    assert answer.context["errors"] == [[words]]
    answer = browser.post(address, {**form, "organization": fresh.pk, "name": "EXAMPLE.com."})
    assert "Addresses in this domain belong to accounts outside" in answer.content.decode()
    assert browser.post(address, {**form, "organization": fresh.pk}).status_code == 302
    assert Domain.objects.get(name="new.example").organization == fresh


def test_a_domains_host_for_etrn_is_checked(browser: Client) -> None:
    organization = Organization.objects.create(name="o")
    form = {"name": "d.example", "organization": organization.pk, "status": "pending", "delivery": "dial_up"}
    wrong = browser.post(reverse("admin:accounts_domain_add"), {**form, "next_hop": "host:70000"})
    assert "Not host or host:port: the port is not a number from 1 to 65535." in wrong.content.decode()
    right = browser.post(reverse("admin:accounts_domain_add"), {**form, "next_hop": "mail.d.example:2525"})
    assert right.status_code == 302 and Domain.objects.get().is_dial_up


def test_a_test_key_begins_as_one(browser: Client, staff: User) -> None:
    form = {"name": "T", "user": staff.pk, "daily_limit": 1, "is_test": "on", "scopes": ["send"]}
    browser.post(reverse("admin:accounts_apikey_add"), form)
    assert ApiKey.objects.get().prefix.startswith("sk_test_")


def test_a_keys_end_is_in_the_future_when_it_is_set(browser: Client, staff: User) -> None:
    form = {"name": "k", "user": staff.pk, "daily_limit": 3, "scopes": ["send"]}
    past = {"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}
    answer = browser.post(reverse("admin:accounts_apikey_add"), form | past)
    assert "It must be in the future." in answer.content.decode() and not ApiKey.objects.exists()
    key, _ = keys.create("k", staff, daily_limit=3, expires_at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    address = reverse("admin:accounts_apikey_change", args=[key.pk])
    assert browser.post(address, form | past | {"daily_limit": 4}).status_code == 302
    assert browser.post(address, form | past | {"expires_at_0": "2020-01-02"}).status_code == 200


def test_a_key_can_be_switched_off(browser: Client, staff: User) -> None:
    key, text = keys.create("k", staff, daily_limit=3)
    address = reverse("admin:accounts_apikey_change", args=[key.pk])
    form = {"name": "k", "user": staff.pk, "daily_limit": 3, "scopes": ["read"]}
    assert browser.post(address, form).status_code == 302
    assert keys.authenticate(text) is None
    browser.post(address, form | {"is_active": "on"})
    assert keys.authenticate(text) == key


def test_a_keys_senders_are_given_one_a_line_and_checked(browser: Client, staff: User) -> None:
    key, _ = keys.create("k", staff, daily_limit=3)
    address = reverse("admin:accounts_apikey_change", args=[key.pk])
    form = {"name": "k", "user": staff.pk, "daily_limit": 3, "scopes": ["send", "read"], "is_active": "on"}
    answer = browser.post(address, form | {"allowed_domains": "no domain!"})
    assert "Not valid" in answer.content.decode()
    lines = {"allowed_domains": "Example.com\n\nb.example", "allowed_addresses": "Shop@C.example"}
    assert browser.post(address, form | lines).status_code == 302
    key.refresh_from_db()
    assert (key.allowed_domains, key.allowed_addresses) == (["example.com", "b.example"], ["shop@c.example"])
    assert "b.example</textarea>" in browser.get(address).content.decode()


def test_keys_are_rotated_and_revoked_after_a_question_that_tells_the_count(browser: Client, staff: User) -> None:
    key, text = keys.create("k", staff, daily_limit=3)
    address = reverse("admin:accounts_apikey_changelist")
    form = {"action": "rotate", "_selected_action": [str(key.pk)]}
    assert "Give 1 key a new text?" in browser.post(address, form).content.decode()
    fresh = _shown_once(browser.post(address, form | {"confirmed": "yes"}))
    assert keys.authenticate(fresh) == key and keys.authenticate(text) == key
    form["action"] = "revoke"
    assert "Revoke 1 key?" in browser.post(address, form).content.decode()
    assert keys.authenticate(fresh) == key
    browser.post(address, form | {"confirmed": "yes"})
    assert keys.authenticate(fresh) is None and keys.authenticate(text) is None
    assert "there is nothing to do" in browser.post(address, form).content.decode()
    assert browser.post(reverse("admin:accounts_apikey_delete", args=[key.pk]), {"post": "yes"}).status_code == 403


def test_a_domains_page_has_its_records_and_a_button_that_looks_them_up(
    browser: Client, settings: LazySettings
) -> None:
    _rows(0, 1)
    domain = Domain.objects.get()
    address = reverse("admin:accounts_domain_change", args=[domain.pk])
    page = browser.get(address).content.decode()
    assert f"mailproj-verification={domain.verification_token}" in page and "not looked up yet" in page
    verify = reverse("admin:accounts_domain_verify", args=[domain.pk])
    assert verify in page and browser.get(verify).status_code == 405
    with serving(Zone()) as zone:
        settings.DNS_SERVERS = [zone.address]
        page = browser.post(verify, follow=True).content.decode()
    assert "was looked up: failed" in page and "There is no such record" in page
    assert (
        'dark:text-red-400">missing<' in page
        and "It is trusted" not in page
        and "save first what you have changed" in page
    )


def test_a_trusted_domain_is_said_to_work_without_its_records(browser: Client) -> None:
    _rows(0, 1)
    results = [{"purpose": "mx", "name": "d0.example", "status": "missing", "message": "None.", "found": []}]
    Domain.objects.update(is_trusted=True, status=Domain.Status.FAILED, check_results=results)
    address = reverse("admin:accounts_domain_change", args=[Domain.objects.get().pk])
    page = browser.get(address).content.decode()
    assert "Failed. It is trusted: it works without DNS records." in page
    assert 'font-semibold text-subtle">missing<' in page
    assert "Trusted, needs no DNS" in browser.get(reverse("admin:accounts_domain_changelist")).content.decode()


def test_a_domain_is_given_up_by_itself_and_only_without_mailboxes(browser: Client) -> None:
    _rows(0, 2)
    domain = Domain.objects.get(name="d0.example")
    mailbox = User.objects.create_user("x", "x@d0.example", organization=domain.organization)
    address = reverse("admin:accounts_domain_delete", args=[domain.pk])
    assert browser.post(address, {"post": "yes"}).status_code == 403
    mailbox.delete()
    assert browser.post(address, {"post": "yes"}).status_code == 302
    assert list(Domain.objects.values_list("name", flat=True)) == ["d1.example"]
    assert TrailEntry.objects.get(kind="domain.deleted").actor == "root"


def test_a_deleted_account_is_not_shown(browser: Client) -> None:
    User.objects.create_user("gone", "gone@example.com", PASSWORD, deleted_at=timezone.now())
    assert "gone@example.com" not in browser.get(reverse("admin:accounts_user_changelist")).content.decode()


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
