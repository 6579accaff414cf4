"""The resolver as the rest of the system sees it; `dnspython` and `memory` implement it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class DnsUnavailable(Exception):
    """No answer just now (timeout, SERVFAIL, no server): always temporary."""


class NoSuchDomain(Exception):
    """NXDOMAIN: the name does not exist."""


@dataclass(frozen=True, slots=True)
class MailExchanger:
    preference: int
    host: str  # lower case, no trailing dot; "" is the null MX (RFC 7505)


class Resolver(Protocol):
    """Answers are empty where the name exists without such a record; NXDOMAIN and failures are the exceptions above."""

    async def mx(self, domain: str) -> Sequence[MailExchanger]: ...

    async def addresses(self, host: str) -> Sequence[str]:
        """IPv4 and IPv6 addresses of a host as text; IPv6 after IPv4."""
        ...
