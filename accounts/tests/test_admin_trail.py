"""What is changed in the admin leaves the lines in the trail that the API leaves, with who and from where."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts import dkim, keys, odmr
from accounts.models import Alias, ApiKey, DkimKey, Domain, Organization, TrailEntry, User, WebhookEndpoint

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-7"
CLIENT = "192.0.2.7"


@pytest.fixture
def browser() -> Client:
    browser = Client(REMOTE_ADDR=CLIENT)
    browser.force_login(User.objects.create_superuser("root", "root@example.com", PASSWORD))
    return browser


@pytest.fixture
def acme() -> Organization:
    return Organization.objects.create(name="Acme")


def _post(browser: Client, page: str, form: dict[str, Any], *arguments: object) -> None:
    answer = browser.post(reverse(f"admin:{page}", args=arguments), form)
    assert answer.status_code in (200, 302), answer.status_code
    assert answer.status_code == 302 or "errors" not in (answer.context or {}), answer.context["errors"]


def _trail(prefix: str) -> list[tuple[str, str, str]]:
    lines = TrailEntry.objects.filter(kind__startswith=f"{prefix}.").order_by("pk")
    assert {(line.actor, line.client_address) for line in lines} <= {("root", CLIENT)}
    return [(line.kind.partition(".")[2], line.subject, line.detail) for line in lines]


def test_organizations(browser: Client) -> None:
    _post(browser, "accounts_organization_add", {"name": "Acme", "is_active": "on"})
    acme = Organization.objects.get()
    _post(browser, "accounts_organization_change", {"name": "Acme", "is_active": "on"}, acme.pk)
    _post(browser, "accounts_organization_change", {"name": "Acme Inc."}, acme.pk)
    _post(browser, "accounts_organization_delete", {"post": "yes"}, acme.pk)
    assert _trail("organization") == [
        ("created", "Acme", ""), ("changed", "Acme Inc.", "Changed: name, is_active."), ("deleted", "Acme Inc.", ""),
    ]  # fmt: skip


def test_users(browser: Client, acme: Organization) -> None:
    form = {"username": "jane", "email": "jane@a.example", "organization": acme.pk, "quota_mb": 10}
    passwords = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    _post(browser, "accounts_user_add", form | passwords)
    jane = User.objects.get(username="jane")
    _post(browser, "accounts_user_change", {**form, "quota_mb": 11, "is_staff": "on"}, jane.pk)
    fresh = passwords | {"password1": "another-horse-8", "password2": "another-horse-8"}
    _post(browser, "auth_user_password_change", fresh, jane.pk)
    wrong = browser.post(reverse("admin:auth_user_password_change", args=[jane.pk]), {**fresh, "password2": "other"})
    assert wrong.status_code == 200
    assert _trail("user") == [
        ("created", "jane", "jane@a.example, of Acme."),
        ("changed", "jane", "Changed: is_active, quota_mb, is_staff."),
        ("password_changed", "jane", "Changed: password."),
    ]
    assert "another-horse" not in str(TrailEntry.objects.values_list("detail"))


def test_domains(browser: Client, acme: Organization) -> None:
    form = {"name": "a.example", "organization": acme.pk, "is_active": "on", "delivery": "local"}
    _post(browser, "accounts_domain_add", form)
    domain = Domain.objects.get()
    _post(browser, "accounts_domain_change", {**form, "is_trusted": "on", "delivery": "dial_up"}, domain.pk)
    _post(browser, "accounts_domain_delete", {"post": "yes"}, domain.pk)
    assert _trail("domain") == [
        ("created", "a.example", "For the organization Acme."),
        ("changed", "a.example", "is_trusted is on now, delivery is dial_up now."),
        ("deleted", "a.example", "With 0 aliases."),
    ]


def test_aliases(browser: Client, acme: Organization) -> None:
    domain = Domain.objects.create(name="a.example", organization=acme)
    form = {"domain": domain.pk, "local_part": "sales", "announcement": "silent", "targets": "jane@a.example"}
    _post(browser, "accounts_alias_add", form | {"is_active": "on"})
    _post(browser, "accounts_alias_change", form, Alias.objects.get().pk)
    Alias.objects.create(domain=domain, local_part="info", targets=["jane@a.example"])
    chosen = {"action": "delete_selected", "_selected_action": [alias.pk for alias in Alias.objects.all()]}
    _post(browser, "accounts_alias_changelist", {**chosen, "post": "yes"})
    assert not Alias.objects.exists()
    assert _trail("alias") == [
        ("created", "sales@a.example", "To jane@a.example, on, silent."),
        ("changed", "sales@a.example", "To jane@a.example, off, silent."),
        ("deleted", "info@a.example", "To jane@a.example, on, silent."),
        ("deleted", "sales@a.example", "To jane@a.example, off, silent."),
    ]


def test_keys(browser: Client) -> None:
    key, _ = keys.create("k", User.objects.get(), daily_limit=3)
    form = {"name": "k", "user": key.user_id, "daily_limit": 4, "scopes": key.scopes}
    TrailEntry.objects.all().delete()
    _post(browser, "accounts_apikey_change", form, key.pk)
    assert _trail("api_key") == [("changed", str(key), "Changed: daily_limit, is_active.")]
    changed = ApiKey.objects.get()
    assert (changed.daily_limit, changed.is_active) == (4, False)


def test_what_is_done_with_keys_of_a_domain_and_webhooks_has_the_clients_address(
    browser: Client, acme: Organization
) -> None:
    domain = Domain.objects.create(name="a.example", organization=acme)
    done = {"_selected_action": [domain.pk], "confirmed": "yes"}
    for action in ("make_keys", "prepare_keys", "rotate_keys", "new_odmr_secret"):
        _post(browser, "accounts_domain_changelist", {**done, "action": action})
    signing = list(DkimKey.objects.filter(state=DkimKey.State.ACTIVE).values_list("pk", flat=True))
    retire = {"action": "retire", "_selected_action": signing, "confirmed": "yes"}
    _post(browser, "accounts_dkimkey_changelist", retire)
    _post(browser, "accounts_odmrsecret_delete", {"post": "yes"}, domain.odmr_secret.pk)
    assert [act for act, *_ in _trail("dkim_key")] == ["created", "prepared", "rotated", "retired", "retired"]
    assert [act for act, *_ in _trail("odmr_secret")] == ["created", "revoked"]
    hook = {"organization": acme.pk, "url": "https://hooks.example/a", "events": ["auth.failed"]}
    _post(browser, "accounts_webhookendpoint_add", {**hook, "is_active": "on"})
    chosen = {"_selected_action": [str(WebhookEndpoint.objects.get().pk)], "confirmed": "yes"}
    for action in ("rotate", "switch_off"):
        _post(browser, "accounts_webhookendpoint_changelist", {**chosen, "action": action})
    _post(browser, "accounts_webhookendpoint_change", {**hook, "description": "x"}, chosen["_selected_action"][0])
    _post(browser, "accounts_webhookendpoint_delete", {"post": "yes"}, chosen["_selected_action"][0])
    acts = ["created", "secret_rotated", "changed", "changed", "deleted"]
    assert [act for act, *_ in _trail("webhook_endpoint")] == acts


def test_what_the_api_does_for_a_domain_has_the_clients_address_too(acme: Organization) -> None:
    domain = Domain.objects.create(name="a.example", organization=acme)
    dkim.ensure_keys(domain, actor="jane", client=CLIENT)
    odmr.make(domain, actor="jane", client=CLIENT)
    assert set(TrailEntry.objects.values_list("actor", "client_address")) == {("jane", CLIENT)}
