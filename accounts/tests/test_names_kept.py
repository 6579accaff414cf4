"""Internationalised addresses in rows: kept in one form, found whatever the case and normal form (RFC 6531 §3.3)."""

from __future__ import annotations

import unicodedata

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts import addresses, credentials, users
from accounts.addresses import Found
from accounts.models import Alias, Domain, Organization, User
from accounts.names import parse_address

pytestmark = pytest.mark.django_db

DOMAINS = {
    "例え.jp": "xn--r8jz45g.jp",
    "παράδειγμα.δοκιμή": "xn--hxajbheg2az3al.xn--jxalpdlp",
    "example.com": "example.com",
}
MAILBOXES = ["用户@例え.jp", "Δοκιμή@Παράδειγμα.δοκιμή", "Pelé@Example.com", "Straße@example.com"]


@pytest.fixture
def organization() -> Organization:
    organization = Organization.objects.create(name="Example")
    for name in DOMAINS:
        Domain.objects.create(name=name, organization=organization, is_trusted=True)
    return organization


def user(address: str, organization: Organization) -> User:
    return User.objects.create_user(f"user of {address}", address, "correct horse", organization=organization)


def ways_to_write(address: str) -> list[str]:
    local_part, _, domain = address.rpartition("@")
    return [
        f"{form}@{name}"
        for form in (local_part, local_part.upper(), unicodedata.normalize("NFD", local_part), f"{local_part}+tag")
        for name in (domain, parse_address(address).domain, parse_address(address).domain.upper())
    ]


def test_domains_are_kept_as_a_labels_and_found_as_either(organization: Organization) -> None:
    assert set(Domain.objects.values_list("name", flat=True)) == set(DOMAINS.values())
    for name in ("例え.jp", "例え。ＪＰ", "XN--R8JZ45G.jp"):
        assert Domain.objects.get(name=name).name == "xn--r8jz45g.jp"


@pytest.mark.parametrize("address", MAILBOXES)
def test_a_mailbox_is_found_however_its_address_is_written(organization: Organization, address: str) -> None:
    made = user(address, organization)
    assert made.email == User.objects.get().email == parse_address(address).lookup_key
    for written in ways_to_write(address):
        resolution = addresses.resolve(parse_address(written))
        assert (resolution.found, resolution.user_id) == (Found.MAILBOX, made.pk), written
        if "+" not in written:
            assert users.find(written) == users.find_for_login(written) == made
            assert credentials.verify(written, "correct horse") == made
        assert addresses.may_send_as(made, parse_address(written))


def test_a_username_is_found_in_any_normal_form(organization: Organization) -> None:
    made = User.objects.create_user("Zoe\u0308", "zoe@example.com", "x", organization=organization)
    assert users.find("Zo\u00eb") == users.find("Zoe\u0308") == made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pelé@example.com", "PELE\u0301@example.com"),
        ("a@例え.jp", "A@xn--r8jz45g.jp"),
        ("ß@x.example", "SS@x.example"),
    ],
)
def test_one_mailbox_cannot_be_had_twice(organization: Organization, one: str, other: str) -> None:
    user(one, organization)
    with pytest.raises(IntegrityError), transaction.atomic():
        user(other, organization)
    with pytest.raises(ValidationError, match="already exists"):
        User(username="other", email=other, password="x", organization=organization).full_clean()


@pytest.mark.parametrize("address", ["ü\u202e@example.com", "ü ü@example.com", "ü@💩.la", "ü" * 33 + "@example.com"])
def test_what_is_no_address_is_refused_in_words(organization: Organization, address: str) -> None:
    with pytest.raises(ValidationError, match="Not a valid address"):
        User(username="x", email=address, password="x", organization=organization).full_clean()


def test_an_address_that_folding_makes_too_long_is_refused(organization: Organization) -> None:
    with pytest.raises(ValidationError, match="longer than"):
        User(username="x", email="և" * 32 + "@example.com", password="x", organization=organization).full_clean()


def test_an_alias_in_any_script_forwards(organization: Organization) -> None:
    domain = Domain.objects.get(name="例え.jp")
    Alias.objects.create(domain=domain, local_part="営業", targets=["用户@例え.jp", "Pele\u0301@example.com"])
    Alias.objects.create(domain=domain, local_part="žluťoučký", targets=["a@example.com"])
    assert addresses.resolve(parse_address("営業+x@例え.jp")).targets == ("用户@例え.jp", "Pele\u0301@example.com")
    assert addresses.resolve(parse_address("ŽLUŤOUČKÝ@xn--r8jz45g.jp")).found is Found.ALIAS
    assert addresses.resolve(parse_address("z\u030clut\u030couc\u030cky\u0301@例え.jp")).found is Found.ALIAS
    assert addresses.resolve(parse_address("žlutoučký@例え.jp")).found is Found.UNKNOWN_USER
