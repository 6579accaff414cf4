"""Which addresses a connection to the outside may go to (RFC 6890 §2.2, RFC 4291 §2.5.5, RFC 3056, RFC 6052); pure.

Whoever controls a domain's DNS chooses the address that we connect to. Without this rule mail could be made
to reach the services of our own network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291 §2.4: nothing else is handed out
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def embedded_ipv4(address: IPAddress) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one leads to: IPv4-mapped, 6to4 or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def is_public(address: IPAddress) -> bool:
    """Whether it belongs to the Internet: not private, loopback, link-local, multicast, reserved or unspecified."""
    inner = embedded_ipv4(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def may_connect(address: str, allowed: Iterable[IPNetwork]) -> bool:
    """Whether a connection to this literal address is allowed: public, or in a network that the operator named."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return is_public(parsed) or _is_among(parsed, allowed)


def is_in(address: str, networks: Iterable[IPNetwork]) -> bool:
    """Whether the literal address, or the IPv4 one that it leads to, is in one of the networks."""
    try:
        return _is_among(ipaddress.ip_address(address), networks)
    except ValueError:
        return False


def _is_among(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    inner = embedded_ipv4(address)
    return any(address in network or (inner is not None and inner in network) for network in networks)
