"""Who signs: which mail that leaves gets DKIM signatures, and of which keys (RFC 6376 §5.1, §5.2, docs/adr/0012).

Our own mail is signed for the domain of its author: submissions, HTTP sends and reports. What others wrote goes on as
it came. Nothing that should be signed goes out unsigned because a key cannot be had: it waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from accounts.key_pairs import SigningKey
from accounts.signing_keys import Holding, holding_of
from mailflow.message import originators
from mailflow.message.headers import header_section_end
from mailflow.models import Message
from queue import signing
from queue.claim import Parcel
from queue.outcome import Outcome, deferred
from queue.signing import Unsignable

logger = structlog.get_logger(__name__)

InDatabase = Callable[[Callable[[], Holding]], Awaitable[Holding]]

KEYS_SECONDS = 5.0  # for so long a domain's keys are not looked up again: a retired one signs no longer than that
SHARED_SECONDS = 10.0  # for so long the recipients of one message share its signatures, whatever domains they are in
MAX_DOMAINS = 10_000
MAX_SHARED = 1000
MAX_AUTHOR_DOMAINS = 3
THREADS = 2

_OTHERS = {
    Message.Source.RECEPTION.value: "it did not come from an account of ours",
    Message.Source.FORWARD.value: "forwarded mail goes on as it came",
}


@dataclass(frozen=True, slots=True)
class Signed:
    """What goes on top of the message, and what people are told of it. `obstacle`: why it must not go out now."""

    fields: bytes = b""
    words: str = ""
    obstacle: Outcome | None = None


NOT_ASKED = Signed()


class Signer:
    """Signs in threads of its own, for one event loop; `in_database` runs a function in a database thread."""

    def __init__(self, in_database: InDatabase) -> None:
        self._in_database = in_database
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="engine-sign")
        self._holdings: OrderedDict[str, tuple[float, Holding]] = OrderedDict()  # with the time they were looked up
        self._lookups: dict[str, asyncio.Task[Holding]] = {}
        self._made: OrderedDict[tuple[str, ...], tuple[float, asyncio.Future[bytes]]] = OrderedDict()

    async def sign(self, parcel: Parcel, content: bytes) -> Signed:
        """Sign a message if it is ours to sign. An answer is kept for its other recipients of the next seconds."""
        domains = author_domains(parcel, content)
        if isinstance(domains, str):
            return _unsigned(domains)
        keys: list[SigningKey] = []
        reasons: list[str] = []
        for domain in domains:
            holding = await self._holding(domain)
            reason = why_not(domain, holding, parcel)
            if holding.trouble and not reason:
                return _waiting(domain, holding.trouble)
            keys += () if reason else holding.keys
            reasons += [reason] if reason else []
        if not keys:
            return _unsigned(reasons[0])
        try:
            return Signed(await self._signatures(parcel, content, keys), _words(keys))
        except Unsignable as error:
            return _unsigned(str(error))

    async def _holding(self, domain: str) -> Holding:
        """Return what the domain is to us, as it was a few seconds ago at most; one lookup serves all that wait."""
        looked_up_at, known = self._holdings.get(domain, (-KEYS_SECONDS, Holding()))
        if time.monotonic() < looked_up_at + KEYS_SECONDS:
            return known
        lookup = self._lookups.get(domain)
        if lookup is None:
            lookup = self._lookups[domain] = asyncio.create_task(self._look_up(domain, known.keys))
            lookup.add_done_callback(lambda _: self._lookups.pop(domain, None))
        return await asyncio.shield(lookup)

    async def _look_up(self, domain: str, known: Sequence[SigningKey]) -> Holding:
        now = time.monotonic()
        holding = await self._in_database(partial(holding_of, domain, known))
        if holding.trouble:
            logger.error("queue.dkim_key_unusable", domain=domain, cause=holding.trouble)
        self._holdings[domain] = now, holding
        self._holdings.move_to_end(domain)
        while len(self._holdings) > MAX_DOMAINS:
            self._holdings.popitem(last=False)
        return holding

    async def _signatures(self, parcel: Parcel, content: bytes, keys: Sequence[SigningKey]) -> bytes:
        """Return the signatures of a message, made once for all recipients that come within some seconds."""
        made_for = (parcel.message_id, *(f"{key.selector}._domainkey.{key.domain}" for key in keys))
        made_at, made = self._made.get(made_for, (-SHARED_SECONDS, None))
        if made is None or time.monotonic() >= made_at + SHARED_SECONDS:
            make = partial(signing.sign, content, tuple(keys), int(time.time()))
            made = asyncio.get_running_loop().run_in_executor(self._threads, make)
            self._made[made_for] = time.monotonic(), made
            self._made.move_to_end(made_for)
            while len(self._made) > MAX_SHARED:
                self._made.popitem(last=False)
        return await asyncio.shield(made)


def author_domains(parcel: Parcel, content: bytes) -> Sequence[str] | str:
    """Return the domains of the message's authors, or in words why nobody signs for them."""
    if parcel.source in _OTHERS:
        return _OTHERS[parcel.source]
    end = header_section_end(content)
    if end > signing.MAX_HEADER_OCTETS:
        return signing.HEADER_TOO_LARGE
    found = originators.scan(content[:end])
    if found.from_count != 1:
        return f"it has {'more than one' if found.from_count else 'no'} From field"
    domains = tuple(dict.fromkeys(address.domain for address in found.from_addresses))
    if not domains or len(domains) > MAX_AUTHOR_DOMAINS:
        return found.flaw or "its authors are of too many domains"
    return domains


def why_not(domain: str, holding: Holding, parcel: Parcel) -> str:
    """Say why a message is not signed for this domain of its author; empty where it is, or must wait for a key.

    A report is written by ourselves and is signed for whatever domain of ours it comes from.
    """
    if holding.organization_id is None:
        return f"{domain} is not a domain that is in use here"
    if parcel.source != Message.Source.DSN and parcel.organization_id != holding.organization_id:
        return f"{domain} is not held by the sender's organization"
    if not holding.keys and not holding.trouble:
        return f"{domain} has no active DKIM key"
    return ""


def _words(keys: Sequence[SigningKey]) -> str:
    domains = dict.fromkeys(key.domain for key in keys)
    named = [f"{domain} ({', '.join(key.selector for key in keys if key.domain == domain)})" for domain in domains]
    return f"Signed with DKIM for {' and '.join(named)}."


def _unsigned(reason: str) -> Signed:
    return Signed(words=f"Not signed with DKIM: {reason}.")


def _waiting(domain: str, trouble: str) -> Signed:
    """The cause is for the event; the outcome's words may reach the sender, in a report."""
    words = f"A DKIM key of {domain} cannot be used, and mail of this domain is not sent unsigned."
    obstacle = deferred(words, transport="smtp", enhanced_code="4.3.5")  # RFC 3463 §3.4: system incorrectly configured
    return Signed(words=f"Not signed with DKIM: {trouble}.", obstacle=obstacle)
