"""What decides where a message goes, and the names of hosts as people write them; pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from accounts.names import InvalidName, parse_domain

_PORT = re.compile(r"(?P<host>.*[^:]):(?P<port>[0-9]{1,5})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Destination:
    """A recipient domain (A-labels, lower case) or address literal, and what else the way depends on.

    `route`: a next hop that a person chose, `host` or `host:port`. `is_tls_optional`: the sender wants the message to
    arrive whatever the domain's TLS policy says (`TLS-Required: No`, RFC 8689 §3), `requires_tls`: that it go over
    verified TLS to a host that is known to be the right one, or not at all (§4.2.1). `own_host`: of a dial-up domain of
    ours whose host asked for its mail: where that is, `host` or `host:port`, or empty for its exchangers.
    """

    domain: str
    organization_id: int | None = None
    route: str = ""
    is_tls_optional: bool = False
    requires_tls: bool = False
    own_host: str | None = None


class InvalidHop(ValueError):
    """The text names no host; it says why."""


def parse_hop(text: str, default_port: int) -> tuple[str, int]:
    """Read `host`, `host:port`, `192.0.2.1`, `[2001:db8::1]:25`; return A-labels or a canonical address, and the port.

    A bare IPv6 address is an address without a port.
    """
    text = text.strip()
    port = default_port
    if not literal(text) and (found := _PORT.fullmatch(text)):
        text, port = found["host"], int(found["port"])
        if not 1 <= port <= 65535:
            raise InvalidHop("a port is a number from 1 to 65535")
    if address := literal(text):
        return address, port
    try:
        return parse_domain(text), port
    except InvalidName as error:
        raise InvalidHop(str(error)) from None


@lru_cache(maxsize=4096)
def literal(text: str) -> str:
    """Return the address in `192.0.2.1`, `[192.0.2.1]` or `[IPv6:2001:db8::1]` in canonical form; empty for a name."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(inner.lower().removeprefix("ipv6:")))
    except ValueError:
        return ""
