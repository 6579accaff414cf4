"""Find accounts by what people and programs call them."""

from __future__ import annotations

from accounts.models import User


def find_for_login(name: str) -> User | None:
    """Return the user with this address or username; the organization comes along.

    An address wins over a username: nobody takes another's address as a username and catches logins meant for it.
    """
    if not name or "\0" in name or len(name) > 254 or not _is_text(name):
        return None
    users = User.objects.select_related("organization").filter(deleted_at__isnull=True)
    by_address = users.filter(email=name).first() if "@" in name else None
    return by_address or users.filter(username=User.normalize_username(name)).first()


def find(name: str) -> User | None:
    """Return the user with this address, username or id: the forms that a `user_id` may have (contract §1.2)."""
    found = find_for_login(name)
    if found is None and name.isascii() and name.isdigit() and len(name) < 19:
        users = User.objects.select_related("organization").filter(deleted_at__isnull=True)
        return users.filter(pk=int(name)).first()
    return found


def first_superuser() -> User | None:
    return User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()


def may_act(user: User) -> bool:
    """Whether the account is on: the user's own switch and that of its organization."""
    return user.is_active and user.deleted_at is None and (user.organization is None or user.organization.is_active)


def _is_text(name: str) -> bool:
    """Whether it can go to a database: no lone surrogates, which octets that are no UTF-8 leave behind."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
