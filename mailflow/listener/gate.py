"""The limits as a session meets them: who is counted, under which of the rules (contract §2).

Who has authenticated is counted by account and no longer by address. Each question is answered at once where the limits
know, else by something to be awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mailflow.limits import rules, subjects
from mailflow.limits.limits import Limits
from mailflow.limits.rules import Verdict

if TYPE_CHECKING:
    from mailflow.listener.session import Session

Answer = Verdict | Awaitable[Verdict]

MAX_COMMAND_BLOCK = 50  # granted to a session at once, where the limits are so high that it is a trifle


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Gate:
    """One per listener; for the thread of its loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._rules = rules.from_settings()
        self._turns: dict[str, _Turn] = {}
        counted = (self._rules.commands, self._rules.network_commands, self._rules.account_commands)
        least = min((rule.limit for rule in counted if rule.limit), default=0)
        self.command_block = max(1, min(MAX_COMMAND_BLOCK, least // 200))

    def is_exempt(self, client_address: str) -> bool:
        return self.limits.is_exempt(client_address)

    def connect(self, client_address: str) -> Answer:
        client, known = subjects.of_client(client_address), self._rules
        return self.limits.take_all(((known.connections, client.address), (known.network_connections, client.network)))

    def commands(self, session: Session) -> Answer:
        """Whether the session may have a block of `command_block` commands."""
        known, block = self._rules, self.command_block
        if session.account is not None:
            return self.limits.take(known.account_commands, session.account.username, block)
        client = subjects.of_client(session.client_address)
        counted = ((known.commands, client.address), (known.network_commands, client.network))
        return self.limits.take_all(counted, block)

    def message(self, session: Session, reverse_path: str) -> Answer:
        known = self._rules
        if session.account is not None:
            name = session.account.username
            sender = (known.sender_messages, subjects.of_own_sender(name, reverse_path))
            return self.limits.take_all(((known.account_messages, name), sender))
        sender = (known.sender_messages, subjects.of_sender(reverse_path))
        client = subjects.of_client(session.client_address)
        return self.limits.take_all(
            ((known.messages, client.address), (known.network_messages, client.network), sender)
        )

    @asynccontextmanager
    async def auth_turn(self, client_address: str) -> AsyncIterator[None]:
        """Let one password of a client be looked at after the other."""
        subject = subjects.of_client(client_address).address
        turn = self._turns.setdefault(subject, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[subject]

    async def auth_may_be_tried(self, client_address: str, username: str) -> Verdict:
        """Whether a password may be looked at: not after too many wrong ones, from there or for that name."""
        asked = [self.limits.would_exceed(rule, subject) for rule, subject in self._auth(client_address, username)]
        for verdict in [answer if isinstance(answer, Verdict) else await answer for answer in asked]:
            if verdict.exceeded:
                return verdict
        return rules.WITHIN

    async def auth_failed(self, client_address: str, username: str) -> None:
        """Count a failure, whether or not there is such a user."""
        asked = [self.limits.take(rule, subject) for rule, subject in self._auth(client_address, username)]
        for answer in asked:
            if not isinstance(answer, Verdict):
                await answer

    def _auth(self, client_address: str, username: str) -> tuple[tuple[rules.Rule, str], ...]:
        client, known = subjects.of_client(client_address), self._rules
        return (
            (known.auth_failures, client.address),
            (known.network_auth_failures, client.network),
            (known.user_name_auth_failures, subjects.of_user_name(username)),
        )
