"""The resolver that answers from a table: for tests and for hypothetical messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from accounts.dns.base import Answer, DnsUnavailable, MailExchanger, NoSuchDomain, Tlsa

T = TypeVar("T")


@dataclass(slots=True)
class MemoryResolver:
    """Implements `accounts.dns.base.Resolver`. Names are lower case without trailing dot.

    `fail` holds questions that go unanswered: `"mx example.test"`, `"addresses mx.example.test"`, `"txt …"`,
    `"tlsa …"`. `asked` has every question in the same form. A name exists if it is in a table, or a name below it is.
    Answers about a name are secure if it is in `signed`. `aliases` lead from a host to the name that has its addresses.
    """

    exchangers: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    hosts: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    tlsa_records: dict[str, list[Tlsa]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    fail: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    async def mx(self, domain: str) -> Answer[MailExchanger]:
        name = self._question("mx", domain)
        found = [MailExchanger(preference, host) for preference, host in self.exchangers.get(name, [])]
        return self._answer(name, found)

    async def addresses(self, host: str) -> Answer[str]:
        name = self._question("addresses", host)
        target = self.aliases.get(name, name)
        found = sorted(self.hosts.get(target, []), key=lambda address: ":" in address)
        return Answer(found, is_secure={name, target} <= self.signed, name=target)

    async def txt(self, name: str) -> Answer[str]:
        name = self._question("txt", name)
        return self._answer(name, self.texts.get(name, []))

    async def tlsa(self, name: str) -> Answer[Tlsa]:
        name = self._question("tlsa", name)
        return self._answer(name, self.tlsa_records.get(name, []))

    async def is_signed_alias(self, host: str) -> bool:
        name = self._question("cname", host)
        return name in self.aliases and name in self.signed

    def _answer(self, name: str, records: list[T]) -> Answer[T]:
        return Answer(records, is_secure=name in self.signed, name=name)

    def _question(self, kind: str, name: str) -> str:
        name = name.lower().rstrip(".")
        self.asked.append(f"{kind} {name}")
        if f"{kind} {name}" in self.fail:
            raise DnsUnavailable(f"{kind} of {name}: told to fail")
        known = (*self.exchangers, *self.hosts, *self.texts, *self.tlsa_records, *self.aliases)
        if not any(one == name or one.endswith("." + name) for one in known):
            raise NoSuchDomain(name)
        return name
