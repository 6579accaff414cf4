"""`manage.py dkimkey` and `manage.py reseal` as a person meets them."""

from __future__ import annotations

import os
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts import dkim, resealing
from accounts.models import DkimKey, Domain, Organization, TrailEntry
from accounts.sealed import is_current
from accounts.signing_keys import holding_of

pytestmark = pytest.mark.django_db

OLD, NEW = os.urandom(32), os.urandom(32)


@pytest.fixture
def domain() -> Domain:
    organization = Organization.objects.create(name="Example")
    return Domain.objects.create(name="example.com", organization=organization, is_trusted=True)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_create_makes_the_keys_and_prints_what_to_publish(domain: Domain) -> None:
    printed = run("dkimkey", "create", "EXAMPLE.com")
    for key in DkimKey.objects.all():
        assert dkim.record_of(key).zone_line in printed
    assert "has its keys" in run("dkimkey", "create", "example.com")
    assert DkimKey.objects.count() == 2


def test_create_all_serves_every_domain(domain: Domain) -> None:
    Domain.objects.create(name="b.example", organization=domain.organization)
    run("dkimkey", "create", "--all")
    assert DkimKey.objects.count() == 4


def test_a_rotation_step_by_step(domain: Domain) -> None:
    run("dkimkey", "create", "example.com")
    old = {key.selector for key in DkimKey.objects.all()}
    printed = run("dkimkey", "rotate", "example.com", "--prepare")
    assert "until then the old keys sign" in printed
    assert run("dkimkey", "record", "example.com").count("IN TXT") == 4
    run("dkimkey", "rotate", "example.com")
    lines = run("dkimkey", "list", "example.com").splitlines()
    assert {line.split()[1] for line in lines if "keep its record until" in line} == old
    assert sum("active" in line for line in lines) == 2


def test_a_retired_key_is_told_and_that_nothing_signs_any_more(domain: Domain) -> None:
    rsa, ed25519 = dkim.ensure_keys(domain)
    assert "No key signs" not in run("dkimkey", "retire", "example.com", rsa.selector)
    assert "No key signs for example.com now" in run("dkimkey", "retire", "example.com", ed25519.selector)
    with pytest.raises(CommandError, match="retired already"):
        run("dkimkey", "retire", "example.com", rsa.selector)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create"], "Name one domain"),
        (["create", "example.com", "--all"], "Name one domain"),
        (["create", "nowhere.example"], "There is no domain"),
        (["create", "not a name"], "is no domain name"),
        (["record", "example.com"], "has no keys yet"),
        (["retire", "example.com", "x"], "no key with the selector"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(domain: Domain, arguments: list[str], words: str) -> None:
    with pytest.raises(CommandError, match=words) as error:
        run("dkimkey", *arguments)
    assert "\n" not in str(error.value)


def test_nothing_is_printed_as_prepared_that_cannot_be(domain: Domain) -> None:
    long = Domain.objects.create(name=".".join(["a" * 60] * 4), organization=domain.organization)
    out = StringIO()
    with pytest.raises(CommandError, match="too long"):
        call_command("dkimkey", "rotate", long.name, "--prepare", stdout=out)
    assert not out.getvalue()


def test_reseal_lets_an_older_key_go(domain: Domain, settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    dkim.ensure_keys(domain)
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    assert "2 looked at, 2 sealed anew" in run("reseal")
    assert "2 looked at, 0 sealed anew" in run("reseal")
    settings.ENCRYPTION_KEYS = [NEW]
    assert len(holding_of("example.com").keys) == 2
    assert TrailEntry.objects.filter(kind="secrets.resealed").count() == 1


def test_reseal_goes_on_where_it_was_interrupted(domain: Domain, settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    dkim.ensure_keys(domain)
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    column = resealing.COLUMNS[0]
    assert next(resealing.reseal(column)).is_resealed  # and no further
    assert "2 looked at, 1 sealed anew" in run("reseal")
    assert all(is_current(key.sealed_private_key) for key in DkimKey.objects.all())


def test_reseal_names_what_it_cannot_open_and_does_the_rest(domain: Domain, settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    lost, _ = dkim.ensure_keys(domain)
    settings.ENCRYPTION_KEYS = [NEW]
    dkim.retire(lost)
    dkim.ensure_keys(domain)
    out = StringIO()
    with pytest.raises(CommandError, match="1 cannot be opened"):
        call_command("reseal", stdout=out, stderr=out)
    assert "dkim:example.com:e" in out.getvalue()


def test_a_key_that_is_retired_meanwhile_stays_erased(domain: Domain, settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    dkim.ensure_keys(domain)
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    column = resealing.COLUMNS[0]
    steps = resealing.reseal(column)
    next(steps)  # both rows are read by now
    dkim.retire(DkimKey.objects.order_by("pk")[1])
    assert not next(steps).is_resealed
    assert DkimKey.objects.get(state="retired").sealed_private_key == ""
