"""The resolver that answers from a table: for tests and for hypothetical messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from accounts.dns.base import DnsUnavailable, MailExchanger, NoSuchDomain


@dataclass(slots=True)
class MemoryResolver:
    """Implements `accounts.dns.base.Resolver`. Names are lower case without trailing dot.

    `fail` holds questions that go unanswered: `"mx example.test"`, `"addresses mx.example.test"`. `asked` has every
    question in the same form. A name exists if it is in a table, or a name below it is.
    """

    exchangers: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    hosts: dict[str, list[str]] = field(default_factory=dict)
    fail: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    async def mx(self, domain: str) -> Sequence[MailExchanger]:
        name = self._question("mx", domain)
        return [MailExchanger(preference, host) for preference, host in self.exchangers.get(name, [])]

    async def addresses(self, host: str) -> Sequence[str]:
        name = self._question("addresses", host)
        return sorted(self.hosts.get(name, []), key=lambda address: ":" in address)

    def _question(self, kind: str, name: str) -> str:
        name = name.lower().rstrip(".")
        self.asked.append(f"{kind} {name}")
        if f"{kind} {name}" in self.fail:
            raise DnsUnavailable(f"{kind} of {name}: told to fail")
        if not any(known == name or known.endswith("." + name) for known in (*self.exchangers, *self.hosts)):
            raise NoSuchDomain(name)
        return name
