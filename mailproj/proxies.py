"""Who the client is behind the proxies of HTTP_TRUSTED_PROXIES (X-Forwarded-For), and whose word on TLS is taken.

REMOTE_ADDR is set once, before anything else sees the request: limits, trail, events, webhooks and logs then name the
client. What other peers forward is not believed; who sends it from loopback is a proxy that nobody named, and must not
make the whole world exempt from the limits.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from mailproj.env import IPNetwork

if TYPE_CHECKING:  # DRF imports this module while it makes its views, which that one needs
    from mailproj.middleware import GetResponse

log = structlog.get_logger(__name__)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

NOT_DIRECT = "mailproj.address_is_a_proxys"  # in META: the client is somebody behind REMOTE_ADDR
_FOR = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
_PROTO = "HTTP_X_FORWARDED_PROTO"
_SIGNS = (*_FOR, _PROTO, "HTTP_X_FORWARDED_HOST", "HTTP_VIA")


def client_address(get_response: GetResponse) -> GetResponse:
    """Set REMOTE_ADDR to the client's own address, as far as trusted proxies tell of it."""

    def middleware(request: HttpRequest) -> HttpResponse:
        meta = request.META
        peer = _parsed(str(meta.get("REMOTE_ADDR", "")))
        meta[NOT_DIRECT] = any(name in meta for name in _SIGNS)
        if peer is None or not _is_in(peer, settings.HTTP_TRUSTED_PROXIES):
            if meta[NOT_DIRECT] and peer is not None and peer.is_private:
                _warn_once(str(peer))
            meta.pop(_PROTO, None)
            return get_response(request)
        client = client_of(meta.get("HTTP_X_FORWARDED_FOR", ""), settings.HTTP_TRUSTED_PROXIES)
        if client is not None:
            meta["REMOTE_ADDR"], meta[NOT_DIRECT] = str(client), False
            for name in _FOR:  # said by REMOTE_ADDR from here on; what else a client wrote there means nothing
                meta.pop(name, None)
        return get_response(request)

    return middleware


def client_of(forwarded_for: str, trusted: Sequence[IPNetwork]) -> IPAddress | None:
    """Return the rightmost address that is no trusted proxy, or the leftmost where all are; None where none is told.

    Each proxy adds its own peer on the right, so what stands left of the client is the client's own invention. The
    first entry that is no address ends the search, and so does loopback: that is somebody on the proxy's own machine.
    """
    found = None
    for entry in reversed(forwarded_for.split(",")):
        address = parse_entry(entry)
        if address is None or address.is_loopback:
            return None
        found = address
        if not _is_in(address, trusted):
            break
    return found


def parse_entry(text: str) -> IPAddress | None:
    """Read `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711`."""
    host = text.strip()
    if host.startswith("["):
        host, bracket, port = host[1:].partition("]")
        if not bracket or ":" not in host or not _is_port(port):
            return None
    elif host.count(":") == 1:
        host, colon, port = host.partition(":")
        if not _is_port(colon + port):
            return None
    return _parsed(host)


def _is_port(text: str) -> bool:
    return not text or (text.startswith(":") and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6)


def _parsed(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return None if address.scope_id else address.ipv4_mapped or address
    return address


def _is_in(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)


@lru_cache(maxsize=64)
def _warn_once(peer: str) -> None:
    """A proxy that was forgotten in the settings shows as a redirect without end; here it shows why."""
    log.warning(
        "http.proxy_not_trusted", peer=peer, setting="HTTP_TRUSTED_PROXIES", effect="its headers are not believed"
    )
