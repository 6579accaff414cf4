"""Where mail for a domain goes (RFC 5321 §5.1, RFC 7505, RFC 5321 §4.1.3 for address literals).

By precedence: the next hop that a person chose, the smarthost of the recipient's domain, that of the sender's
organization, RELAY_HOST, and else the exchangers that DNS names. Answers a `Route`, or the `Outcome` of every
recipient. Asks nothing but the resolver and `tls_rules`; raises nothing.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from django.conf import settings

from accounts.dns.base import Answer, DnsUnavailable, MailExchanger, NoSuchDomain, Resolver
from accounts.networks import IPNetwork, may_connect
from queue import smarthosts
from queue.hops import Destination, InvalidHop, literal, parse_hop
from queue.ourselves import is_this_host
from queue.outcome import Kind, Outcome, deferred, failed
from queue.smarthosts import Smarthost, Smarthosts
from queue.tls_rules import Barred, PlainRules, Rules, TlsRules
from queue.transports.base import NextHop, Relay, Route
from queue.transports.tls import REQUIRETLS, Check, TlsDemand, TlsPolicy, chosen

TRANSPORT = "smtp"
MAX_ADDRESSES_OF_A_HOST = 5  # one host with many addresses must not hide the next host
_CHANCE = random.Random()  # noqa: S311  (spreads load, keeps no secret)


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """The operator's part in it. With `smarthost` set, everything goes there that has no other override.

    `own_networks` and `listens_on` say which addresses are ours (`queue.ourselves`).
    """

    own_name: str
    port: int = 25
    smarthost: Smarthost | None = None
    allowed_networks: Sequence[IPNetwork] = ()
    max_hops: int = 10
    own_networks: Sequence[IPNetwork] = ()
    listens_on: str = ""

    def is_us(self, address: str) -> bool:
        return is_this_host(address, self.own_networks, self.listens_on)


class _Found(enum.Enum):
    ADDRESSES = enum.auto()
    NOTHING = enum.auto()  # DNS did answer: there is no address
    UNKNOWN = enum.auto()  # DNS did not answer
    OURSELVES = enum.auto()
    BARRED = enum.auto()  # the domain's TLS policy does not allow this host


@dataclass(frozen=True, slots=True)
class _Located:
    """What DNS says about one exchanger: its addresses and what TLS must be, or why it cannot be used."""

    host: str
    found: _Found
    addresses: Sequence[str] = ()
    tls: TlsDemand | None = None
    trouble: str = ""
    rule: str = ""


def policy_from_settings() -> RoutingPolicy:
    return RoutingPolicy(
        own_name=settings.SMTP_HOSTNAME,
        port=settings.SMTP_OUT_PORT,
        smarthost=smarthosts.of_settings(),
        allowed_networks=tuple(settings.OUTBOUND_ALLOWED_NETWORKS),
        own_networks=tuple(settings.SMTP_OWN_ADDRESSES),
        listens_on=settings.SMTP_HOST if settings.SMTP_PORT == settings.SMTP_OUT_PORT else "",
    )


async def resolve_route(
    to: Destination,
    resolver: Resolver,
    policy: RoutingPolicy,
    *,
    overrides: Smarthosts = smarthosts.NONE,
    tls_rules: TlsRules | None = None,
    chance: random.Random | None = None,
) -> Route | Outcome:
    """Find the hops for a destination; `chance` orders equal exchangers."""
    rules = tls_rules or PlainRules()
    if to.route:
        return await _as_chosen(to, resolver, policy, overrides, rules)
    if to.own_host is not None:
        return await _to_own_host(to, to.own_host, resolver, policy, rules, chance or _CHANCE)
    smarthost = relay_of(to, policy, overrides)
    if smarthost is not None:
        return await _to_smarthost(to, smarthost, resolver, policy, rules)
    if to.domain.startswith("["):
        address = literal(to.domain)
        if not address:
            return _failed("5.1.3", f"{to.domain} is not an address literal")
        demand = REQUIRETLS if to.requires_tls else None
        return _permitted(to, [_Located(address, _Found.ADDRESSES, [address], demand)], policy)
    return await _by_exchangers(to, resolver, policy, rules, chance or _CHANCE)


def relay_of(to: Destination, policy: RoutingPolicy, overrides: Smarthosts) -> Smarthost | None:
    """Return the host that was named for it, whatever its domain is: mail of one message with the same goes together.

    None where the way is the domain's own, or the chosen one names no host.
    """
    if to.route:
        try:
            return _chosen(to, policy, overrides)[0]
        except InvalidHop:
            return None
    if to.own_host is not None:
        return None
    return overrides.find(to) or policy.smarthost


def _chosen(to: Destination, policy: RoutingPolicy, overrides: Smarthosts) -> tuple[Smarthost, bool]:
    """Read the route that a person chose; return its host, and whether that is one we have an account at."""
    host, port = parse_hop(to.route, policy.port)
    known = overrides.account_at(host, port, to)
    if known is not None:
        return known, True
    return Smarthost(host, port, TlsPolicy.OPPORTUNISTIC, Relay(f"the chosen route {to.route}")), False


async def _by_exchangers(
    to: Destination, resolver: Resolver, policy: RoutingPolicy, tls_rules: TlsRules, chance: random.Random
) -> Route | Outcome:
    domain = to.domain
    asked = asyncio.ensure_future(tls_rules.of_domain(to))  # meanwhile
    try:
        records = await resolver.mx(domain)
    except DnsUnavailable as error:
        asked.cancel()
        return _dns_trouble(str(error))
    except NoSuchDomain:
        asked.cancel()
        return _failed("5.1.2", f"the domain {domain} does not exist")
    rules = await asked
    # A null MX beside others is a mistake of the zone (RFC 7505 §3) and leaves the others standing.
    named = [record for record in records if record.host]
    if records and not named:
        return _failed("5.1.10", f"the domain {domain} accepts no mail (null MX)")
    named = named or [MailExchanger(0, domain)]
    exchangers = _better_than(named, [one for one in named if one.host == policy.own_name.lower()])
    ordered = _in_order(exchangers, chance)[: policy.max_hops]
    located = await asyncio.gather(
        *(_locate(exchanger.host, resolver, rules, records, policy.port, policy.is_us) for exchanger in ordered)
    )
    places = list(zip(ordered, located, strict=True))
    better = _better_than(ordered, [one for one, place in places if place.found is _Found.OURSELVES])
    located = [place for one, place in places if one in better]
    if not located:
        return _failed("5.4.6", f"mail for {domain} loops back: DNS names this host ({policy.own_name}) to receive it")
    if not records and located[0].found is _Found.NOTHING:
        return _failed("5.4.4", f"the domain {domain} has neither MX nor address records")
    return _permitted(to, located, policy)


async def _as_chosen(
    to: Destination, resolver: Resolver, policy: RoutingPolicy, overrides: Smarthosts, tls_rules: TlsRules
) -> Route | Outcome:
    """Go where a person wants it; where we have an account at that host, with it."""
    try:
        host, is_account = _chosen(to, policy, overrides)
    except InvalidHop as error:
        return deferred(f"the chosen route {to.route}: {error}", transport=TRANSPORT, enhanced_code="4.4.4")
    go = _to_smarthost if is_account else _to_named
    return await go(to, host, resolver, policy, tls_rules)


async def _to_named(
    to: Destination, host: Smarthost, resolver: Resolver, policy: RoutingPolicy, tls_rules: TlsRules
) -> Route | Outcome:
    """Go to a host that a person gave, who may choose anew where it is not one to connect to."""
    found = await _to_smarthost(to, host, resolver, policy, tls_rules)
    if isinstance(found, Outcome):
        return found
    hops = [hop for hop in found.hops if may_connect(hop.address, policy.allowed_networks)]
    return replace(found, hops=tuple(hops)) if hops else refused_hop(found.hops[0], temporary=True)


async def _to_own_host(
    to: Destination, text: str, resolver: Resolver, policy: RoutingPolicy, tls_rules: TlsRules, chance: random.Random
) -> Route | Outcome:
    """Find the host that a domain of ours gave for ETRN (RFC 1985), or its exchangers that are better than us.

    Never by a smarthost, which would bring the mail back here. Nothing is permanent: where no way leads there, the
    host can still come for it.
    """
    if text:
        label = f"the host {text} of {to.domain}"
        try:
            host, port = parse_hop(text, policy.port)
        except InvalidHop as error:
            return deferred(f"{label}: {error}", transport=TRANSPORT, enhanced_code="4.4.4")
        named = Smarthost(host, port, TlsPolicy.OPPORTUNISTIC, Relay(label))
        return await _to_named(to, named, resolver, policy, tls_rules)
    found = await _by_exchangers(to, resolver, policy, tls_rules, chance)
    if isinstance(found, Outcome) and found.kind is Kind.FAILED:
        words = f"{found.reply}; it waits for its host to come for it (ATRN)"
        return deferred(words, transport=TRANSPORT, enhanced_code="4.4.4")
    return found


async def _to_smarthost(
    to: Destination, smarthost: Smarthost, resolver: Resolver, policy: RoutingPolicy, tls_rules: TlsRules
) -> Route | Outcome:
    """Send it to a relay, in a private network too: naming it was the operator's explicit choice.

    A relay that cannot be found or used is the operator's mistake and not the sender's: the mail waits. One whose
    certificate is not asked for by the operator is asked for what its own name's policy says (RFC 8461 §3.4).
    """
    label = smarthost.relay.label
    if smarthost.trouble:
        return deferred(smarthost.trouble, transport=TRANSPORT, enhanced_code="4.3.5")
    host = literal(smarthost.host) or _a_labels(smarthost.host)
    if host == policy.own_name.lower():
        return deferred(f"{label} is this host itself", transport=TRANSPORT, enhanced_code="4.4.6")
    if literal(host):
        place = _Located(host, _Found.ADDRESSES, [host])
    elif smarthost.tls is TlsPolicy.OPPORTUNISTIC:
        rules = await tls_rules.of_domain(replace(to, domain=host, requires_tls=False))
        place = await _locate(host, resolver, rules, Answer(is_secure=True), smarthost.port)
    else:
        place = await _locate(host, resolver, Rules(), Answer(), smarthost.port)
    if place.found is not _Found.ADDRESSES:
        if place.found is _Found.BARRED:
            return _barred(place, f"{label}: {place.trouble}")
        return deferred(f"{label}: {place.trouble}", transport=TRANSPORT, enhanced_code="4.4.3")
    demand = place.tls or chosen(smarthost.tls)
    if to.requires_tls and demand.check is Check.NOTHING:
        demand = REQUIRETLS  # its name is certain, for a person gave it
    hops = [NextHop(host, address, smarthost.port, demand) for address in place.addresses[: policy.max_hops]]
    return Route(tuple(hops), smarthost.relay)


def _a_labels(host: str) -> str:
    """Return a name as DNS is asked for it (RFC 6531 §3.2); what is no name finds nothing there."""
    try:
        return parse_hop(host, 0)[0]
    except InvalidHop:
        return host.lower()


def _better_than(records: Sequence[MailExchanger], ours: Sequence[MailExchanger]) -> list[MailExchanger]:
    """Leave out ourselves and every exchanger that is not preferred to us, lest the mail loop (RFC 5321 §5.1)."""
    return [one for one in records if all(one.preference < own.preference for own in ours)]


def _in_order(records: Sequence[MailExchanger], chance: random.Random) -> list[MailExchanger]:
    return sorted(records, key=lambda record: (record.preference, chance.random()))


def _nobody(_address: str) -> bool:
    """Where a person named the host: it may well be reached at an address of ours, behind which it alone listens."""
    return False


async def _locate(
    host: str,
    resolver: Resolver,
    rules: Rules,
    exchangers: Answer[MailExchanger],
    port: int,
    is_us: Callable[[str], bool] = _nobody,
) -> _Located:
    """Find a host's addresses, and what TLS with it must be. Addresses first (RFC 7672 §2.2.2)."""
    try:
        addresses = await resolver.addresses(host)
        if not addresses:
            return _Located(host, _Found.NOTHING, trouble=f"{host} has no address")
        if any(map(is_us, addresses[:MAX_ADDRESSES_OF_A_HOST])):
            return _Located(host, _Found.OURSELVES)
        demand = await rules.of_host(host, addresses, exchangers, port)
    except DnsUnavailable as error:
        return _Located(host, _Found.UNKNOWN, trouble=str(error))
    except NoSuchDomain:
        return _Located(host, _Found.NOTHING, trouble=f"{host} does not exist")
    except Barred as error:
        return _Located(host, _Found.BARRED, trouble=str(error), rule=error.rule)
    return _Located(host, _Found.ADDRESSES, addresses[:MAX_ADDRESSES_OF_A_HOST], demand)


def _permitted(to: Destination, located: Sequence[_Located], policy: RoutingPolicy) -> Route | Outcome:
    """Make the route of what may be connected to; where nothing is left, say why."""
    found = [NextHop(place.host, address, policy.port, place.tls) for place in located for address in place.addresses]
    hops = [hop for hop in found if may_connect(hop.address, policy.allowed_networks)]
    if hops:
        has_policy = not to.domain.startswith("[") and not to.is_tls_optional
        return Route(tuple(hops[: policy.max_hops]), policy_domain=to.domain if has_policy else "")
    for place in located:
        if place.found is _Found.UNKNOWN:
            return _dns_trouble(place.trouble)
    for place in located:
        if place.found is _Found.BARRED:
            return _barred(place, place.trouble)
    if found:
        return refused_hop(found[0])
    trouble = "; ".join(place.trouble for place in located)
    return deferred(f"no mail exchanger can be found: {trouble}", transport=TRANSPORT, enhanced_code="4.4.4")


def _barred(place: _Located, words: str) -> Outcome:
    """A domain may mend its policy; a sender who requires TLS wants the message back at once (RFC 8689 §4.2.1)."""
    if place.rule == REQUIRETLS.rule:
        return replace(_failed("5.7.10", words), tls_policy=place.rule)
    return replace(deferred(words, transport=TRANSPORT, enhanced_code="4.7.5"), tls_policy=place.rule)


def refused_hop(hop: NextHop, *, temporary: bool = False) -> Outcome:
    """The outcome where a next hop is not a public address; one that a person chose can be chosen anew."""
    words = f"the next hop {hop} is not a public address, nor in OUTBOUND_ALLOWED_NETWORKS"
    if temporary:
        return deferred(words, transport=TRANSPORT, enhanced_code="4.4.4")
    return _failed("5.4.4", words)


def _failed(enhanced_code: str, reason: str) -> Outcome:
    return failed(reason, transport=TRANSPORT, enhanced_code=enhanced_code)


def _dns_trouble(reason: str) -> Outcome:
    return deferred(f"DNS gave no answer: {reason}", transport=TRANSPORT, enhanced_code="4.4.3")
