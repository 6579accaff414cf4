"""Which TLS a host must offer: by its TLSA records, else by the domain's MTA-STS policy (RFC 7672 §2, RFC 8461 §4, §5).

DANE goes first, and a host that it speaks for is not asked for more (RFC 8461 §2). Raises what `routing` makes outcomes
of; every failure is noted for the figures (RFC 8460 §4.3).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from accounts.dns.base import Answer, DnsUnavailable, MailExchanger, NoSuchDomain, Resolver, Tlsa
from queue import dane, mta_sts
from queue.hops import Destination
from queue.mta_sts import Mode, Policy
from queue.transports import tls
from queue.transports.noting import DNSSEC_INVALID, VALIDATION_FAILURE, Note, SessionResult
from queue.transports.tls import TlsDemand

NOT_VOUCHED = "the sender requires TLS (REQUIRETLS), and neither DNSSEC nor an MTA-STS policy vouches for the host"
NOT_NAMED = "the domain's MTA-STS policy does not name the host"


class Barred(Exception):
    """The host may not be used, for it is not what the domain's policy (`rule`) asks for."""

    def __init__(self, words: str, rule: str) -> None:
        super().__init__(words)
        self.rule = rule


class Rules:
    """What one domain asks of its hosts; this one asks for nothing."""

    async def of_host(
        self, host: str, addresses: Answer[str], exchangers: Answer[MailExchanger], port: int
    ) -> TlsDemand | None:
        """Return what TLS with the host must be, None for what is usual; raise `Barred`, or `DnsUnavailable` where its
        records could not be had, which bars it too."""
        return None


class TlsRules(Protocol):
    async def of_domain(self, to: Destination) -> Rules: ...


class PlainRules:
    """Implements `TlsRules`: opportunistic TLS for everybody."""

    async def of_domain(self, to: Destination) -> Rules:
        return Rules()


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """Implements `TlsRules`. `validates`: the resolver checks DNSSEC, so that TLSA records mean something."""

    resolver: Resolver
    policy_of: Callable[[str], Awaitable[Policy | None]]
    validates: bool
    note: Note

    async def of_domain(self, to: Destination) -> Rules:
        if to.is_tls_optional:
            return Rules()
        rules = _DomainRules(self, to.domain, await self.policy_of(to.domain))
        return _Required(rules) if to.requires_tls else rules


@dataclass(frozen=True, slots=True)
class _DomainRules(Rules):
    ours: PolicyRules
    domain: str
    policy: Policy | None

    async def of_host(
        self, host: str, addresses: Answer[str], exchangers: Answer[MailExchanger], port: int
    ) -> TlsDemand | None:
        demand = None
        if self.ours.validates and exchangers.is_secure:
            demand = await self._by_tlsa(host, addresses, exchangers, port)
        if demand is None or demand.check is not tls.Check.DANE:
            demand = self._by_policy(host) or demand
        return demand

    def _by_policy(self, host: str) -> TlsDemand | None:
        policy = self.policy
        if policy is None or policy.mode is Mode.NONE:
            return None
        is_named = mta_sts.names_host(policy, host)
        if policy.mode is Mode.TESTING:
            return tls.sts_testing("" if is_named else NOT_NAMED)
        if is_named:
            return tls.MTA_STS
        self._note("sts", host, VALIDATION_FAILURE, NOT_NAMED)
        names = ", ".join(policy.mx[:5])
        raise Barred(
            f"{host} is not among the hosts that the MTA-STS policy of {self.domain} names ({names})", "mta-sts"
        )

    async def _by_tlsa(
        self, host: str, addresses: Answer[str], exchangers: Answer[MailExchanger], port: int
    ) -> TlsDemand | None:
        """Look for TLSA records at the name that an alias leads to, then at the host's own (RFC 7672 §2.2.3)."""
        for base in await self._base_domains(host, addresses):
            try:
                found = await self.ours.resolver.tlsa(f"_{port}._tcp.{base}")
            except NoSuchDomain:
                continue
            except DnsUnavailable as error:
                self._note("tlsa", host, DNSSEC_INVALID, str(error))
                raise
            if found and found.is_secure:
                return self._demand(base, found, exchangers)
        return None

    async def _base_domains(self, host: str, addresses: Answer[str]) -> list[str]:
        end = addresses.name or host
        if addresses.is_secure:
            return list(dict.fromkeys([end, host]))
        if end != host and await self.ours.resolver.is_signed_alias(host):
            return [host]
        return []

    def _demand(self, base: str, found: Answer[Tlsa], exchangers: Answer[MailExchanger]) -> TlsDemand:
        records = dane.usable(found)
        if not records:
            return tls.unauthenticated(found)
        names = [base, self.domain, exchangers.name if exchangers else ""]
        return tls.dane(records, tuple(dict.fromkeys(filter(None, names))))

    def _note(self, policy_type: str, host: str, result: str, reason: str) -> None:
        self.ours.note(SessionResult(self.domain, policy_type, mx_host=host, result=result, reason=reason))


@dataclass(frozen=True, slots=True)
class _Required(Rules):
    """What a message needs whose sender requires TLS (RFC 8689 §4.2.1): that DNSSEC or the domain's policy vouches for
    the host, and that the host proves to be it."""

    rules: _DomainRules

    async def of_host(
        self, host: str, addresses: Answer[str], exchangers: Answer[MailExchanger], port: int
    ) -> TlsDemand | None:
        try:
            demand = await self.rules.of_host(host, addresses, exchangers, port)
        except Barred as error:
            raise Barred(str(error), tls.REQUIRETLS.rule) from None
        if demand is not None and demand.check is tls.Check.DANE:
            return demand
        policy = self.rules.policy
        is_named = policy is not None and policy.mode is not Mode.NONE and mta_sts.names_host(policy, host)
        is_signed = self.rules.ours.validates and exchangers.is_secure
        if not (is_named or is_signed):
            raise Barred(f"{host}: {NOT_VOUCHED}", tls.REQUIRETLS.rule)
        return tls.REQUIRETLS
