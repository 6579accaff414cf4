"""The resolver as the rest of the system sees it; `dnspython` and `memory` implement it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class DnsUnavailable(Exception):
    """No answer just now (timeout, SERVFAIL, no server): always temporary."""


class NoSuchDomain(Exception):
    """NXDOMAIN: the name does not exist."""


class Answer(tuple[T, ...]):
    """The records of one name. `is_secure`: the resolver vouches for them (RFC 4035 §3.2.3), the aliases before them
    included; never where the operator does not say that it validates. `name`: where the aliases led, where there were
    any.
    """

    is_secure: bool
    name: str

    def __new__(cls, records: Iterable[T] = (), *, is_secure: bool = False, name: str = "") -> Answer[T]:
        answer = super().__new__(cls, tuple(records))
        answer.is_secure = is_secure
        answer.name = name
        return answer


@dataclass(frozen=True, slots=True)
class MailExchanger:
    preference: int
    host: str  # lower case, no trailing dot; "" is the null MX (RFC 7505)


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One TLSA record (RFC 6698 §2.1), whatever its numbers are."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"


class Resolver(Protocol):
    """Answers are empty where the name exists without such a record; NXDOMAIN and failures are the exceptions above."""

    async def mx(self, domain: str) -> Answer[MailExchanger]: ...

    async def addresses(self, host: str) -> Answer[str]:
        """IPv4 and IPv6 addresses of a host as text; IPv6 after IPv4. Secure where all that was answered is."""
        ...

    async def txt(self, name: str) -> Answer[str]:
        """Text records, the strings of each joined (RFC 8461 §3.1)."""
        ...

    async def tlsa(self, name: str) -> Answer[Tlsa]:
        """TLSA records, of a name such as `_25._tcp.mail.example.com`."""
        ...

    async def is_signed_alias(self, host: str) -> bool:
        """Whether the name is an alias in a signed zone, whatever it leads to (RFC 7672 §2.1.3)."""
        ...
