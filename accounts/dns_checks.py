"""Look a domain's records up and say, for each, what was found and what was expected (contract §5); writes nothing."""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accounts.dns.base import DnsUnavailable, NoSuchDomain, Resolver
from accounts.dns_records import Purpose, Record
from accounts.spf_terms import Reach, spf_records

MAX_FOUND = 10  # of a name's text records; a crowded name must not fill the answer
MAX_TEXT = 600
MAX_SECONDS = 20.0
_POLICIES = ("none", "quarantine", "reject")
_DMARC = re.compile(r"v\s*=\s*DMARC1\s*(?:;|\Z)")  # RFC 7489 §6.3: in this case, and first


class State(enum.StrEnum):
    """How a record stands."""

    OK = "ok"
    MISSING = "missing"  # nothing of the kind is there
    WRONG = "wrong"  # something is there, but not what is needed
    UNAVAILABLE = "unavailable"  # DNS gave no answer just now


@dataclass(frozen=True, slots=True)
class Result:
    """One record with what was found in its place, and in words why that will do or will not."""

    record: Record
    state: State
    found: Sequence[str]
    words: str

    def as_json(self) -> dict[str, Any]:
        """Return the form in which it is kept and answered."""
        return {
            "purpose": self.record.purpose.value,
            "type": self.record.type,
            "name": self.record.name,
            "expected": self.expected,
            "found": [text[:MAX_TEXT] for text in self.found[:MAX_FOUND]],
            "status": self.state.value,
            "required": self.record.required,
            "message": self.words,
        }

    @property
    def expected(self) -> str:
        return f"{self.record.preference} {self.record.value}" if self.record.type == "MX" else self.record.value


async def check(records: Sequence[Record], resolver: Resolver) -> list[Result]:
    """Ask for all records at once; the answer has one result for each, in their order, and nothing is raised."""
    return list(await asyncio.gather(*(_checked(record, resolver) for record in records)))


async def _checked(record: Record, resolver: Resolver) -> Result:
    try:
        async with asyncio.timeout(MAX_SECONDS):
            return await _JUDGES[record.purpose](record, resolver)
    except DnsUnavailable as error:
        return Result(record, State.UNAVAILABLE, [], f"DNS gave no answer just now: {error}.")
    except TimeoutError:
        return Result(record, State.UNAVAILABLE, [], "DNS gave no answer in time.")


async def _ownership(record: Record, resolver: Resolver) -> Result:
    texts = await _texts(record, resolver)
    if record.value in (text.strip() for text in texts):
        return Result(record, State.OK, texts, "The token is there.")
    return _not_it(record, texts, "None of them is this domain's token.")


async def _mx(record: Record, resolver: Resolver) -> Result:
    try:
        exchangers = sorted(await resolver.mx(record.name), key=lambda one: one.preference)
    except NoSuchDomain:
        exchangers = []
    found = [f"{one.preference} {one.host or '.'}" for one in exchangers]
    if any(one.host == record.value.lower() for one in exchangers):
        return Result(record, State.OK, found, "Mail for the domain comes to this host.")
    return _not_it(record, found, f"None of them leads to {record.value}.")


async def _spf(record: Record, resolver: Resolver) -> Result:
    found = spf_records(await _texts(record, resolver))
    if len(found) > 1:
        return Result(record, State.WRONG, found, "There must be one SPF record: receivers reject several as an error.")
    if not found:
        return _not_it(record, [], "")
    host = record.value.partition("a:")[2].split()[0]
    if found[0] == record.value or await Reach(resolver, host).names_host(found[0], record.name):
        return Result(record, State.OK, found, f"It lets {host} send.")
    return Result(record, State.WRONG, found, f"It does not let {host} send; add a:{host} to it.")


async def _dkim(record: Record, resolver: Resolver) -> Result:
    texts = await _texts(record, resolver)
    wanted = _tags(record.value)
    for text in texts:
        tags = _tags(text)
        if tags.get("p") == wanted.get("p") and tags.get("k", "rsa") == wanted.get("k", "rsa"):
            return Result(record, State.OK, texts, "The key is there.")
    return _not_it(record, texts, "None of them has the key that signs.")


async def _dmarc(record: Record, resolver: Resolver) -> Result:
    found = [text for text in await _texts(record, resolver) if _DMARC.match(text)]
    if len(found) > 1:
        return Result(record, State.WRONG, found, "There must be one DMARC record: receivers pass over several.")
    if found and _tags(found[0]).get("p", "").lower() not in _POLICIES:
        return Result(record, State.WRONG, found, "It has no policy: p= must be none, quarantine or reject.")
    return Result(record, State.OK, found, "A policy is there.") if found else _not_it(record, [], "")


_JUDGES: dict[Purpose, Callable[[Record, Resolver], Awaitable[Result]]] = {
    Purpose.OWNERSHIP: _ownership,
    Purpose.MX: _mx,
    Purpose.SPF: _spf,
    Purpose.DKIM: _dkim,
    Purpose.DMARC: _dmarc,
}


async def _texts(record: Record, resolver: Resolver) -> Sequence[str]:
    try:
        return await resolver.txt(record.name)
    except NoSuchDomain:
        return []


def _not_it(record: Record, found: Sequence[str], why: str) -> Result:
    if found:
        return Result(record, State.WRONG, found, why)
    return Result(record, State.MISSING, [], f"There is no such record at {record.name}.")


def _tags(text: str) -> dict[str, str]:
    """Read a tag list (RFC 6376 §3.2), without the blanks that may stand in a key."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): "".join(value.split()) for name, _, value in pairs if name.strip()}
