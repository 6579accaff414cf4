"""Whether an SPF record lets our host send (RFC 7208 §4.6.4, §5): a check of what somebody published, no evaluation.

A receiver asks whether one address may send. Here the question is whether the record names our host at all, by name or
by address, itself or in what it includes; the limits on lookups are the receiver's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from accounts.dns.base import DnsUnavailable, NoSuchDomain, Resolver

VERSION = "v=spf1"
MAX_LOOKUPS = 10  # RFC 7208 §4.6.4: receivers give up behind it


def spf_records(texts: Sequence[str]) -> list[str]:
    """Return those of a name's text records that are SPF (RFC 7208 §4.5)."""
    return [text for text in texts if text.lower() == VERSION or text.lower().startswith(f"{VERSION} ")]


class Reach:
    """Looks for one host in the records of a domain; it may ask ten more questions, like any receiver."""

    def __init__(self, resolver: Resolver, host: str) -> None:
        self._resolver = resolver
        self._host = host.lower()
        self._left = MAX_LOOKUPS
        self._addresses: Sequence[str] | None = None

    async def names_host(self, record: str, domain: str) -> bool:
        """Whether a term of the record that passes names the host; raises `DnsUnavailable`."""
        redirect = ""
        for term in record.lower().split()[1:]:
            if term.startswith("redirect="):
                redirect = term.removeprefix("redirect=")
            elif term[:1] not in "-~?" and await self._matches(term.removeprefix("+"), domain):
                return True
        return bool(redirect) and await self._included(redirect)

    async def _matches(self, mechanism: str, domain: str) -> bool:
        name, _, argument = mechanism.partition(":")
        name = name.partition("/")[0]
        target = (argument.partition("/")[0] or domain).rstrip(".")
        if name == "a":
            return target == self._host or await self._shares_address(target)
        if name == "mx":
            return await self._is_exchanger(target)
        if name == "include" and argument:
            return await self._included(target)
        if name in ("ip4", "ip6") and argument:
            return await self._covers(argument)
        return False

    async def _included(self, domain: str) -> bool:
        if "%" in domain or not self._take():  # a macro: whom it names depends on the message
            return False
        try:
            records = spf_records(await self._resolver.txt(domain))
        except NoSuchDomain:
            return False
        return len(records) == 1 and await self.names_host(records[0], domain)

    async def _is_exchanger(self, domain: str) -> bool:
        if "%" in domain or not self._take():
            return False
        try:
            return any(exchanger.host == self._host for exchanger in await self._resolver.mx(domain))
        except NoSuchDomain:
            return False

    async def _shares_address(self, host: str) -> bool:
        if "%" in host or not self._take():
            return False
        try:
            theirs = await self._resolver.addresses(host)
        except NoSuchDomain:
            return False
        return not set(theirs).isdisjoint(await self._own_addresses())

    async def _covers(self, network: str) -> bool:
        try:
            covered = ipaddress.ip_network(network, strict=False)
        except ValueError:
            return False
        return any(ipaddress.ip_address(address) in covered for address in await self._own_addresses())

    async def _own_addresses(self) -> Sequence[str]:
        if self._addresses is None:
            try:
                self._addresses = await self._resolver.addresses(self._host)
            except (NoSuchDomain, DnsUnavailable):  # named by name it may be all the same
                self._addresses = ()
        return self._addresses

    def _take(self) -> bool:
        self._left -= 1
        return self._left >= 0
