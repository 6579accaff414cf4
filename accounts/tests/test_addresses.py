"""Which addresses are ours (contract §2, RFC 5321 §4.5.1)."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts import addresses
from accounts.addresses import Found
from accounts.models import Alias, Domain, Organization, User
from accounts.names import parse_address

pytestmark = pytest.mark.django_db


@pytest.fixture
def domain() -> Domain:
    organization = Organization.objects.create(name="Example")
    domain = Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    User.objects.create_user("alice", "alice@example.com", "x", organization=organization)
    Alias.objects.create(domain=domain, local_part="sales", targets=["alice@example.com", "b@foreign.example"])
    return domain


def found(text: str) -> Found:
    return addresses.resolve(parse_address(text)).found


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("alice@example.com", Found.MAILBOX),
        ("ALICE+news@Example.COM", Found.MAILBOX),
        ('"alice"@example.com', Found.MAILBOX),
        ("sales@example.com", Found.ALIAS),
        ("postmaster@example.com", Found.ALIAS),
        ("nobody@example.com", Found.UNKNOWN_USER),
        ("alice@sub.example.com", Found.FOREIGN),
        ("alice@[192.0.2.1]", Found.FOREIGN),
    ],
)
def test_an_address_is_found_as_what_it_is(domain: Domain, address: str, expected: Found) -> None:
    assert found(address) is expected


def test_the_catch_all_takes_what_nothing_else_takes(domain: Domain) -> None:
    Alias.objects.create(domain=domain, local_part="*", targets=["alice@example.com"])
    assert addresses.resolve(parse_address("whoever@example.com")).targets == ("alice@example.com",)
    assert found("alice@example.com") is Found.MAILBOX
    assert addresses.resolve(parse_address("sales@example.com")).targets == ("alice@example.com", "b@foreign.example")


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"is_active": False}, Found.FOREIGN), ({"is_trusted": False}, Found.FOREIGN)],
)
def test_a_domain_must_be_usable(domain: Domain, change: dict[str, bool], expected: Found) -> None:
    Domain.objects.update(**change)
    assert found("alice@example.com") is expected


def test_a_verified_domain_needs_nobody_to_vouch_for_it(domain: Domain) -> None:
    Domain.objects.update(is_trusted=False, status=Domain.Status.VERIFIED)
    assert found("alice@example.com") is Found.MAILBOX


def test_many_addresses_cost_as_many_queries_as_one(domain: Domain) -> None:
    wanted = {parse_address(f"user{number}@example.com") for number in range(50)}
    wanted |= {parse_address(f"user{number}@foreign{number}.example") for number in range(50)}
    with CaptureQueriesContext(
        connection,
    ) as queries:
        resolutions = addresses.resolve_many(wanted | {parse_address("alice@example.com")})
    assert len(queries) == 3
    assert len(resolutions) == 101


def test_a_user_may_send_from_its_own_address_and_its_organizations_domains(domain: Domain) -> None:
    alice = User.objects.get()
    assert addresses.may_send_as(alice, parse_address("alice+x@example.com"))
    assert addresses.may_send_as(alice, parse_address("shop@example.com"))
    assert not addresses.may_send_as(alice, parse_address("alice@foreign.example"))
    stranger = User.objects.create_user("eve", "eve@foreign.example", "x")
    assert not addresses.may_send_as(stranger, parse_address("shop@example.com"))
