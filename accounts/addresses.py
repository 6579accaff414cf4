"""Which addresses are ours, and who may send as whom (RFC 5321 §2.3.5, §4.5.1)."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from django.conf import settings
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When
from django.utils import timezone

from accounts import verp
from accounts.models import Alias, Domain, User
from accounts.models.alias import CATCH_ALL
from accounts.names import Address, InvalidName, parse_address
from accounts.prepared import Prepared


class Found(enum.StrEnum):
    """What an address is to us."""

    MAILBOX = "mailbox"
    ALIAS = "alias"
    DISABLED = "disabled"  # a mailbox whose user is switched off
    UNKNOWN_USER = "unknown_user"  # the domain is ours, the local part is nobody
    NO_MAIL = "no_mail"  # the domain is ours and only sends
    DIAL_UP = "dial_up"  # any address of a domain of ours whose own host comes for its mail
    FOREIGN = "foreign"  # not our domain
    RETURN_PATH = "return_path"  # made by us for one message that went out (`accounts.verp`)


class Way(enum.StrEnum):
    """Why an address without a mailbox has targets; `Found` calls all of them aliases, for all go the same way."""

    ALIAS = "alias"
    CATCH_ALL = "catch_all"
    POSTMASTER = "postmaster"  # neither mailbox nor alias: somebody who runs the domain, or the house, reads it


@dataclass(frozen=True, slots=True)
class Resolution:
    """What stands behind an address.

    `targets`, `way` and `announcement` only for aliases; quota figures only for mailboxes; `sent_for` only for return
    paths; `next_hop` only for domains whose own host comes for the mail. The answer for a postmaster says nothing that
    would have it refused: no quota, no announcement (RFC 5321 §4.5.1).
    """

    found: Found
    user_id: int | None = None
    user_address: str = ""
    organization_id: int | None = None
    targets: Sequence[str] = ()
    way: Way = Way.ALIAS
    announcement: str = Alias.Announcement.SILENT.value
    used_octets: int = 0
    quota_octets: int = 0  # 0: no limit
    sent_for: bytes = b""
    next_hop: str = ""  # host or host:port; empty: by MX

    @property
    def is_local(self) -> bool:
        """Whether the mail stays here: in a mailbox, by an alias, or refused."""
        return self.found not in (Found.FOREIGN, Found.DIAL_UP)


POSTMASTER = "postmaster"
FOREIGN = Resolution(Found.FOREIGN)


def resolve(address: Address) -> Resolution:
    """Look an address up: mailbox, alias, postmaster, mailbox that is switched off, then catch-all."""
    return resolve_many([address])[address]


def resolve_many(wanted: Collection[Address]) -> dict[Address, Resolution]:
    """Look addresses up with one to three queries, however many; postmasters without an alias cost one more each."""
    domains = {row[1]: _Domain(*row) for row in _DOMAINS.rows(list({address.domain for address in wanted}))}
    local = [address for address in wanted if address.domain in domains and _is_kept_here(domains[address.domain])]
    mailboxes = _mailboxes({address.lookup_key for address in local})
    takers = {key for key, mailbox in mailboxes.items() if mailbox.found is Found.MAILBOX}
    aliases = _aliases([address for address in local if address.lookup_key not in takers], domains)
    found = {}
    for address in wanted:
        domain = domains.get(address.domain)
        if domain is None:
            found[address] = _resolve_foreign(address)
        elif not domain.accepts_mail:
            found[address] = Resolution(Found.NO_MAIL, organization_id=domain.organization_id)
        elif domain.is_dial_up:
            found[address] = _resolve_dial_up(address, domain)
        else:
            found[address] = _resolve_local(address, domain, mailboxes.get(address.lookup_key), aliases)
    return found


@dataclass(frozen=True, slots=True)
class _Domain:
    """What is asked of one of our domains that is usable."""

    pk: int
    name: str
    organization_id: int
    accepts_mail: bool
    delivery: str
    next_hop: str

    @property
    def is_dial_up(self) -> bool:
        return self.delivery == Domain.Delivery.DIAL_UP


_DOMAINS = Prepared(
    lambda names: (
        Domain.objects.filter(Domain.USABLE, name__in=names)
        .order_by()
        .values_list("pk", "name", "organization_id", "accepts_mail", "delivery", "next_hop")
    )
)
_MAILBOXES = Prepared(
    lambda emails: (
        User.objects.filter(email__in=emails)
        .order_by()
        .values_list("pk", "email", "is_active", "organization_id", "used_octets", "quota_mb")
    )
)


def _is_kept_here(domain: _Domain) -> bool:
    return domain.accepts_mail and not domain.is_dial_up


def _resolve_dial_up(address: Address, domain: _Domain) -> Resolution:
    """Everything is its host's, but for the return paths that we made for mail of the domain that went out here."""
    payload = verp.read(address, timezone.now().date()) if verp.looks_like_one(address) else None
    if payload is not None:
        return Resolution(Found.RETURN_PATH, organization_id=domain.organization_id, sent_for=payload)
    return Resolution(Found.DIAL_UP, organization_id=domain.organization_id, next_hop=domain.next_hop)


def _mailboxes(keys: set[str]) -> dict[str, Resolution]:
    return {
        email: Resolution(
            Found.MAILBOX if is_active else Found.DISABLED,
            user_id=pk,
            user_address=email,
            organization_id=organization_id,
            used_octets=used_octets,
            quota_octets=quota_mb * 1024 * 1024,
        )
        for pk, email, is_active, organization_id, used_octets, quota_mb in _MAILBOXES.rows(list(keys))
    }


def _aliases(wanted: Collection[Address], domains: Mapping[str, _Domain]) -> dict[tuple[int, str], Alias]:
    if not wanted:
        return {}
    local_parts = {address.folded_local_part for address in wanted} | {CATCH_ALL}
    of_domains = {domains[address.domain].pk for address in wanted}
    rows = Alias.objects.filter(domain__in=of_domains, local_part__in=local_parts, is_active=True)
    return {(alias.domain_id, alias.local_part): alias for alias in rows}


def _resolve_local(
    address: Address, domain: _Domain, mailbox: Resolution | None, aliases: Mapping[tuple[int, str], Alias]
) -> Resolution:
    if verp.looks_like_one(address):  # before any mailbox `bounces` and any catch-all: a forged one is nobody's
        payload = verp.read(address, timezone.now().date())
        found = Found.UNKNOWN_USER if payload is None else Found.RETURN_PATH
        return Resolution(found, organization_id=domain.organization_id, sent_for=payload or b"")
    local_part = address.folded_local_part
    if mailbox is not None and mailbox.found is Found.MAILBOX:
        return replace(mailbox, quota_octets=0) if local_part == POSTMASTER else mailbox
    alias = aliases.get((domain.pk, local_part))
    catch_all = aliases.get((domain.pk, CATCH_ALL))
    if local_part == POSTMASTER:
        return _resolve_postmaster(domain, alias, catch_all)
    if alias is not None:  # made for somebody who left, it goes before the mailbox that was switched off
        return _as_alias(domain, alias)
    if mailbox is not None:  # somebody's mail, which a catch-all must not read
        return mailbox
    if catch_all is not None:
        return _as_alias(domain, catch_all)
    return Resolution(Found.UNKNOWN_USER, organization_id=domain.organization_id)


def _as_alias(domain: _Domain, alias: Alias) -> Resolution:
    return Resolution(
        Found.ALIAS,
        organization_id=domain.organization_id,
        targets=tuple(alias.targets),
        way=Way.CATCH_ALL if alias.local_part == CATCH_ALL else Way.ALIAS,
        announcement=alias.announcement,
    )


def _resolve_postmaster(domain: _Domain, alias: Alias | None, catch_all: Alias | None) -> Resolution:
    """A domain that takes mail must take it for postmaster (RFC 5321 §4.5.1): without an alias its owners read it."""
    if alias is None:
        owners = User.objects.filter(organization=domain.organization_id, is_active=True)
        owner = owners.order_by("-is_organization_admin", "pk").first()
        if owner is not None:
            return _read_by(owner, domain.organization_id)
    alias = alias or catch_all
    if alias is not None:
        return replace(_as_alias(domain, alias), announcement=Alias.Announcement.SILENT.value)
    reader = _readers_of_the_house().filter(Q(is_superuser=True) | Q(is_staff=True)).first()
    if reader is None:  # another organization's people must not read it
        return Resolution(Found.UNKNOWN_USER, organization_id=domain.organization_id)
    return _read_by(reader, domain.organization_id)


def _read_by(reader: User, organization_id: int | None) -> Resolution:
    return Resolution(Found.ALIAS, organization_id=organization_id, targets=(reader.email,), way=Way.POSTMASTER)


def _resolve_foreign(address: Address) -> Resolution:
    """Postmaster, bare or at our own host name, is taken even where that is no mail domain (RFC 5321 §4.5.1)."""
    if address.domain != settings.SMTP_HOSTNAME.lower() or address.folded_local_part != POSTMASTER:
        return FOREIGN
    reader = _readers_of_the_house().first()
    return _read_by(reader, None) if reader is not None else FOREIGN


def _readers_of_the_house() -> QuerySet[User]:
    """Who is active, in the order in which the house's own mail is theirs: staff, who runs a domain, anybody."""
    domains = Domain.objects.filter(Domain.USABLE)
    of_organization = domains.filter(organization=OuterRef("organization"), organization__is_active=True)
    runs_a_domain = Case(When(Q(is_organization_admin=True) & Exists(of_organization), then=1), default=0)
    active = User.objects.filter(is_active=True)
    return active.order_by("-is_superuser", "-is_staff", runs_a_domain.desc(), "pk")


def may_send_as(user: User, address: Address) -> bool:
    """Whether the user holds the address: own mailbox, or any address of a usable domain of the own organization."""
    return bool(may_send_as_each(user, [address]))


def may_send_as_each(user: User, wanted: Collection[Address]) -> set[Address]:
    """Return those of the addresses that the user may send from, by one query at most; a superuser may use them all."""
    if user.is_superuser:
        return set(wanted)
    try:
        own = parse_address(user.email).lookup_key
    except InvalidName:
        return set()
    held = {address for address in wanted if address.lookup_key == own}
    others = {address for address in wanted if address not in held}
    if others:
        domains = [_Domain(*row) for row in _DOMAINS.rows(list({address.domain for address in others}))]
        own_domains = {domain.name for domain in domains if domain.organization_id == user.organization_id}
        held |= {address for address in others if address.domain in own_domains}
    return held
