"""The MTA-STS policies that a worker goes by: looked for, fetched, kept in memory and database (RFC 8461 §3, §5.1).

A policy that was fetched once holds until it expires, whether or not DNS and the domain's web server can be reached.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

import structlog
from django.utils import timezone

from accounts.dns.base import DnsUnavailable, NoSuchDomain, Resolver
from queue import sts_store
from queue.mta_sts import Mode, Policy, record_id
from queue.sts_fetch import FETCH_ERROR, FetchFailed
from queue.sts_store import Kept
from queue.threads import InDatabase
from queue.transports.noting import Note, SessionResult

logger = structlog.get_logger(__name__)

FAILED_SECONDS = 300.0  # RFC 8461 §3.3: an id whose policy could not be fetched is left alone for so long
SILENT_SECONDS = 60.0  # for so long a domain whose TXT question nobody answers is not asked again
RELOAD_SECONDS = 10.0  # how often other workers' policies are looked for
OVERLAP = dt.timedelta(seconds=60)  # of one reload with the next: commits become visible after their time
MAX_REMEMBERED = 10_000
REFRESHES = 20


class StsBook:
    """Belongs to one event loop; `in_database` runs a function in a database thread."""

    def __init__(
        self,
        resolver: Resolver,
        fetch: Callable[[str], Awaitable[Policy]],
        in_database: InDatabase,
        note: Note,
        *,
        now: Callable[[], dt.datetime] = timezone.now,
    ) -> None:
        self._resolver = resolver
        self._fetch = fetch
        self._in_database = in_database
        self._note = note
        self._now = now
        self._kept: dict[str, Kept] = {}
        self._loaded_at = 0.0
        self._last: dt.datetime | None = None
        self._loading = asyncio.Lock()
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._left_alone: dict[str, float] = {}  # "domain" or "domain id", until the loop's time

    async def policy_of(self, domain: str) -> Policy | None:
        """Return the policy that holds for a domain (A-labels) now; None where there is none, or it says `none`.

        Waits for a policy that is announced and not known; raises what the database raises while nothing was ever read.
        """
        await self._load()
        announced = await self._announced(domain)
        kept = self._kept.get(domain)
        if announced and (kept is None or kept.policy_id != announced or kept.expires_at <= self._now()):
            await self._get(domain, announced)
        return self._holding(domain)

    async def refresh(self) -> None:
        """Fetch those again whose turn it is: about once a day, long before they expire (RFC 8461 §3.3)."""
        await self._load()
        for domain in await self._in_database(sts_store.take_due, self._now(), REFRESHES):
            announced = await self._announced(domain)
            kept = self._kept.get(domain)
            await self._get(domain, announced or (kept.policy_id if kept else ""), again=True)

    def _holding(self, domain: str) -> Policy | None:
        kept = self._kept.get(domain)
        if kept is None or kept.expires_at <= self._now() or kept.policy.mode is Mode.NONE:
            return None
        return kept.policy

    async def _load(self) -> None:
        """Read what the database has: all at first, then what came since."""
        loop = asyncio.get_running_loop()
        if self._last is not None and loop.time() - self._loaded_at < RELOAD_SECONDS:
            return
        async with self._loading:
            if self._last is not None and loop.time() - self._loaded_at < RELOAD_SECONDS:
                return
            now = self._now()
            try:
                found = await self._in_database(sts_store.load, None if self._last is None else self._last - OVERLAP)
            except Exception:
                if self._last is None:
                    raise
                logger.warning("sts.not_read")  # what is known already still holds
            else:
                self._kept |= found
                self._last = now
            self._loaded_at = loop.time()

    async def _announced(self, domain: str) -> str:
        """Return the id in DNS; empty where none is, or nobody answers."""
        if self._is_left_alone(domain):
            return ""
        try:
            return record_id(await self._resolver.txt(f"_mta-sts.{domain}"))
        except NoSuchDomain:
            return ""
        except DnsUnavailable:
            self._leave_alone(domain, SILENT_SECONDS)
            return ""

    async def _get(self, domain: str, policy_id: str, *, again: bool = False) -> None:
        """Fetch a policy, once for all who ask for it at the same time."""
        if not again and self._is_left_alone(f"{domain} {policy_id}"):
            return
        task = self._fetching.get(domain)
        if task is None:
            task = asyncio.ensure_future(self._fetch_and_keep(domain, policy_id))
            self._fetching[domain] = task
            task.add_done_callback(lambda _: self._fetching.pop(domain, None))
        await asyncio.shield(task)

    async def _fetch_and_keep(self, domain: str, policy_id: str) -> None:
        try:
            policy = await self._fetch(domain)
        except FetchFailed as error:
            self._leave_alone(f"{domain} {policy_id}", FAILED_SECONDS)
            await self._tell(domain, error)
            return
        except Exception as error:
            # "For any reason" (RFC 8461 §3.3): what is wrong with us must not keep the mail either.
            logger.exception("sts.fetch_broke", domain=domain)
            self._leave_alone(f"{domain} {policy_id}", FAILED_SECONDS)
            await self._tell(domain, FetchFailed(FETCH_ERROR, f"an internal error ({type(error).__name__})"))
            return
        try:
            kept = await self._in_database(sts_store.save, domain, policy_id, policy, self._now())
        except Exception as error:  # noqa: BLE001  (whatever the database says: the policy holds)
            logger.error("sts.not_kept", domain=domain, cause=type(error).__name__)
            now = self._now()
            kept = Kept(policy, policy_id, now + dt.timedelta(seconds=policy.max_age), now)
        self._kept[domain] = kept
        logger.info("sts.fetched", domain=domain, mode=policy.mode.value)

    async def _tell(self, domain: str, error: FetchFailed) -> None:
        """Let the operator and the domain know that a policy cannot be had."""
        self._note(SessionResult(domain, "sts", result=error.result, reason=str(error)))
        kept = self._kept.get(domain)
        if kept is None or kept.policy.mode is Mode.NONE:
            logger.info("sts.fetch_failed", domain=domain, cause=str(error))
            return
        logger.warning("sts.refresh_failed", domain=domain, cause=str(error), holds_until=kept.expires_at.isoformat())
        try:
            await self._in_database(sts_store.note_failure, domain, str(error))
        except Exception as trouble:  # noqa: BLE001  (a note for the eye)
            logger.error("sts.not_kept", domain=domain, cause=type(trouble).__name__)

    def _is_left_alone(self, key: str) -> bool:
        return self._left_alone.get(key, 0.0) > asyncio.get_running_loop().time()

    def _leave_alone(self, key: str, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._left_alone) >= MAX_REMEMBERED:
            self._left_alone = {known: until for known, until in self._left_alone.items() if until > now}
        if len(self._left_alone) < MAX_REMEMBERED:
            self._left_alone[key] = now + seconds
