"""Who may manage whom (contract §1.3): staff all, an organization's administrators its own, everybody themselves.

Another tenant's object is as if it were not there; what is one's own organization's, but not one's own to touch, is
forbidden.
"""

from __future__ import annotations

import enum

from accounts.models import User

SELF_SERVICE = frozenset(["email", "password"])


class Access(enum.Enum):
    """What somebody may do with an object of an organization, or with an account."""

    NONE = "none"  # another tenant's: it is as if there were none
    FORBIDDEN = "forbidden"  # the own organization's, but for others to see or to change
    OWN = "own"  # the own account
    FULL = "full"


def is_staff(user: User) -> bool:
    return user.is_staff or user.is_superuser


def is_admin_of(user: User, organization_id: int | None) -> bool:
    """Whether the user administers the organization, as its administrator or as staff."""
    return is_staff(user) or (user.is_organization_admin and _is_member(user, organization_id))


def access_to_organization(user: User, organization_id: int | None) -> Access:
    """What the user may do with what belongs to an organization: a domain, an alias, the organization itself."""
    if is_admin_of(user, organization_id):
        return Access.FULL
    return Access.FORBIDDEN if _is_member(user, organization_id) else Access.NONE


def access_to_user(actor: User, user: User) -> Access:
    """What somebody may do with an account, looking at it included; whose powers are greater is out of reach."""
    if actor.pk == user.pk:
        return Access.FULL if is_admin_of(actor, user.organization_id) else Access.OWN
    return access_to_organization(actor, user.organization_id)


def outranks(actor: User, user: User) -> bool:
    """Whether the account's powers are beyond the actor's: who could change its password would take them over."""
    if actor.pk == user.pk or actor.is_superuser:
        return False
    return user.is_superuser or (user.is_staff and not actor.is_staff)


def own_organization_id(user: User) -> int:
    """Return the organization for a condition; 0, which none has, where there is none: NULL would match others."""
    return user.organization_id or 0


def _is_member(user: User, organization_id: int | None) -> bool:
    return organization_id is not None and user.organization_id == organization_id
