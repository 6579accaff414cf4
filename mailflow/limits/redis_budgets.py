"""Shared budgets and the listeners' reports in Redis 6.2 or later (docs/adr/0009).

A budget is a hash: `s`, when its window began by the clock of the listener that began it, in ms, and `n`, how much is
taken. It ends with its window by itself. Every call is one trip; timeouts are the caller's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from redis import RedisError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mailflow.limits.ledger import Lease, LeaseRequest

PREFIX = b"mailproj:"
REPORTS_KEY = "mailproj:listeners"
REPORTS_TTL_SECONDS = 60
CONNECT_SECONDS = 2.0  # a backstop; callers wait less

# One call for many budgets. Nothing is written for a look, so that looking costs no memory.
LEASE = """
local now = tonumber(ARGV[1])
local answers = {}
for i, key in ipairs(KEYS) do
  local at = 5 * (i - 1) + 1
  local limit, window = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local need, block, debt = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local kept = redis.call('HMGET', key, 's', 'n')
  local started, taken = tonumber(kept[1]), tonumber(kept[2])
  local begins = not started or not taken or now >= started + window
  if begins then started, taken = now, 0 end
  local left = math.max(0, limit - taken - debt)
  local granted = math.min(left, math.max(need, math.min(block, math.floor(left / 4))))
  if granted + debt > 0 then
    redis.call('HSET', key, 's', string.format('%.0f', started), 'n', string.format('%.0f', taken + granted + debt))
    if begins then redis.call('PEXPIRE', key, string.format('%.0f', window)) end
  end
  answers[3 * i - 2], answers[3 * i - 1], answers[3 * i] = started, granted, left - granted
end
return answers
"""


class RedisBudgets:
    """One connection or two, for one event loop. Raises what redis-py raises, and ValueError for a URL that is none."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis[bytes] | None = None
        self._script: Any = None

    async def lease(self, requests: Sequence[LeaseRequest], now: float) -> list[Lease]:
        """Answer each request as `MemoryBudgets` does, all in one atomic call; no requests at all will do, too."""
        arguments: list[int] = [int(now * 1000)]
        for request in requests:
            arguments += (request.rule.limit, request.window_ms, request.need, request.block, request.debt)
        self._connect()
        answers: list[int] = await self._script(keys=[PREFIX + request.key for request in requests], args=arguments)
        return [Lease(*answers[at : at + 3]) for at in range(0, len(answers), 3)]

    async def exchange(self, name: bytes, report: bytes, gone: Sequence[bytes]) -> dict[bytes, bytes]:
        """Leave our own report, remove those that are gone, and return those of the others."""
        pipeline = self._connect().pipeline(transaction=False)
        pipeline.hset(REPORTS_KEY, name, report)
        if gone:
            pipeline.hdel(REPORTS_KEY, *gone)
        pipeline.expire(REPORTS_KEY, REPORTS_TTL_SECONDS)
        pipeline.hgetall(REPORTS_KEY)
        reports: dict[bytes, bytes] = (await pipeline.execute())[-1]
        return {other: said for other, said in reports.items() if other != name}

    async def withdraw(self, name: bytes) -> None:
        await self._connect().hdel(REPORTS_KEY, name)

    async def drop(self) -> None:
        """Leave the connections as they are and begin with new ones: after a failure nobody knows what is in them."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await client.connection_pool.disconnect(inuse_connections=True)

    def _connect(self) -> Redis[bytes]:
        """Return the client; it connects when it is first used."""
        if self._client is None:
            self._client = Redis.from_url(
                self._url,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),  # whoever waits goes on without Redis instead
            )
            self._script = self._client.register_script(LEASE)
        return self._client
