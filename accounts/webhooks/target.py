"""Where a webhook may go: the URL as its owner wrote it, checked before it is kept and again before it is used; pure.

Whoever may make an endpoint chooses where we connect to. A name is judged when it is resolved (`sender`), an address
here. An address in any spelling but the usual one is refused and not guessed at: what one program takes for a name,
another takes for 127.0.0.1 (WHATWG URL, "ends in a number").
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

from accounts.names import InvalidName, parse_domain
from accounts.networks import IPNetwork, may_connect

MAX_LENGTH = 2000
_PORTS = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[^\x00-\x20\x7f\\]+\Z")
_SAFE = "/?%:@!$&'()*+,;=~"  # what may stand in a path and a query as it is (RFC 3986 §3.3, §3.4)
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)\Z")
NOT_PUBLIC = "the address {} is not a public one, nor in WEBHOOK_ALLOWED_NETWORKS"


class InvalidTarget(ValueError):
    """A URL that nothing is sent to; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in the form that is sent to; `host` is a name in A-labels or an address without brackets."""

    url: str
    host: str
    port: int
    is_address: bool


def parse(text: str, allowed: Iterable[IPNetwork] = ()) -> Target:
    """Return the target of a URL, or raise `InvalidTarget`."""
    if not text or len(text) > MAX_LENGTH:
        raise InvalidTarget(f"a URL of at most {MAX_LENGTH} characters is needed")
    if not _PRINTABLE.match(text):
        raise InvalidTarget("spaces, control characters and backslashes have no place in a URL")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidTarget("this is no URL") from None
    if parts.scheme.lower() not in _PORTS:
        raise InvalidTarget("the URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise InvalidTarget("a user name or password in the URL is not taken: the signature says who sends")
    if port == 0:
        raise InvalidTarget("the port must be from 1 to 65535")
    host, is_address = _host(parts)
    if is_address and not may_connect(host, tuple(allowed)):
        raise InvalidTarget(NOT_PUBLIC.format(host))
    scheme = parts.scheme.lower()
    return Target(_rebuilt(parts, scheme, host, port), host, port or _PORTS[scheme], is_address)


def _host(parts: SplitResult) -> tuple[str, bool]:
    """Return the host and whether it is an address."""
    written = parts.hostname or ""
    if not written:
        raise InvalidTarget("the URL has no host")
    if parts.netloc.startswith("["):
        return _ipv6(written), True
    try:
        return str(ipaddress.IPv4Address(written)), True
    except ValueError:
        pass
    try:
        name = parse_domain(written)
    except InvalidName as error:
        raise InvalidTarget(f"the host is not a name: {error}") from None
    # After the name was mapped: full-width digits are digits by now.
    if _NUMBER.match(name.rpartition(".")[2]):
        raise InvalidTarget("an address is written as four decimal numbers, such as 192.0.2.1, and not otherwise")
    return name, False


def _ipv6(written: str) -> str:
    if "%" in written:
        raise InvalidTarget("an address with a zone is not taken")
    try:
        return str(ipaddress.IPv6Address(written))
    except ValueError:
        raise InvalidTarget("the host is not an IPv6 address") from None


def _rebuilt(parts: SplitResult, scheme: str, host: str, port: int | None) -> str:
    """Put the URL together of what was checked, so that no other reader of it finds another host."""
    place = f"[{host}]" if ":" in host else host
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return f"{scheme}://{place}{f':{port}' if port else ''}{path}{query}"
