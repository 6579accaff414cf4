"""The router of one worker: `routing` with what it keeps between questions, the overrides and the TLS policies.

Belongs to the engine's event loop; what it needs of the database it asks for every few seconds, with one query each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog
from django.conf import settings
from django.db import Error

from accounts.dns.base import Resolver
from queue import routing, smarthosts
from queue.hops import Destination
from queue.outcome import Outcome, deferred
from queue.routing import RoutingPolicy
from queue.smarthosts import Smarthosts
from queue.sts_book import StsBook
from queue.sts_fetch import PolicyFetcher
from queue.threads import InDatabase
from queue.tls_figures import TlsFigures
from queue.tls_rules import PolicyRules
from queue.transports.base import Route

logger = structlog.get_logger(__name__)

OVERRIDES_HOLD_SECONDS = 3.0
REFRESH_SECONDS = 600.0  # how often it is looked whether policies are to be fetched again
FLUSH_SECONDS = 1.0


class Router:
    """Implements `delivery.Router`; `keep_up` is to be run beside it for as long as it is in use."""

    def __init__(
        self,
        resolver: Resolver,
        policy: RoutingPolicy,
        in_database: InDatabase,
        *,
        figures: TlsFigures | None = None,
        fetcher: PolicyFetcher | None = None,
        validates: bool | None = None,
    ) -> None:
        self.figures = figures or TlsFigures()
        self._resolver = resolver
        self._policy = policy
        self._in_database = in_database
        fetch = fetcher or PolicyFetcher(resolver, policy.allowed_networks)
        self._book = StsBook(resolver, fetch, in_database, self.figures.note)
        self._rules = PolicyRules(
            resolver,
            self._book.policy_of,
            settings.DNS_VALIDATES if validates is None else validates,
            self.figures.note,
        )
        self._overrides: Smarthosts | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def __call__(self, destinations: Sequence[Destination]) -> dict[Destination, Route | Outcome]:
        """Find the way of the first, for all that share it: who goes by the same relay. The others are left out."""
        first, sharing = destinations[0], destinations
        try:
            overrides = await self._current_overrides()
            relay = routing.relay_of(first, self._policy, overrides)
            sharing = [
                to
                for to in destinations
                if to == first or (relay is not None and routing.relay_of(to, self._policy, overrides) == relay)
            ]
            answer = await routing.resolve_route(
                first, self._resolver, self._policy, overrides=overrides, tls_rules=self._rules
            )
        except Error as error:
            # Without them mail might go a way that somebody ruled out.
            logger.error("queue.routes_not_read", cause=f"{type(error).__name__}: {error}")
            words = "the smarthosts and TLS policies cannot be read from the database"
            answer = deferred(words, transport=routing.TRANSPORT, enhanced_code="4.3.0")
        return dict.fromkeys(sharing, answer)

    async def begin(self) -> None:
        """Read the overrides, so that what comes first is put together by them too."""
        try:
            await self._current_overrides()
        except Exception as error:  # noqa: BLE001  (whoever asks the way asks again)
            logger.error("queue.routes_not_read", cause=f"{type(error).__name__}: {error}")

    def companions(self, to: Destination) -> Callable[[Destination], bool] | None:
        """Return what tells whether another recipient's mail goes by the same relay; None where it goes by none.

        By what was read for the last message, without asking anybody: when the way is asked for, who does not share it
        by now is set apart again.
        """
        overrides = self._overrides
        relay = None if overrides is None else routing.relay_of(to, self._policy, overrides)
        if overrides is None or relay is None:
            return None
        return lambda other: routing.relay_of(other, self._policy, overrides) == relay

    async def keep_up(self) -> None:
        """Write figures down, and fetch policies again in time; runs until it is cancelled."""
        refresh_at = time.monotonic() + REFRESH_SECONDS / 10
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
            if time.monotonic() >= refresh_at:
                refresh_at = time.monotonic() + REFRESH_SECONDS
                await self.refresh_policies()

    async def flush(self) -> None:
        if not len(self.figures):
            return
        try:
            await self._in_database(self.figures.flush)
        except Exception as error:  # noqa: BLE001  (they are kept for the next time)
            logger.error("queue.figures_not_written", cause=f"{type(error).__name__}: {error}")

    async def refresh_policies(self) -> None:
        try:
            await self._book.refresh()
        except Exception as error:  # noqa: BLE001  (the next time comes)
            logger.error("queue.policies_not_refreshed", cause=f"{type(error).__name__}: {error}")

    async def _current_overrides(self) -> Smarthosts:
        """Return the overrides as they were a few seconds ago at most; older ones only while the database is away."""
        if self._overrides is not None and time.monotonic() - self._read_at < OVERRIDES_HOLD_SECONDS:
            return self._overrides
        async with self._reading:
            if self._overrides is None or time.monotonic() - self._read_at >= OVERRIDES_HOLD_SECONDS:
                try:
                    self._overrides = await self._in_database(smarthosts.load)
                except Error:
                    if self._overrides is None:
                        raise
                self._read_at = time.monotonic()
        assert self._overrides is not None
        return self._overrides
