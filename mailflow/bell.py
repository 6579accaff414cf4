"""The bell that says that runtime settings were changed: publish and subscribe in Redis.

It carries nothing. A ring may be lost and Redis may be away: whoever listens looks by itself once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

log = structlog.get_logger(__name__)

CHANNEL = "mailproj:runtime"
RING_SECONDS = 0.5  # the caller of a change waits for no longer
CONNECT_SECONDS = 2.0
LISTEN_SECONDS = 5.0  # one wait for a ring; no wait has to end for one to be heard
PAUSE_SECONDS = 5.0  # while Redis is away


def ring() -> None:
    """Wake every process that listens, if Redis is there."""
    try:
        with _client(RING_SECONDS) as client:
            client.publish(CHANNEL, "")
    except (redis.RedisError, OSError, ValueError) as error:  # ValueError: the URL is none
        log.info("runtime.bell_not_rung", cause=type(error).__name__)


class BellThread(threading.Thread):
    """Calls `heard` for each ring until `stop`; a daemon that touches nothing but Redis."""

    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__(name="bell", daemon=True)
        self._heard = heard
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Hear no more; the thread itself ends within one wait and is not waited for."""
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except ValueError:
                return  # the URL is none, which `health` says
            except (redis.RedisError, OSError) as error:
                log.debug("runtime.bell_away", cause=type(error).__name__)
                self._stopped.wait(PAUSE_SECONDS)

    def _listen(self) -> None:
        with _client(CONNECT_SECONDS) as client, client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(CHANNEL)
            while not self._stopped.is_set():
                message = subscription.get_message(timeout=LISTEN_SECONDS)
                if message is not None and not self._stopped.is_set():
                    self._heard()


def _client(seconds: float) -> redis.Redis[bytes]:
    """Return a client that tries once: redis-py's own three tries with pauses would hold up whoever asks."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_connect_timeout=seconds, socket_timeout=seconds, retry=Retry(NoBackoff(), 0)
    )
