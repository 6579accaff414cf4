"""The life of a domain's DKIM keys, and the records that go with them."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts import dkim
from accounts.dkim_records import key_record
from accounts.key_pairs import SigningKey, generate
from accounts.models import DkimKey, Domain, Organization, TrailEntry
from accounts.sealed import CannotOpen, open_sealed
from accounts.signing_keys import holding_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def domain() -> Domain:
    organization = Organization.objects.create(name="Example")
    return Domain.objects.create(name="example.com", organization=organization, is_trusted=True)


def active(domain: Domain) -> list[str]:
    return [key.algorithm for key in domain.dkim_keys.filter(state="active").order_by("algorithm")]


def test_a_domain_gets_a_key_of_each_algorithm_once(domain: Domain) -> None:
    made = dkim.ensure_keys(domain, actor="alice")
    assert [key.algorithm for key in made] == ["rsa-sha256", "ed25519-sha256"]
    assert dkim.ensure_keys(domain) == []
    assert active(domain) == ["ed25519-sha256", "rsa-sha256"]
    trail = TrailEntry.objects.get()
    assert (trail.kind, trail.actor, trail.subject) == ("dkim_key.created", "alice", "example.com")
    assert made[0].selector in trail.detail and made[1].selector in trail.detail


def test_only_the_algorithm_that_is_missing_is_made(domain: Domain) -> None:
    rsa, ed25519 = dkim.ensure_keys(domain)
    dkim.retire(ed25519)
    (made,) = dkim.ensure_keys(domain)
    assert made.algorithm == "ed25519-sha256"
    assert made.selector == f"{ed25519.selector}-2"  # a selector is never used again
    assert holding_of("example.com").keys[0].selector == rsa.selector


@pytest.mark.django_db(transaction=True)
def test_two_who_make_keys_or_rotate_at_once_leave_one_active_key_of_each_algorithm(domain: Domain) -> None:
    def at_once(act: Callable[[Domain], object]) -> None:
        def run(_number: int) -> None:
            try:
                act(domain)
            finally:
                connection.close()

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(run, range(3)))

    at_once(dkim.ensure_keys)
    assert active(domain) == ["ed25519-sha256", "rsa-sha256"]
    assert DkimKey.objects.count() == 2
    at_once(dkim.rotate)
    assert active(domain) == ["ed25519-sha256", "rsa-sha256"]
    assert DkimKey.objects.filter(state="retired").count() == 6


def test_the_private_parts_are_sealed_for_their_own_place(domain: Domain) -> None:
    rsa, ed25519 = dkim.ensure_keys(domain)
    octets = open_sealed(rsa.sealed_private_key, f"dkim:example.com:{rsa.selector}")
    assert octets not in rsa.sealed_private_key.encode()
    with pytest.raises(CannotOpen):
        open_sealed(rsa.sealed_private_key, f"dkim:example.com:{ed25519.selector}")


def test_a_name_that_was_typed_in_capitals_seals_under_the_name_that_is_kept() -> None:
    organization = Organization.objects.create(name="Example")
    typed = Domain.objects.create(name="EXAMPLE.com", organization=organization, is_trusted=True)
    dkim.ensure_keys(typed)
    assert len(holding_of("example.com").keys) == 2


def test_neither_a_key_nor_a_pair_shows_its_private_part(domain: Domain) -> None:
    pair = generate("ed25519-sha256")
    seed = pair.private_octets[-32:]
    shown = repr(pair) + "".join(repr(key) for key in dkim.ensure_keys(domain)) + repr(holding_of("example.com"))
    assert "private" not in shown.lower()
    assert repr(seed)[2:-1] not in shown and base64.b64encode(seed).decode() not in shown


# --- records ----------------------------------------------------------------------------------------------------------


def test_the_records_hold_the_public_keys_in_strings_of_255_octets(domain: Domain) -> None:
    rsa, ed25519 = dkim.ensure_keys(domain)
    record = dkim.record_of(rsa)
    assert record.name == f"{rsa.selector}._domainkey.example.com"
    assert record.value.startswith("v=DKIM1; k=rsa; t=s; p=")
    assert [len(string) for string in record.strings] == [255, len(record.value) - 255]
    assert "".join(record.strings) == record.value
    public_key = load_der_public_key(base64.b64decode(record.value.partition("p=")[2]))
    assert isinstance(public_key, RSAPublicKey) and public_key.key_size == 2048
    assert public_key.public_numbers().e == 65537

    record = dkim.record_of(ed25519)
    assert record.value.startswith("v=DKIM1; k=ed25519; t=s; p=") and len(record.strings) == 1
    octets = base64.b64decode(record.value.partition("p=")[2])
    assert len(octets) == 32
    Ed25519PublicKey.from_public_bytes(octets)


def test_a_zone_line_quotes_each_string() -> None:
    record = key_record(selector="s", domain="example.com", algorithm="rsa-sha256", public_key="A" * 300)
    strings = record.strings
    assert record.zone_line == f's._domainkey.example.com. IN TXT ( "{strings[0]}" "{strings[1]}" )'


def test_a_name_too_long_for_a_record_is_refused_in_words() -> None:
    organization = Organization.objects.create(name="Example")
    long = Domain.objects.create(name=".".join(["a" * 60] * 4), organization=organization)
    with pytest.raises(dkim.CannotSign, match="too long"):
        dkim.ensure_keys(long)
    assert not DkimKey.objects.exists()


# --- rotation ---------------------------------------------------------------------------------------------------------


def test_a_rotation_changes_to_new_selectors_and_keeps_the_old_records(domain: Domain) -> None:
    old = dkim.ensure_keys(domain)
    new = dkim.rotate(domain, actor="bob")
    assert not {key.selector for key in old} & {key.selector for key in new}
    assert [key.selector for key in holding_of("example.com").keys] == [key.selector for key in new]
    retired = DkimKey.objects.filter(state="retired")
    assert {key.selector for key in retired} == {key.selector for key in old}
    assert all(key.retired_at and key.sealed_private_key == "" and key.public_key for key in retired)
    assert len(dkim.records_to_publish(domain)) == 4
    trail = TrailEntry.objects.get(kind="dkim_key.rotated")
    assert trail.actor == "bob" and new[0].selector in trail.detail and f"retired: {old[0].selector}" in trail.detail


def test_the_record_of_a_retired_key_may_go_after_a_while(domain: Domain) -> None:
    (old, _), now = dkim.ensure_keys(domain), timezone.now()
    dkim.retire(old)
    old = DkimKey.objects.get(pk=old.pk)
    assert dkim.is_to_be_published(old, now + dkim.KEEP_PUBLISHED - dt.timedelta(hours=1))
    assert not dkim.is_to_be_published(old, now + dkim.KEEP_PUBLISHED + dt.timedelta(hours=1))


def test_prepared_keys_do_not_sign_until_the_rotation_takes_them(domain: Domain) -> None:
    old = dkim.ensure_keys(domain)
    prepared = dkim.prepare(domain)
    assert {key.pk for key in dkim.prepare(domain)} == {key.pk for key in prepared}
    assert [key.selector for key in holding_of("example.com").keys] == [key.selector for key in old]
    assert len(dkim.records_to_publish(domain)) == 4
    active_now = dkim.rotate(domain)
    assert {key.pk for key in active_now} == {key.pk for key in prepared}
    assert all(key.activated_at for key in active_now)
    assert DkimKey.objects.filter(state="prepared").count() == 0


def test_a_prepared_key_that_never_signed_needs_no_record_once_it_is_retired(domain: Domain) -> None:
    key, _ = dkim.prepare(domain)
    assert dkim.retire(key)
    assert not dkim.is_to_be_published(DkimKey.objects.get(pk=key.pk), timezone.now())


def test_a_key_is_retired_once_and_its_private_part_is_gone(domain: Domain) -> None:
    key, _ = dkim.ensure_keys(domain)
    assert dkim.retire(key, actor="carol")
    assert not dkim.retire(DkimKey.objects.get(pk=key.pk))
    assert DkimKey.objects.get(pk=key.pk).sealed_private_key == ""
    assert TrailEntry.objects.filter(kind="dkim_key.retired", actor="carol").count() == 1


def test_the_database_lets_one_key_of_an_algorithm_be_active(domain: Domain) -> None:
    dkim.ensure_keys(domain)
    with pytest.raises(IntegrityError), transaction.atomic():
        DkimKey.objects.create(domain=domain, selector="x", algorithm="rsa-sha256", state="active", public_key="A")


# --- what signs -------------------------------------------------------------------------------------------------------


def test_only_a_usable_domain_of_ours_has_anything_to_sign_with(domain: Domain) -> None:
    dkim.ensure_keys(domain)
    assert holding_of("example.com").organization_id == domain.organization_id
    assert holding_of("elsewhere.example").organization_id is None
    Domain.objects.update(is_active=False)
    assert holding_of("example.com").keys == ()


def test_a_key_that_is_known_is_not_opened_again(domain: Domain) -> None:
    dkim.ensure_keys(domain)
    first = holding_of("example.com").keys
    again = holding_of("example.com", known=first).keys
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert all(isinstance(key, SigningKey) for key in again)


def test_a_key_sealed_under_a_key_that_is_gone_is_trouble_and_not_a_missing_key(domain: Domain, settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [bytes(32)]
    rsa, _ = dkim.ensure_keys(domain)
    settings.ENCRYPTION_KEYS = [bytes(range(32))]
    holding = holding_of("example.com")
    assert holding.keys == ()
    assert rsa.selector in holding.trouble and "ENCRYPTION_KEYS" in holding.trouble
