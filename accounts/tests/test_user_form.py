"""The admin's forms of users obey the rules that the API has."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Alias, Domain, Organization, Plan, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-7"
ADD = "admin:accounts_user_add"


@pytest.fixture(autouse=True)
def _browser(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root", "root@example.com", PASSWORD))


@pytest.fixture
def acme() -> Organization:
    acme = Organization.objects.create(name="Acme")
    example = Organization.objects.create(name="Example")
    domain = Domain.objects.create(name="example.com", organization=example, is_trusted=True)
    Alias.objects.create(domain=domain, local_part="noreply", targets=["root@example.com"])
    Domain.objects.create(name="acme.example", organization=acme, is_trusted=True)
    return acme


def _errors(client: Client, address: str, form: dict[str, object]) -> dict[str, list[str]]:
    answer = client.post(address, form)
    found = {} if answer.status_code == 302 else answer.context["adminform"].form.errors
    return {name: list(words) for name, words in found.items()}


def _new(**values: object) -> dict[str, object]:
    common = {"quota_mb": 10, "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}
    return {"username": "bob", "email": "bob@acme.example", **common, **values}


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"email": "bob@example.com"}, "email", "example.com is not a domain of the account's organization."),
        ({"email": "plus+tag@acme.example"}, "email", "neither quotes nor a +"),
        ({"email": "bob@[192.0.2.1]"}, "email", "not an address literal"),
        ({"username": "12345"}, "username", "digits alone"),
        ({"username": "root@example.com"}, "username", "must be the account's own address"),
        ({"username": "Bob@ACME.example"}, "", ""),
        ({"email": "bob@gmail.example"}, "", ""),  # staff may, as in the API
        ({}, "", ""),
    ],
)
def test_an_account_is_made_by_the_rules_of_the_api(
    client: Client, acme: Organization, values: dict[str, object], field: str, words: str
) -> None:
    errors = _errors(client, reverse(ADD), _new(organization=acme.pk, **values))
    assert set(errors) == ({field} if field else set()) and words in str(errors.get(field, ""))
    assert User.objects.filter(organization=acme).exists() is not bool(field)


def test_an_alias_keeps_its_address(client: Client, acme: Organization) -> None:
    taken = _errors(client, reverse(ADD), _new(email="NoReply@example.com"))
    assert taken == {"email": ["An alias has the address NoReply@example.com."]}


def test_without_an_organization_an_account_is_that_of_its_domain(client: Client, acme: Organization) -> None:
    assert _errors(client, reverse(ADD), _new()) == {}
    assert User.objects.get(username="bob").organization == acme


def test_a_plan_holds_for_whoever_makes_an_account(client: Client, acme: Organization) -> None:
    Plan.objects.create(name="Small", max_mailboxes=1, is_default=True)
    assert _errors(client, reverse(ADD), _new()) == {}
    words = "The plan Small allows 1 mailboxes; for more, choose another plan."
    second = _new(username="eve", email="eve@acme.example", organization=acme.pk)
    assert _errors(client, reverse(ADD), second) == {"organization": [words]}
    stranger = User.objects.create_user("eve", "eve@gmail.example", PASSWORD)
    form = {"username": "eve", "email": "eve@gmail.example", "quota_mb": 10, "is_active": "on"}
    page = reverse("admin:accounts_user_change", args=[stranger.pk])
    assert _errors(client, page, {**form, "organization": acme.pk}) == {"organization": [words]}


def test_a_password_that_would_let_nobody_in_is_refused(client: Client, acme: Organization) -> None:
    passwords = {"password1": "x7" * 3000, "password2": "x7" * 3000}
    assert set(_errors(client, reverse(ADD), _new(**passwords))) == {"password1"}
    page = reverse("admin:auth_user_password_change", args=[User.objects.get(username="root").pk])
    answer = client.post(page, {"usable_password": "true", **passwords})
    assert answer.status_code == 200 and "octets." in answer.content.decode()


def test_an_account_is_changed_by_the_rules_of_the_api(client: Client, acme: Organization) -> None:
    bob = User.objects.create_user("bob", "bob@acme.example", PASSWORD, organization=acme)
    page = reverse("admin:accounts_user_change", args=[bob.pk])
    form: dict[str, object] = {
        "username": "bob", "email": "bob@acme.example", "organization": acme.pk, "quota_mb": 10, "is_active": "on",
    }  # fmt: skip
    assert set(_errors(client, page, {**form, "email": "bob@example.com"})) == {"email"}
    assert set(_errors(client, page, {**form, "username": "007"})) == {"username"}
    assert set(_errors(client, page, {**form, "username": "root@example.com"})) == {"username"}
    example = Organization.objects.get(name="Example")
    assert set(_errors(client, page, {**form, "organization": example.pk})) == {"email"}
    moved = {**form, "organization": example.pk, "email": "bob@example.com", "username": "bob@example.com"}
    assert _errors(client, page, moved) == {}
    bob.refresh_from_db()
    assert (bob.organization, bob.email, bob.username) == (example, "bob@example.com", "bob@example.com")


def test_an_account_that_is_as_it_was_before_these_rules_can_be_saved(client: Client, acme: Organization) -> None:
    old = User.objects.create_user("12345", "old+tag@example.com", PASSWORD, organization=acme)
    form = {"username": "12345", "email": "old+tag@example.com", "organization": acme.pk, "quota_mb": 7}
    assert _errors(client, reverse("admin:accounts_user_change", args=[old.pk]), form) == {}
    old.refresh_from_db()
    assert (old.quota_mb, old.is_active) == (7, False)
