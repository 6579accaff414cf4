"""Which addresses are ours (contract §2, RFC 5321 §4.5.1)."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from accounts import addresses
from accounts.addresses import Found, Way
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


def test_an_alias_a_catch_all_and_a_postmaster_are_told_apart(domain: Domain) -> None:
    def way(text: str) -> Way:
        return addresses.resolve(parse_address(text)).way

    assert way("sales@example.com") is Way.ALIAS
    assert way("postmaster@example.com") is way(f"postmaster@{settings.SMTP_HOSTNAME}") is Way.POSTMASTER
    Alias.objects.create(domain=domain, local_part="*", targets=["b@foreign.example"])
    assert way("whoever@example.com") is Way.CATCH_ALL
    assert way("postmaster@example.com") is Way.POSTMASTER
    User.objects.update(is_active=False)
    assert way("postmaster@example.com") is Way.CATCH_ALL
    Alias.objects.create(domain=domain, local_part="postmaster", targets=["b@foreign.example"])
    assert way("postmaster@example.com") is Way.ALIAS


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


def test_an_alias_says_what_its_senders_may_hear(domain: Domain) -> None:
    Alias.objects.create(domain=domain, local_part="old", targets=["new@foreign.example"], announcement="moved")
    resolution = addresses.resolve(parse_address("Old+tag@example.com"))
    assert (resolution.found, resolution.announcement) == (Found.ALIAS, "moved")
    assert addresses.resolve(parse_address("sales@example.com")).announcement == "silent"


def test_a_domain_that_only_sends_takes_mail_for_nobody_and_is_sent_from_all_the_same(domain: Domain) -> None:
    Alias.objects.create(domain=domain, local_part="*", targets=["alice@example.com"])
    Domain.objects.update(accepts_mail=False)
    for local_part in ("alice", "sales", "postmaster", "nobody"):
        resolution = addresses.resolve(parse_address(f"{local_part}@example.com"))
        assert (resolution.found, resolution.is_local) == (Found.NO_MAIL, True)
    assert addresses.may_send_as(User.objects.get(), parse_address("shop@example.com"))


def test_a_domain_that_is_not_usable_is_foreign_even_where_it_only_sends(domain: Domain) -> None:
    Domain.objects.update(accepts_mail=False, is_trusted=False)
    assert found("alice@example.com") is Found.FOREIGN


def test_the_mailbox_of_a_user_who_is_switched_off_is_disabled_and_no_catch_all_reads_its_mail(domain: Domain) -> None:
    Alias.objects.create(domain=domain, local_part="*", targets=["b@foreign.example"])
    User.objects.update(is_active=False)
    assert found("Alice+x@example.com") is Found.DISABLED
    assert found("nobody@example.com") is Found.ALIAS


def test_an_alias_takes_the_mail_of_a_user_who_is_switched_off(domain: Domain) -> None:
    Alias.objects.create(domain=domain, local_part="alice", targets=["heir@example.com"])
    assert found("alice@example.com") is Found.MAILBOX
    User.objects.update(is_active=False)
    assert addresses.resolve(parse_address("alice@example.com")).targets == ("heir@example.com",)


def test_postmaster_has_no_quota_and_announces_nothing(domain: Domain) -> None:
    moved = Alias.objects.create(
        domain=domain, local_part="postmaster", targets=["new@foreign.example"], announcement="moved"
    )
    resolution = addresses.resolve(parse_address("postmaster@example.com"))
    assert (resolution.found, resolution.announcement) == (Found.ALIAS, "silent")
    moved.delete()
    User.objects.create_user("pm", "postmaster@example.com", "x", quota_mb=1, used_octets=9_000_000)
    resolution = addresses.resolve(parse_address("Postmaster@example.com"))
    assert (resolution.found, resolution.quota_octets) == (Found.MAILBOX, 0)
    User.objects.filter(username="pm").update(is_active=False)
    assert addresses.resolve(parse_address("postmaster@example.com")).targets == ("alice@example.com",)


def test_postmaster_of_a_domain_without_members_is_read_by_the_catch_all_and_then_by_the_platform(
    domain: Domain,
) -> None:
    User.objects.update(is_active=False)
    assert found("postmaster@example.com") is Found.UNKNOWN_USER
    User.objects.create_superuser("root", "root@foreign.example", "x")
    assert addresses.resolve(parse_address("postmaster@example.com")).targets == ("root@foreign.example",)
    Alias.objects.create(domain=domain, local_part="*", targets=["b@foreign.example"], announcement="moved")
    resolution = addresses.resolve(parse_address("postmaster@example.com"))
    assert (resolution.targets, resolution.announcement) == (("b@foreign.example",), "silent")


def test_the_bare_postmaster_is_read_by_staff_or_who_runs_a_domain_or_anybody(domain: Domain, settings: Any) -> None:
    """RFC 5321 §4.5.1: never refused while anybody could read it."""
    settings.SMTP_HOSTNAME = "mx.example.com"
    bare = parse_address("postmaster@mx.example.com")
    off = Organization.objects.create(name="Off", is_active=False)
    pending = Organization.objects.create(name="Pending")
    Domain.objects.create(name="off.example", organization=off, is_trusted=True)
    Domain.objects.create(name="pending.example", organization=pending)
    readers = []
    for name, facts in (
        ("anybody", {}),
        ("admin-of-none", {"organization": off, "is_organization_admin": True}),
        ("admin-to-be", {"organization": pending, "is_organization_admin": True}),
        ("admin", {"organization": domain.organization, "is_organization_admin": True}),
        ("staff", {"is_staff": True}),
        ("root", {"is_staff": True, "is_superuser": True}),
    ):
        readers.append(User.objects.create_user(name, f"{name}@far.example", "x", **facts).email)
    readers.insert(0, "alice@example.com")
    for reader in (readers[6], readers[5], readers[4], *readers[:4]):
        assert addresses.resolve(bare).targets == (reader,)
        User.objects.filter(email=reader).update(is_active=False)
    assert addresses.resolve(bare).found is Found.FOREIGN


def test_the_postmaster_of_a_domain_is_read_by_nobody_of_another_organization(domain: Domain) -> None:
    User.objects.update(is_active=False)
    other = Organization.objects.create(name="Other")
    User.objects.create_user("eve", "eve@far.example", "x", organization=other, is_organization_admin=True)
    assert found("postmaster@example.com") is Found.UNKNOWN_USER
    User.objects.create_user("staff", "staff@far.example", "x", is_staff=True)
    assert addresses.resolve(parse_address("postmaster@example.com")).targets == ("staff@far.example",)


@pytest.mark.parametrize("announcement", ["told", "moved"])
def test_only_an_alias_with_one_target_may_announce_it(domain: Domain, announcement: str) -> None:
    alias = Alias(domain=domain, local_part="x", targets=["a@b.example", "c@d.example"], announcement=announcement)
    with pytest.raises(ValidationError, match="one target only"):
        alias.full_clean()
    alias.targets = ["a@b.example"]
    alias.full_clean()


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


def test_what_each_user_may_send_as_is_told_apart_with_one_query(
    domain: Domain, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    other = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.example", organization=other, is_trusted=True)
    Domain.objects.create(name="unverified.example", organization=domain.organization)
    wanted = [
        parse_address(text)
        for text in (
            "ALICE+x@example.com", "shop@example.com", "a@other.example", "a@unverified.example", "a@foreign.example",
            *(f"a@foreign{number}.example" for number in range(50)),
        )
    ]  # fmt: skip
    alice = User.objects.get()
    with django_assert_max_num_queries(1):
        assert addresses.may_send_as_each(alice, wanted) == set(wanted[:2])
    assert {address for address in wanted if addresses.may_send_as(alice, address)} == set(wanted[:2])
    alice.organization = None
    with django_assert_max_num_queries(1):
        assert addresses.may_send_as_each(alice, wanted) == {wanted[0]}
    with django_assert_max_num_queries(0):
        assert addresses.may_send_as_each(alice, wanted[:1]) == {wanted[0]}
        assert addresses.may_send_as_each(alice, []) == set()


def test_a_superuser_may_send_as_anybody() -> None:
    root = User.objects.create_superuser("root", "root@example.com", "x")
    wanted = {parse_address("a@foreign.example")}
    assert addresses.may_send_as_each(root, wanted) == wanted


def test_an_account_whose_address_is_none_holds_nothing() -> None:
    alice = User.objects.create_user("alice", "no address", "x")
    assert addresses.may_send_as_each(alice, [parse_address("a@b.example")]) == set()
