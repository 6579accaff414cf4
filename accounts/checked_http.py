"""HTTP to places that others choose: webhooks (docs/adr/0020), and MTA-STS policies with the same resolver.

Names are resolved by our own resolver, only addresses that may be connected to come out of that, and each is judged
once more where its socket is made: what was checked is what is connected to, whatever DNS says a moment later. No
proxies, no cookies, nothing decompressed; redirects are the caller's to refuse.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from accounts.dns.base import DnsUnavailable, NoSuchDomain, Resolver
from accounts.networks import IPNetwork, is_in, may_connect

MAX_ADDRESSES = 3  # of one host


class NotPermitted(OSError):
    """An address that nothing connects to; the text says so."""


def session(
    resolver: Resolver,
    allowed: Sequence[IPNetwork],
    *,
    timeout: aiohttp.ClientTimeout,
    tls: ssl.SSLContext | None = None,
) -> aiohttp.ClientSession:
    """Return a session that connects to public addresses and `allowed` networks alone; the caller closes it."""
    connector = aiohttp.TCPConnector(
        resolver=PermittedAddresses(resolver, lambda address: is_permitted(address, allowed)),
        use_dns_cache=False,  # the resolver's own keeps to the TTL
        ssl=tls or True,
        limit=0,
        keepalive_timeout=15,
        socket_factory=lambda info: _socket(info, allowed),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=timeout,
    )


class PermittedAddresses(AbstractResolver):
    """Our resolver as aiohttp asks one: addresses that are not permitted are not there."""

    def __init__(self, resolver: Resolver, permitted: Callable[[str], bool]) -> None:
        self._resolver = resolver
        self._permitted = permitted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            found = await self._resolver.addresses(host)
        except NoSuchDomain:
            raise OSError(f"{host} does not exist") from None
        except DnsUnavailable as error:
            raise OSError(f"DNS gave no answer: {error}") from None
        if not found:
            raise OSError(f"{host} has no address")
        usable = [address for address in found if self._permitted(address)]
        if not usable:
            raise NotPermitted(f"{host} has no public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in usable[:MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        """Nothing is held open."""


def is_permitted(address: str, allowed: Sequence[IPNetwork]) -> bool:
    """Whether to connect: to what the operator named, and else to public addresses that are not this machine's own."""
    return is_in(address, allowed) or (may_connect(address, ()) and not _is_own(address))


def _is_own(address: str) -> bool:
    """Whether the address is this machine's: a datagram to it would have it as its sender. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(probe.getsockname()[0]) == address
    except OSError:
        return False  # no way there: the connection itself will say so


def _socket(info: Any, allowed: Sequence[IPNetwork]) -> socket.socket:
    family, kind, proto, _, place = info
    if not is_permitted(str(place[0]), allowed):
        raise NotPermitted(f"{place[0]} is not an address that may be connected to")
    made = socket.socket(family, kind, proto)
    made.setblocking(False)
    return made
