"""Which addresses are ours, and who may send as whom."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Q

from accounts.models import Alias, Domain, User
from accounts.models.alias import CATCH_ALL
from accounts.names import Address, InvalidName, parse_address


class Found(enum.StrEnum):
    """What an address is to us."""

    MAILBOX = "mailbox"
    ALIAS = "alias"
    UNKNOWN_USER = "unknown_user"  # the domain is ours, the local part is nobody
    FOREIGN = "foreign"  # not our domain


@dataclass(frozen=True, slots=True)
class Resolution:
    """What stands behind an address. `targets` only for aliases; quota figures only for mailboxes."""

    found: Found
    user_id: int | None = None
    user_address: str = ""
    organization_id: int | None = None
    targets: Sequence[str] = ()
    used_octets: int = 0
    quota_octets: int = 0  # 0: no limit

    @property
    def is_local(self) -> bool:
        return self.found is not Found.FOREIGN


POSTMASTER = "postmaster"
FOREIGN = Resolution(Found.FOREIGN)


def resolve(address: Address) -> Resolution:
    """Look an address up: mailbox, alias, postmaster, then catch-all. Two to four queries."""
    domain = Domain.objects.filter(name=address.domain).first()
    if domain is None or not domain.is_usable:
        return _resolve_own_postmaster(address) if address.domain == settings.SMTP_HOSTNAME.lower() else FOREIGN
    user = User.objects.filter(email=address.lookup_key, is_active=True).first()
    if user is None:
        return _resolve_alias(domain, address)
    return Resolution(
        Found.MAILBOX,
        user_id=user.pk,
        user_address=user.email,
        organization_id=user.organization_id,
        used_octets=user.used_octets,
        quota_octets=user.quota_mb * 1024 * 1024,
    )


def _resolve_own_postmaster(address: Address) -> Resolution:
    """Postmaster, bare or at our own host name, is taken even where that is no mail domain (RFC 5321 §4.5.1)."""
    if address.base_local_part.lower() != POSTMASTER:
        return FOREIGN
    owner = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    return Resolution(Found.ALIAS, targets=(owner.email,)) if owner is not None else FOREIGN


def _resolve_alias(domain: Domain, address: Address) -> Resolution:
    local_part = address.base_local_part.lower()
    wanted = Q(local_part=local_part) | Q(local_part=CATCH_ALL)
    aliases = {alias.local_part: alias for alias in Alias.objects.filter(wanted, domain=domain, is_active=True)}
    alias = aliases.get(local_part)
    if alias is None and local_part == POSTMASTER:
        # RFC 5321 §4.5.1: a domain that takes mail must take it for postmaster; its owners read it.
        owners = domain.organization.users.filter(is_active=True).order_by("-is_organization_admin", "pk")
        owner = owners.first()
        if owner is not None:
            return Resolution(Found.ALIAS, organization_id=domain.organization_id, targets=(owner.email,))
    alias = alias or aliases.get(CATCH_ALL)
    if alias is None:
        return Resolution(Found.UNKNOWN_USER, organization_id=domain.organization_id)
    return Resolution(Found.ALIAS, organization_id=domain.organization_id, targets=tuple(alias.targets))


def may_send_as(user: User, address: Address) -> bool:
    """Whether the user holds the address: own mailbox, or any address of a usable domain of the own organization."""
    try:
        if parse_address(user.email).lookup_key == address.lookup_key:
            return True
    except InvalidName:
        return False
    domain = Domain.objects.filter(name=address.domain).first()
    if domain is None or not domain.is_usable:
        return False
    return user.is_superuser or (user.organization_id is not None and domain.organization_id == user.organization_id)
