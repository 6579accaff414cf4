"""The demo's cast: what a visitor finds, and what a second start leaves as it is."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from accounts import addresses, keys
from accounts.models import ApiKey, DkimKey, Domain, User
from accounts.names import parse_address
from mailproj import demo
from mailproj.env import SettingError

pytestmark = pytest.mark.django_db


def test_the_cast_is_complete(tmp_path: Path) -> None:
    logins = demo.prepare(tmp_path, "admin", "")
    assert Domain.objects.get(name="example.com").is_usable
    expected = {f"{name}@example.com" for name in ("admin", "user", "recipient", "to", "test", "john")}
    assert set(User.objects.values_list("email", flat=True)) == expected
    admin = User.objects.get(username="admin")
    assert admin.is_superuser and admin.is_staff
    assert logins.admin_password and admin.check_password(logins.admin_password)
    assert logins.mailbox_password and User.objects.get(username="john").check_password(logins.mailbox_password)


def test_somebody_reads_what_comes_back_of_mail_that_named_no_sender(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    assert addresses.resolve(parse_address("noreply@example.com")).targets == ("user@example.com",)


def test_the_demos_domain_signs_its_mail_and_keeps_its_keys(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    keys = list(DkimKey.objects.values_list("selector", "algorithm", "state"))
    assert {algorithm for _, algorithm, _ in keys} == {"rsa-sha256", "ed25519-sha256"}
    demo.prepare(tmp_path, "admin", "")
    assert list(DkimKey.objects.values_list("selector", "algorithm", "state")) == keys


def test_the_published_key_works_with_its_limit(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    key = keys.authenticate("sk_test_default_key_123")
    assert key is not None
    assert (key.daily_limit, key.user.username) == (10_000, "admin")


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    first = demo.prepare(tmp_path, "admin", "")
    before = list(User.objects.order_by("pk").values()), list(ApiKey.objects.values())
    assert demo.prepare(tmp_path, "admin", "") == first
    assert (list(User.objects.order_by("pk").values()), list(ApiKey.objects.values())) == before


def test_generated_passwords_are_kept_for_the_owner_alone(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    for name in ("admin_password", "mailbox_password"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_given_password_is_set_at_every_start_and_written_nowhere(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "first of them")
    demo.prepare(tmp_path, "admin", "second of them")
    assert User.objects.get(username="admin").check_password("second of them")
    assert not (tmp_path / "admin_password").exists()


def test_a_password_that_was_changed_is_not_shown_as_the_old_one(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    admin = User.objects.get(username="admin")
    admin.set_password("my own choice")
    admin.save()
    assert demo.prepare(tmp_path, "admin", "").admin_password is None


def test_another_admin_username_renames_the_administrator(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    demo.prepare(tmp_path, "root", "")
    assert list(User.objects.filter(is_superuser=True).values_list("username", "email")) == [
        ("root", "admin@example.com")
    ]


def test_the_administrator_cannot_have_a_mailbox_of_the_cast(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="ADMIN_USERNAME"):
        demo.prepare(tmp_path, "john", "")


def test_a_key_that_was_switched_off_stays_off(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    ApiKey.objects.update(is_active=False)
    demo.prepare(tmp_path, "admin", "")
    assert keys.authenticate("sk_test_default_key_123") is None


def test_a_key_hashed_with_an_older_secret_is_made_anew(tmp_path: Path) -> None:
    demo.prepare(tmp_path, "admin", "")
    ApiKey.objects.update(key_hash="0" * 64)
    demo.prepare(tmp_path, "admin", "")
    assert keys.authenticate("sk_test_default_key_123") is not None
