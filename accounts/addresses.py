"""Which addresses are ours, and who may send as whom."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings

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
    """Look an address up: mailbox, alias, postmaster, then catch-all."""
    return resolve_many([address])[address]


def resolve_many(wanted: Collection[Address]) -> dict[Address, Resolution]:
    """Look addresses up with one to three queries, however many; postmasters without an alias cost one more each."""
    named = Domain.objects.filter(name__in={address.domain for address in wanted}).select_related("organization")
    domains = {domain.name: domain for domain in named if domain.is_usable}
    local = [address for address in wanted if address.domain in domains]
    mailboxes = _mailboxes({address.lookup_key for address in local})
    aliases = _aliases([address for address in local if address.lookup_key not in mailboxes], domains)
    found = {}
    for address in wanted:
        domain = domains.get(address.domain)
        if domain is None:
            found[address] = _resolve_foreign(address)
        elif address.lookup_key in mailboxes:
            found[address] = mailboxes[address.lookup_key]
        else:
            found[address] = _resolve_alias(address, domain, aliases)
    return found


def _mailboxes(keys: set[str]) -> dict[str, Resolution]:
    if not keys:
        return {}
    rows = User.objects.filter(email__in=keys, is_active=True)
    return {
        email: Resolution(
            Found.MAILBOX,
            user_id=pk,
            user_address=email,
            organization_id=organization_id,
            used_octets=used_octets,
            quota_octets=quota_mb * 1024 * 1024,
        )
        for pk, email, organization_id, used_octets, quota_mb in rows.values_list(
            "pk", "email", "organization_id", "used_octets", "quota_mb"
        )
    }


def _aliases(wanted: Collection[Address], domains: Mapping[str, Domain]) -> dict[tuple[int, str], Alias]:
    if not wanted:
        return {}
    local_parts = {address.base_local_part.lower() for address in wanted} | {CATCH_ALL}
    of_domains = {domains[address.domain].pk for address in wanted}
    rows = Alias.objects.filter(domain__in=of_domains, local_part__in=local_parts, is_active=True)
    return {(alias.domain_id, alias.local_part): alias for alias in rows}


def _resolve_alias(address: Address, domain: Domain, aliases: Mapping[tuple[int, str], Alias]) -> Resolution:
    local_part = address.base_local_part.lower()
    alias = aliases.get((domain.pk, local_part))
    if alias is None and local_part == POSTMASTER:
        # RFC 5321 §4.5.1: a domain that takes mail must take it for postmaster; its owners read it.
        owner = domain.organization.users.filter(is_active=True).order_by("-is_organization_admin", "pk").first()
        if owner is not None:
            return Resolution(Found.ALIAS, organization_id=domain.organization_id, targets=(owner.email,))
    alias = alias or aliases.get((domain.pk, CATCH_ALL))
    if alias is None:
        return Resolution(Found.UNKNOWN_USER, organization_id=domain.organization_id)
    return Resolution(Found.ALIAS, organization_id=domain.organization_id, targets=tuple(alias.targets))


def _resolve_foreign(address: Address) -> Resolution:
    """Postmaster, bare or at our own host name, is taken even where that is no mail domain (RFC 5321 §4.5.1)."""
    if address.domain != settings.SMTP_HOSTNAME.lower() or address.base_local_part.lower() != POSTMASTER:
        return FOREIGN
    owner = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    return Resolution(Found.ALIAS, targets=(owner.email,)) if owner is not None else FOREIGN


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
