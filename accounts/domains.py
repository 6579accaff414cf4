"""Domains: made, verified by DNS, verified again on a schedule, given up (contract §5, docs/adr/0019).

Lookups are made outside of any transaction; what they found is written in one, with a line in the trail where the
status became another.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import dkim
from accounts.billing import plans
from accounts.dns.base import Resolver
from accounts.dns.dnspython import DnsPythonResolver
from accounts.dns_checks import Result, State, check
from accounts.dns_records import Record, records_of
from accounts.models import Domain, Organization, TrailEntry, User

log = structlog.get_logger(__name__)

BATCH = 50  # domains that are looked up at once
LEASE = dt.timedelta(minutes=10)  # a process that dies in a check gives its domains back by doing nothing
SOON = dt.timedelta(hours=1)  # between checks of a domain that is not verified yet
SOON_FOR = dt.timedelta(days=7)
JITTER = 0.2


class NameTaken(Exception):
    """The domain is there already, or its addresses are in use elsewhere; the text says which."""


class InUse(Exception):
    """The domain cannot be given up; the text says what stands in the way."""


def create(name: str, organization: Organization, *, accepts_mail: bool = True, actor: str, client: str = "") -> Domain:
    """Make a domain that is to be verified, with keys to sign its mail; call it outside of a transaction.

    Raises `NameTaken`, or `PlanLimitReached` by the organization's plan.
    """
    check_name(name, organization)
    try:
        with transaction.atomic():
            plans.check_domains(organization)
            domain = Domain.objects.create(
                name=name, organization=organization, accepts_mail=accepts_mail, next_check_at=timezone.now() + SOON
            )
            _trail("domain.created", domain.name, actor, client, f"For the organization {organization.name}.")
    except IntegrityError:
        raise NameTaken("The domain exists already.") from None
    with suppress(dkim.CannotSign):  # a name too long for a key's record: its mail goes unsigned
        dkim.ensure_keys(domain, actor=actor, client=client)
    return domain


def check_name(name: str, organization: Organization) -> None:
    """Raise `NameTaken` where the mail of others would become a matter of this organization."""
    if User.objects.filter(email__endswith=f"@{name}").exclude(organization=organization).exists():
        raise NameTaken("Addresses in this domain belong to accounts outside of the organization.")


def change(domain: Domain, *, actor: str, client: str = "", **values: bool) -> None:
    """Set switches of the domain; what is as it was leaves no trace."""
    new = {name: value for name, value in values.items() if getattr(domain, name) != value}
    if not new:
        return
    for name, value in new.items():
        setattr(domain, name, value)
    with transaction.atomic():
        domain.save(update_fields=[*new, "updated_at"])
        words = ", ".join(f"{name} is {'on' if value else 'off'} now" for name, value in new.items())
        _trail("domain.changed", domain.name, actor, client, f"{words}.")


def delete(domain: Domain, *, actor: str, client: str = "") -> None:
    """Give a domain up, with its aliases; raise `InUse` while mailboxes have addresses in it."""
    with transaction.atomic():
        Domain.objects.select_for_update().filter(pk=domain.pk).first()
        mailboxes = mailboxes_in(domain)
        if mailboxes:
            noun = "mailbox has its address" if mailboxes == 1 else "mailboxes have their addresses"
            raise InUse(f"{mailboxes} {noun} in this domain: delete them or give them other addresses first.")
        aliases = domain.aliases.count()
        _trail("domain.deleted", domain.name, actor, client, f"With {aliases} alias{'' if aliases == 1 else 'es'}.")
        domain.delete()


def mailboxes_in(domain: Domain) -> int:
    """Return how many accounts have their address in the domain."""
    return User.objects.filter(email__endswith=f"@{domain.name}").count()


def verify(domain: Domain, *, actor: str, client: str = "", resolver: Resolver | None = None) -> list[Result]:
    """Look the domain's records up now and write down what was found; `domain` is as it is then.

    It takes as long as DNS does, up to 20 s. DNS that does not answer changes no status.
    """
    results = asyncio.run(check(records_of(domain), resolver or _fresh_resolver()))
    _write(domain, results, timezone.now(), actor, client)
    return results


def verify_due(resolver: Resolver | None = None, *, limit: int = 1000) -> int:
    """Check the domains whose time has come, a batch at once; return how many.

    Any number of processes may do so: each domain is taken by one of them.
    """
    done = 0
    resolver = resolver or _fresh_resolver()
    while done < limit and (domains := _claim(timezone.now())):
        found = asyncio.run(_check_all([records_of(domain) for domain in domains], resolver))
        for domain, results in zip(domains, found, strict=True):
            _write(domain, results, timezone.now(), "schedule", "")
        done += len(domains)
    return done


def next_check_at(domain: Domain, now: dt.datetime, chance: Callable[[], float] = random.random) -> dt.datetime:
    """Return when to look again: soon for what was never verified, for a week; spread, so that no wave forms."""
    is_young = now - domain.created_at < SOON_FOR
    wait = SOON if domain.verified_at is None and is_young else dt.timedelta(seconds=settings.DOMAIN_CHECK_INTERVAL)
    return now + wait * (1 + JITTER * (2 * chance() - 1))


def status_of(before: str, results: Sequence[Result]) -> Domain.Status:
    """Return what a check makes of a domain: of its required records all found, or one known not to be right."""
    states = {result.state for result in results if result.record.required}
    if states & {State.MISSING, State.WRONG}:
        return Domain.Status.FAILED
    return Domain.Status(before) if State.UNAVAILABLE in states else Domain.Status.VERIFIED


def _claim(now: dt.datetime) -> list[Domain]:
    due = Domain.objects.filter(next_check_at__lte=now, is_active=True).order_by("next_check_at")[:BATCH]
    taken = []
    for domain in due:
        mine = Domain.objects.filter(pk=domain.pk, next_check_at=domain.next_check_at)
        if mine.update(next_check_at=now + LEASE):
            taken.append(domain)
    return taken


async def _check_all(records: Sequence[Sequence[Record]], resolver: Resolver) -> list[list[Result]]:
    return list(await asyncio.gather(*(check(of_domain, resolver) for of_domain in records)))


def _write(domain: Domain, results: Sequence[Result], now: dt.datetime, actor: str, client: str) -> None:
    """Write down a check, on the row as it is by now, and bring `domain` up to it."""
    with transaction.atomic():
        row = Domain.objects.select_for_update().filter(pk=domain.pk).first()
        if row is None:  # deleted while DNS was asked
            return
        before, row.status = row.status, status_of(row.status, results)
        if row.status == Domain.Status.VERIFIED and row.verified_at is None:
            row.verified_at = now
        row.check_results = [result.as_json() for result in results]
        row.last_checked_at, row.next_check_at = now, next_check_at(row, now)
        row.save(
            update_fields=["status", "verified_at", "check_results", "last_checked_at", "next_check_at", "updated_at"]
        )
        if row.status != before:
            _trail(f"domain.{row.status}", row.name, actor, client, _words(row, results))
    for field in ("status", "verified_at", "check_results", "last_checked_at", "next_check_at", "updated_at"):
        setattr(domain, field, getattr(row, field))
    log.info("domain_checked", domain=row.name, status=row.status)


def _words(domain: Domain, results: Sequence[Result]) -> str:
    wrong = [result for result in results if result.record.required and result.state is not State.OK]
    if not wrong:
        return "All its records were found."
    words = " ".join(f"{result.record.purpose.upper()}: {result.words}" for result in wrong)
    return f"{words} It was verified before and stays usable." if domain.is_usable else words


def _trail(kind: str, subject: str, actor: str, client: str, detail: str) -> None:
    TrailEntry.objects.create(kind=kind, actor=actor[:254], subject=subject[:254], client_address=client, detail=detail)


def _fresh_resolver() -> Resolver:
    """A resolver that knows nothing yet: who has just published a record must not be told what was a minute ago."""
    return DnsPythonResolver(settings.DNS_SERVERS, timeout_seconds=2.0, lifetime_seconds=6.0)
