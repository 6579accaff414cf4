"""The demo's cast: one organization, its trusted domain, an administrator, five mailboxes and the published API key.

It may be prepared again at any time: what is there stays, also what the visitor has changed. Never run in production.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.utils.crypto import get_random_string

from accounts import dkim, keys
from accounts.models import Alias, ApiKey, Domain, Organization, Scope, User
from mailproj.env import SettingError

DOMAIN = "example.com"
MAILBOXES = ("user", "recipient", "to", "test", "john")
PUBLISHED_KEY = "sk_test_default_key_123"
PUBLISHED_KEY_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Logins:
    """What the visitor types; None for a password that was changed since and is not ours to know."""

    admin_username: str
    admin_password: str | None
    mailbox_password: str | None


def prepare(folder: Path, admin_username: str, admin_password: str) -> Logins:
    """Make what is missing. With an empty `admin_password` one is generated, once, and kept in the folder."""
    if admin_username in MAILBOXES:
        raise SettingError("ADMIN_USERNAME", admin_username, f"a name other than {', '.join(MAILBOXES)}")
    with transaction.atomic():
        organization, _ = Organization.objects.get_or_create(name="Example")
        domain, _ = Domain.objects.get_or_create(
            name=DOMAIN, defaults={"organization": organization, "is_trusted": True}
        )
        admin = _ensure_admin(organization, admin_username)
        known_admin_password = _ensure_password(admin, folder / "admin_password", admin_password)
        known_mailbox_password = _ensure_mailboxes(organization, folder / "mailbox_password")
        _ensure_a_reader_of_reports(domain)
        _ensure_published_key(admin)
    if not domain.dkim_keys.exists():  # a visitor may have retired them
        dkim.ensure_keys(domain, actor="demo")
    return Logins(admin.username, known_admin_password, known_mailbox_password)


def _ensure_admin(organization: Organization, username: str) -> User:
    """Return the administrator: whoever has the name, else whoever has the address, under the new name."""
    address = f"admin@{DOMAIN}"
    admin = User.objects.filter(username=username).first() or User.objects.filter(email=address).first()
    admin = admin or User(email=address, organization=organization)
    if not (admin.username == username and admin.is_superuser and admin.is_staff):
        admin.username, admin.is_superuser, admin.is_staff = username, True, True
        admin.save()
    return admin


def _ensure_password(user: User, kept_in: Path, given: str) -> str | None:
    """Give the user the password that the settings name, or a generated one if the user has none yet."""
    if given:
        if not user.check_password(given):
            user.set_password(given)
            user.save(update_fields=["password"])
        return given
    if not user.password:
        user.set_password(_keep(kept_in, _new_password()))
        user.save(update_fields=["password"])
    return _still_valid(user, kept_in)


def _new_password() -> str:
    """Letters and digits alone: no shell reads anything into it, and no program takes it for an option."""
    return get_random_string(16)


def _ensure_mailboxes(organization: Organization, kept_in: Path) -> str | None:
    there = {user.email: user for user in User.objects.filter(email__in=[f"{name}@{DOMAIN}" for name in MAILBOXES])}
    missing = [name for name in MAILBOXES if f"{name}@{DOMAIN}" not in there]
    if missing:
        password = _read(kept_in) or _keep(kept_in, _new_password())
        hashed = make_password(password)  # once: each hash costs 64 MiB and a tenth of a second
        for name in missing:
            User.objects.create(username=name, email=f"{name}@{DOMAIN}", organization=organization, password=hashed)
    return _still_valid(User.objects.get(email=f"{MAILBOXES[0]}@{DOMAIN}"), kept_in)


def _ensure_a_reader_of_reports(domain: Domain) -> None:
    """Let somebody read what comes back of mail that named no sender: reports would else bounce in their turn."""
    local_part, _, name = settings.SMTP_FROM_ADDRESS.rpartition("@")
    if name == DOMAIN and local_part not in MAILBOXES:
        reader = f"{MAILBOXES[0]}@{DOMAIN}"
        Alias.objects.get_or_create(domain=domain, local_part=local_part, defaults={"targets": [reader]})


def _ensure_published_key(owner: User) -> None:
    """Make the key that R5 prints; one whose hash was made with an older SECRET_KEY is made anew."""
    same_start = ApiKey.objects.filter(prefix=PUBLISHED_KEY[: keys.PREFIX_LENGTH])
    if keys.authenticate(PUBLISHED_KEY) is not None or same_start.filter(is_active=False).exists():
        return
    same_start.delete()
    keys.create(
        "demo (published)",
        owner,
        daily_limit=PUBLISHED_KEY_LIMIT,
        text=PUBLISHED_KEY,
        scopes=Scope.values,  # the demo lets every example be pasted with it
        allowed_domains=[DOMAIN],  # its user is staff and could send as anybody, which nobody's own key can
        actor="demo",
    )


def _still_valid(user: User, kept_in: Path) -> str | None:
    password = _read(kept_in)
    return password if password and user.check_password(password) else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _keep(path: Path, password: str) -> str:
    """Write a password where only the owner can read it; return it."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(password + "\n")
    return password
