"""Where mail for a domain goes (RFC 5321 §5.1, RFC 7505, RFC 5321 §4.1.3 for address literals).

Answers a `Route`, or the `Outcome` of every recipient of the domain. Asks nothing but the resolver; raises nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from django.conf import settings

from accounts.dns.base import DnsUnavailable, MailExchanger, NoSuchDomain, Resolver
from accounts.names import InvalidName, parse_domain
from queue.networks import IPNetwork, may_connect
from queue.outcome import Outcome, deferred, failed
from queue.transports.base import NextHop, Route

TRANSPORT = "smtp"
MAX_ADDRESSES_OF_A_HOST = 5  # one host with many addresses must not hide the next host
_CHANCE = random.Random()  # noqa: S311  (spreads load, keeps no secret)


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """The operator's part in it. With `smarthost` set, everything goes there."""

    own_name: str
    port: int = 25
    smarthost: str = ""
    smarthost_port: int = 587
    allowed_networks: Sequence[IPNetwork] = ()
    max_hops: int = 10


@dataclass(frozen=True, slots=True)
class _Located:
    """What DNS says about one exchanger: its addresses, or why there are none."""

    host: str
    addresses: Sequence[str]
    trouble: str = ""
    is_proven_empty: bool = False  # DNS did answer: there is no address


def policy_from_settings() -> RoutingPolicy:
    return RoutingPolicy(
        own_name=settings.SMTP_HOSTNAME,
        port=settings.SMTP_OUT_PORT,
        smarthost=settings.RELAY_HOST,
        smarthost_port=settings.RELAY_PORT,
        allowed_networks=tuple(settings.OUTBOUND_ALLOWED_NETWORKS),
    )


def router(resolver: Resolver, policy: RoutingPolicy) -> Callable[[str], Awaitable[Route | Outcome]]:
    """Return the question "which way for this domain?" with everything but the domain answered."""

    async def resolve(domain: str) -> Route | Outcome:
        return await resolve_route(domain, resolver, policy)

    return resolve


async def resolve_route(
    domain: str, resolver: Resolver, policy: RoutingPolicy, chance: random.Random | None = None
) -> Route | Outcome:
    """Find the hops for a domain (A-label form, lower case) or an address literal; `chance` orders equal exchangers."""
    if policy.smarthost:
        return await _to_smarthost(resolver, policy)
    if domain.startswith("["):
        address = _literal(domain)
        if not address:
            return _failed("5.1.3", f"{domain} is not an address literal")
        return _permitted([_Located(address, [address])], policy)
    try:
        records = await resolver.mx(domain)
    except DnsUnavailable as error:
        return _dns_trouble(str(error))
    except NoSuchDomain:
        return _failed("5.1.2", f"the domain {domain} does not exist")
    if len(records) == 1 and not records[0].host:
        return _failed("5.1.10", f"the domain {domain} accepts no mail (null MX)")
    # A null MX beside others is a mistake of the zone (RFC 7505 §3) and leaves the others standing.
    named = [record for record in records if record.host] or [MailExchanger(0, domain)]
    exchangers = _better_than_us(named, policy.own_name)
    if not exchangers:
        return _failed("5.4.6", f"mail for {domain} loops back: DNS names this host ({policy.own_name}) to receive it")
    ordered = _in_order(exchangers, chance or _CHANCE)[: policy.max_hops]
    located = await asyncio.gather(*(_locate(exchanger.host, resolver) for exchanger in ordered))
    if not records and located[0].is_proven_empty:
        return _failed("5.4.4", f"the domain {domain} has neither MX nor address records")
    return _permitted(located, policy)


async def _to_smarthost(resolver: Resolver, policy: RoutingPolicy) -> Route | Outcome:
    """Send everything to the operator's relay, in a private network too: naming it was the operator's explicit choice.

    A relay that cannot be found is the operator's mistake and not the sender's: the mail waits.
    """
    address = _literal(policy.smarthost)
    found = _Located(address, [address]) if address else await _locate(_a_labels(policy.smarthost), resolver)
    if not found.addresses:
        return deferred(f"the smarthost RELAY_HOST: {found.trouble}", transport=TRANSPORT, enhanced_code="4.4.3")
    hops = [NextHop(found.host, address, policy.smarthost_port) for address in found.addresses[: policy.max_hops]]
    return Route(tuple(hops), smarthost=True)


def _a_labels(host: str) -> str:
    """Return a name as DNS is asked for it (RFC 6531 §3.2); what is no name finds nothing there."""
    try:
        return parse_domain(host)
    except InvalidName:
        return host.lower()


def _literal(text: str) -> str:
    """Return the address in `192.0.2.1`, `[192.0.2.1]` or `[IPv6:2001:db8::1]` in canonical form; empty for a name."""
    inner = text.strip("[]").lower().removeprefix("ipv6:")
    try:
        return str(ipaddress.ip_address(inner))
    except ValueError:
        return ""


def _better_than_us(records: Sequence[MailExchanger], own_name: str) -> list[MailExchanger]:
    """Leave out ourselves and every exchanger that is not preferred to us, lest the mail loop (RFC 5321 §5.1)."""
    ours = [record.preference for record in records if record.host == own_name.lower()]
    return [record for record in records if not ours or record.preference < min(ours)]


def _in_order(records: Sequence[MailExchanger], chance: random.Random) -> list[MailExchanger]:
    return sorted(records, key=lambda record: (record.preference, chance.random()))


async def _locate(host: str, resolver: Resolver) -> _Located:
    try:
        addresses = await resolver.addresses(host)
    except DnsUnavailable as error:
        return _Located(host, (), str(error))
    except NoSuchDomain:
        return _Located(host, (), f"{host} does not exist", is_proven_empty=True)
    if not addresses:
        return _Located(host, (), f"{host} has no address", is_proven_empty=True)
    return _Located(host, addresses[:MAX_ADDRESSES_OF_A_HOST])


def _permitted(located: Sequence[_Located], policy: RoutingPolicy) -> Route | Outcome:
    """Make the route of what may be connected to; where nothing is left, say why."""
    found = [NextHop(place.host, address, policy.port) for place in located for address in place.addresses]
    hops = [hop for hop in found if may_connect(hop.address, policy.allowed_networks)]
    if hops:
        return Route(tuple(hops[: policy.max_hops]))
    unknown = [place.trouble for place in located if place.trouble and not place.is_proven_empty]
    if unknown:
        return _dns_trouble(unknown[0])
    if found:
        return refused_hop(found[0])
    trouble = "; ".join(place.trouble for place in located)
    return deferred(f"no mail exchanger can be found: {trouble}", transport=TRANSPORT, enhanced_code="4.4.4")


def refused_hop(hop: NextHop) -> Outcome:
    """The outcome where a next hop is not a public address."""
    return _failed("5.4.4", f"the next hop {hop} is not a public address, nor in OUTBOUND_ALLOWED_NETWORKS")


def _failed(enhanced_code: str, reason: str) -> Outcome:
    return failed(reason, transport=TRANSPORT, enhanced_code=enhanced_code)


def _dns_trouble(reason: str) -> Outcome:
    return deferred(f"DNS gave no answer: {reason}", transport=TRANSPORT, enhanced_code="4.4.3")
