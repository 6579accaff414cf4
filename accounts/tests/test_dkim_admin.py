"""DKIM keys in the admin: made with their domain, shown with their records, rotated and retired after a question."""

from __future__ import annotations

import base64

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import escape

from accounts import dkim
from accounts.models import DkimKey, Domain, Organization, TrailEntry, User
from accounts.sealed import open_sealed

pytestmark = pytest.mark.django_db


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "correct-horse-7"))
    return client


@pytest.fixture
def domain() -> Domain:
    organization = Organization.objects.create(name="Example")
    return Domain.objects.create(name="example.com", organization=organization, is_trusted=True)


def act(browser: Client, model: str, action: str, *pks: int, confirmed: bool) -> str:
    form = {"action": action, "_selected_action": [str(pk) for pk in pks]}
    answer = browser.post(
        reverse(f"admin:accounts_{model}_changelist"), form | ({"confirmed": "yes"} if confirmed else {}), follow=True
    )
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_domain_that_is_made_in_the_admin_has_keys_at_once(browser: Client) -> None:
    organization = Organization.objects.create(name="Example")
    form = {
        "name": "New.Example.org", "organization": organization.pk, "status": "pending", "is_active": "on",
        "accepts_mail": "on", "delivery": "local",
    }  # fmt: skip
    page = browser.post(reverse("admin:accounts_domain_add"), form, follow=True).content.decode()
    keys = DkimKey.objects.filter(domain__name="new.example.org", state="active")
    assert keys.count() == 2
    assert "Publish the records of 2 DKIM keys" in page
    assert TrailEntry.objects.get(kind="dkim_key.created").actor == "root"
    for key in keys:
        open_sealed(key.sealed_private_key, f"dkim:new.example.org:{key.selector}")


def test_the_name_of_a_domain_cannot_be_changed(browser: Client, domain: Domain) -> None:
    dkim.ensure_keys(domain)
    form = {
        "name": "other.example", "organization": domain.organization_id, "status": "pending", "is_active": "on",
        "delivery": "local",
    }  # fmt: skip
    browser.post(reverse("admin:accounts_domain_change", args=[domain.pk]), form)
    domain.refresh_from_db()
    assert (domain.name, domain.accepts_mail) == ("example.com", False)
    assert DkimKey.objects.count() == 2


def test_a_key_is_shown_with_its_record_and_never_its_private_part(browser: Client, domain: Domain) -> None:
    for key in dkim.ensure_keys(domain):
        octets = open_sealed(key.sealed_private_key, key.place)
        record = dkim.record_of(key)
        pages = [
            browser.get(reverse("admin:accounts_dkimkey_change", args=[key.pk])).content.decode(),
            browser.get(reverse("admin:accounts_dkimkey_changelist")).content.decode(),
            browser.get(reverse("admin:accounts_domain_change", args=[domain.pk])).content.decode(),
        ]
        assert record.name in pages[0] and escape(record.value) in pages[0] and escape(record.zone_line) in pages[0]
        assert "&#x27;active&#x27;" not in pages[0] and ">Active<" in pages[0].replace("\n", "").replace(" ", "")
        for page in pages:
            assert key.selector in page
            assert key.sealed_private_key not in page
            assert base64.b64encode(octets).decode()[-40:] not in page


def test_a_rotation_asks_first_and_tells_the_count(browser: Client, domain: Domain) -> None:
    old = {key.selector for key in dkim.ensure_keys(domain)}
    question = act(browser, "domain", "rotate_keys", domain.pk, confirmed=False)
    assert "Rotate the DKIM keys of 1 domain?" in question and "example.com" in question
    assert {key.selector for key in DkimKey.objects.filter(state="active")} == old
    page = act(browser, "domain", "rotate_keys", domain.pk, confirmed=True)
    assert "Publish the records of 2 DKIM keys" in page
    assert {key.selector for key in DkimKey.objects.filter(state="retired")} == old


def test_keys_are_prepared_and_missing_ones_made_by_actions(browser: Client, domain: Domain) -> None:
    assert "that 1 domain lacks" in act(browser, "domain", "make_keys", domain.pk, confirmed=False)
    act(browser, "domain", "make_keys", domain.pk, confirmed=True)
    assert "Nothing was missing" in act(browser, "domain", "make_keys", domain.pk, confirmed=True)
    act(browser, "domain", "prepare_keys", domain.pk, confirmed=True)
    states = DkimKey.objects.order_by("state").values_list("state", flat=True)
    assert list(states) == ["active", "active", "prepared", "prepared"]


def test_a_key_is_retired_after_a_question(browser: Client, domain: Domain) -> None:
    key, _ = dkim.ensure_keys(domain)
    assert "Retire 1 DKIM key?" in act(browser, "dkimkey", "retire", key.pk, confirmed=False)
    act(browser, "dkimkey", "retire", key.pk, confirmed=True)
    assert DkimKey.objects.get(pk=key.pk).state == "retired"
    assert "None of what was chosen" in act(browser, "dkimkey", "retire", key.pk, confirmed=False)


def test_keys_are_neither_added_nor_edited_nor_deleted_by_a_form(browser: Client, domain: Domain) -> None:
    key, _ = dkim.ensure_keys(domain)
    assert browser.get(reverse("admin:accounts_dkimkey_add")).status_code == 403
    assert browser.post(reverse("admin:accounts_dkimkey_delete", args=[key.pk]), {"post": "yes"}).status_code == 403
    assert browser.post(reverse("admin:accounts_dkimkey_change", args=[key.pk]), {"selector": "x"}).status_code == 403


def test_acting_on_keys_needs_the_permission_to_change_them(client: Client, domain: Domain) -> None:
    clerk = User.objects.create_user("clerk", "clerk@example.com", "correct-horse-7", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["change_domain", "view_domain"]))
    client.force_login(clerk)
    act(client, "domain", "make_keys", domain.pk, confirmed=True)
    assert not DkimKey.objects.exists()


def test_a_list_of_many_keys_needs_no_more_queries_than_a_list_of_one(browser: Client, domain: Domain) -> None:
    def rows(start: int, stop: int) -> None:
        for number in range(start, stop):
            DkimKey.objects.create(
                domain=domain, selector=f"s{number}", algorithm="rsa-sha256", state="retired", public_key="A"
            )

    address = reverse("admin:accounts_dkimkey_changelist")
    rows(0, 1)
    browser.get(address)
    with CaptureQueriesContext(connection) as one:
        browser.get(address)
    rows(1, 30)
    with CaptureQueriesContext(connection) as thirty:
        assert "s29" in browser.get(address, {"q": "example.com"}).content.decode()
    assert len(thirty) == len(one)
