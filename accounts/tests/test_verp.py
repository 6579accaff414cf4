"""Return paths that only we can make, and that stand for one thing for a while."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts import addresses, verp
from accounts.addresses import Found
from accounts.models import Alias, Domain, Organization, User
from accounts.names import MAX_LOCAL_PART_OCTETS, Address, parse_address

DAY = dt.date(2026, 11, 20)
ENTRY = b"\x01\x02\x03\x04\x05\x06\x07\x08"
MESSAGE = b"\xff" * verp.MESSAGE_OCTETS


@pytest.mark.parametrize("payload", [ENTRY, MESSAGE])
def test_what_was_put_in_is_read_again_whatever_case_it_comes_back_in(payload: bytes) -> None:
    address = verp.address_for(payload, "example.com", DAY)
    assert parse_address(str(address)) == address
    assert len(address.local_part) <= MAX_LOCAL_PART_OCTETS
    assert verp.read(address, DAY) == payload
    assert verp.read(Address(address.local_part.upper(), "example.com"), DAY) == payload
    assert verp.address_for(payload, "example.com", DAY) == address


def test_another_domain_or_any_other_character_is_a_forgery() -> None:
    address = verp.address_for(ENTRY, "example.com", DAY)
    assert verp.read(Address(address.local_part, "example.net"), DAY) is None
    for position in range(len(verp.PREFIX), len(address.local_part)):
        other = "a" if address.local_part[position] != "a" else "b"
        forged = address.local_part[:position] + other + address.local_part[position + 1 :]
        assert verp.read(Address(forged, "example.com"), DAY) is None, position


@given(st.binary(max_size=30), st.text(max_size=50))
def test_nothing_else_is_taken_for_one(payload: bytes, text: str) -> None:
    assert verp.read(Address(f"bounces+{text}", "example.com"), DAY) is None
    if len(payload) not in (verp.ENTRY_OCTETS, verp.MESSAGE_OCTETS):
        assert verp.read(Address(f"bounces+{payload.hex()}", "example.com"), DAY) is None


def test_it_is_good_for_as_long_as_the_message_is_kept(settings: Any) -> None:
    settings.MESSAGE_KEEP_DAYS = 30
    address = verp.address_for(ENTRY, "example.com", DAY)
    assert verp.read(address, DAY + dt.timedelta(days=30)) == ENTRY
    assert verp.read(address, DAY + dt.timedelta(days=31)) is None
    assert verp.read(address, DAY - dt.timedelta(days=90)) == ENTRY  # sent at a time that is still to come


def test_a_new_secret_key_leaves_old_ones_good_while_it_falls_back_on_the_former(settings: Any) -> None:
    address = verp.address_for(ENTRY, "example.com", DAY)
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "x" * 50
    assert verp.read(address, DAY) == ENTRY
    settings.SECRET_KEY_FALLBACKS = []
    assert verp.read(address, DAY) is None


@pytest.mark.django_db
def test_a_good_one_is_an_address_of_ours_and_a_forged_one_nobodys() -> None:
    organization = Organization.objects.create(name="Example")
    domain = Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    User.objects.create_user("bounces", "bounces@example.com", "x", organization=organization)
    Alias.objects.create(domain=domain, local_part="*", targets=["b@foreign.example"])
    good = verp.address_for(ENTRY, "example.com", timezone.now().date())
    found = addresses.resolve(good)
    assert (found.found, found.sent_for, found.organization_id) == (Found.RETURN_PATH, ENTRY, organization.pk)
    assert found.user_id is None and not found.targets
    forged = Address(good.local_part[:-1] + ("a" if good.local_part[-1] != "a" else "b"), "example.com")
    assert addresses.resolve(forged).found is Found.UNKNOWN_USER
    assert addresses.resolve(parse_address("bounces+list@example.com")).found is Found.MAILBOX
    domain.accepts_mail = False
    domain.save()
    assert addresses.resolve(good).found is Found.NO_MAIL
    domain.delete()
    assert addresses.resolve(good).found is Found.FOREIGN
