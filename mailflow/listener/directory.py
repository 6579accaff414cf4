"""What the sessions of a listener ask of the database and of Argon2: in threads, never on the loop.

What stands behind a recipient is kept for a second, for the same recipients come again and again; of many sessions that
want to know the same, one asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from django.db import DatabaseError, close_old_connections, connection

from accounts import addresses, credentials, odmr, sealed, users
from accounts.addresses import Resolution
from accounts.models import Domain, User
from accounts.names import Address
from mailflow import handoff
from mailflow.errors import Unavailable
from mailflow.handoff import Caller, Turn, Turned
from mailflow.listener.auth import Account, ChallengeResponse, Credentials, Given, Standing
from mailflow.message import originators
from mailflow.message.headers import MAX_SCANNED_OCTETS, header_section_end
from mailflow.policy.decision import Decision
from mailflow.policy.sender import check_header_from, refuse_long_header_section
from mailflow.smtp.reply import Reply
from mailflow.spool.large import SpoolFile

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

KEPT_SECONDS = 1.0
MAX_KEPT = 10_000
DATABASE_THREADS = 4
AUTH_THREADS = 2  # an Argon2id hash takes 64 MiB
MAX_WAITING_AUTH = 50

AUTH_BUSY = Reply(454, "7.0", "Temporary authentication failure")
LOOKUP_FAILED = Reply(451, "3.0", "Temporary lookup failure, try again later")


class Directory:
    """One per listener; its methods are for the thread of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._database = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="directory")
        self._auth = ThreadPoolExecutor(AUTH_THREADS, thread_name_prefix="auth")
        self._auth_waiting = 0
        self._resolutions = _Answers[Address, Resolution](loop, lambda address: self.ask(addresses.resolve, address))

    def resolve(self, address: Address) -> Resolution | Awaitable[Resolution]:
        """What stands behind a recipient."""
        return self._resolutions.get(address)

    async def standing(self, account: Account, address: Address | None) -> Standing:
        """Whether the account is still on, and holds the address; asked anew for each message, never remembered."""
        return await self.ask(_standing, account.user_id, address)

    async def verify(self, given: Given) -> Account | None:
        """Check a password in a thread of its own kind; raises `Unavailable` where too many are waiting."""
        if isinstance(given, ChallengeResponse):  # no Argon2
            return await self.ask(_verify_response, given)
        if self._auth_waiting >= MAX_WAITING_AUTH:
            raise Unavailable(AUTH_BUSY, "too many waiting for Argon2")
        self._auth_waiting += 1
        try:
            return await self._loop.run_in_executor(self._auth, _guarded, _verify, given)
        finally:
            self._auth_waiting -= 1

    async def check_originators(self, account: Account, content: bytes | SpoolFile) -> Decision:
        """Whether the account may use the names that the message bears."""
        return await self.ask(_check_originators, account, content)

    async def may_act_for(self, account: Account, domains: Sequence[str]) -> list[str]:
        """Return the domains if the account holds all of them, or where none is named all that it holds; else none."""
        return await self.ask(_held_domains, account, tuple(domains))

    async def may_fetch(self, account: Account, domains: Sequence[str]) -> list[str]:
        """Return as `may_act_for` the domains whose waiting mail the account may have: a host its own, managers all."""
        return await self.ask(_fetchable_domains, account, tuple(domains))

    async def start_domain(self, domain: str, actor: str) -> int:
        return await self.ask(_start_domain, domain, actor)

    async def turn(self, domains: Sequence[str], caller: Caller) -> Turned | Turn:
        return await self.ask(_turn, tuple(domains), caller)

    async def ask(self, question: Callable[..., T], *arguments: object) -> T:
        return await self._loop.run_in_executor(self._database, _guarded, question, *arguments)

    def close(self) -> None:
        self._database.shutdown(wait=False, cancel_futures=True)
        self._auth.shutdown(wait=False, cancel_futures=True)


class _Answers(Generic[K, T]):
    """Answers to one question, by what was asked about."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Callable[[K], Awaitable[T]]) -> None:
        self._loop = loop
        self._ask = ask
        self._kept: dict[K, tuple[float, T]] = {}
        self._asked: dict[K, asyncio.Task[T]] = {}

    def get(self, key: K) -> T | Awaitable[T]:
        kept = self._kept.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = self._loop.create_task(self._look_up(key))
        return asyncio.shield(asked)

    async def _look_up(self, key: K) -> T:
        try:
            answer = await self._ask(key)
        finally:
            del self._asked[key]
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key] = (time.monotonic() + KEPT_SECONDS, answer)
        return answer


def _guarded(question: Callable[..., T], *arguments: object) -> T:
    """Run in a thread with a live connection; a database that is away is `Unavailable`."""
    try:
        return question(*arguments)
    except DatabaseError as error:
        connection.close()
        raise Unavailable(LOOKUP_FAILED, str(error)) from error
    finally:
        close_old_connections()


def _verify(given: Credentials) -> Account | None:
    user = credentials.verify(given.username, given.password)
    if user is None:
        return None
    return Account(user.pk, user.username, user.organization_id, user.is_superuser)


def _verify_response(given: ChallengeResponse) -> Account | None:
    try:
        domain = odmr.verify(given.username, given.challenge, given.digest)
    except sealed.CannotOpen as error:
        raise Unavailable(AUTH_BUSY, f"an ODMR secret: {error}") from error
    if domain is None:
        return None
    return Account(0, domain.name, domain.organization_id, is_superuser=False, domain=domain.name)


def _standing(user_id: int, address: Address | None) -> Standing:
    user = User.objects.select_related("organization").filter(pk=user_id).first()
    if user is None or not users.may_act(user):
        return Standing.OFF
    if address is None or user.is_superuser or addresses.may_send_as(user, address):
        return Standing.OWNS
    return Standing.OWNS_NOT


def _check_originators(account: Account, content: bytes | SpoolFile) -> Decision:
    octets = content.head(MAX_SCANNED_OCTETS) if isinstance(content, SpoolFile) else content
    if header_section_end(octets) >= MAX_SCANNED_OCTETS:  # behind this another From could stand that nobody looked at
        return refuse_long_header_section(MAX_SCANNED_OCTETS)
    found = originators.scan(octets)
    user = User.objects.filter(pk=account.user_id).first()
    holds = addresses.may_send_as_each(user, found.addresses) if user is not None else set()
    return check_header_from(found, authenticated_as=account.username, holds=holds)


def _held_domains(account: Account, domains: Sequence[str]) -> list[str]:
    rows = Domain.objects.filter(is_active=True).order_by("name")
    if account.domain:
        if not odmr.holds(account.domain):
            return []
        rows = rows.filter(name=account.domain)
    elif not account.is_superuser:
        if account.organization_id is None:
            return []
        rows = rows.filter(organization_id=account.organization_id)
    if domains:
        rows = rows.filter(name__in=domains)
    held = [domain.name for domain in rows if domain.is_usable]
    return held if not domains or set(held) == set(domains) else []


def _fetchable_domains(account: Account, domains: Sequence[str]) -> list[str]:
    """To take a domain's mail away is for who manages it; that no mail waits may be told to all who hold it."""
    held = _held_domains(account, domains)
    if account.domain or account.is_superuser:
        return held
    if User.objects.filter(pk=account.user_id, is_organization_admin=True).exists():
        return held
    rows = Domain.objects.filter(name__in=held, delivery=Domain.Delivery.DIAL_UP)
    dial_up = set(rows.values_list("name", flat=True))
    return [] if domains and dial_up else [name for name in held if name not in dial_up]


def _start_domain(domain: str, actor: str) -> int:
    return handoff.current().start_domain(domain, actor=actor)


def _turn(domains: Sequence[str], caller: Caller) -> Turned | Turn:
    return handoff.current().turn(domains, caller)
