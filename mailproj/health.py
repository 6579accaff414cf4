"""Is the system well: live checks of database, Redis, disk, memory and refused connections (contract §1.2)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import redis
import structlog
from django.conf import settings
from django.db import Error, connection
from django.utils import timezone

from mailflow.ids import first_row_id
from mailflow.models import Event
from mailproj import machine

log = structlog.get_logger(__name__)

MIN_DISK_FREE = 0.10
MAX_MEMORY_USED = 0.90
REDIS_TIMEOUT_SECONDS = 1.0
WINDOW = dt.timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Check:
    """One look at one thing; `words` says what was seen, without addresses or causes that are nobody's business."""

    name: str
    passed: bool
    words: str


def run_checks() -> list[Check]:
    checks: list[Callable[[], Check]] = [
        check_database,
        check_redis,
        check_disk,
        check_memory,
        check_connections,
    ]
    return [check() for check in checks]


def check_database() -> Check:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    except Error as error:
        log.warning("health_database", error=str(error))
        return Check("database", False, "the database does not answer")
    return Check("database", True, "answers")


def check_redis() -> Check:
    """Redis away delays mail until the next sweep, loses none, and parts the listeners' limits; it is a fault."""
    try:
        _redis(settings.REDIS_URL).ping()
    except (redis.RedisError, ValueError) as error:  # ValueError: the URL is none
        log.warning("health_redis", error=type(error).__name__)
        words = (
            "Redis does not answer; mail is accepted and delivered by the sweep, each listener counts limits by itself"
        )
        return Check("redis", False, words)
    return Check("redis", True, "answers")


def check_disk() -> Check:
    try:
        free = min(machine.disk_free_share(path) for path in (settings.MAIL_DATA_DIR, settings.SMTP_STORAGE_PATH))
    except OSError:
        return Check("disk", False, "the disk cannot be looked at")
    return Check("disk", free >= MIN_DISK_FREE, f"{free:.0%} free")


def check_memory() -> Check:
    used = machine.memory_used_share()
    return Check("memory", used <= MAX_MEMORY_USED, f"{used:.0%} used")


def check_connections() -> Check:
    """Count what all listeners have turned away at connect within a minute: a flood, or a cap that is too low."""
    most = settings.HEALTH_MAX_REFUSED_CONNECTIONS
    if not most:
        return Check("connections", True, "not looked at")
    since = first_row_id(timezone.now() - WINDOW)  # an event's id has its time in it
    refused = Event.objects.filter(kind=Event.Kind.REFUSED, stage="connection", pk__gte=since)
    try:
        count = refused.order_by("-pk").values("pk")[: most + 1].count()
    except Error:
        return Check("connections", True, "not known while the database does not answer")
    words = f"{'more than ' if count > most else ''}{min(count, most)} refused within a minute"
    return Check("connections", count <= most, words)


@lru_cache(maxsize=4)
def _redis(url: str) -> redis.Redis[bytes]:
    return redis.Redis.from_url(
        url, socket_connect_timeout=REDIS_TIMEOUT_SECONDS, socket_timeout=REDIS_TIMEOUT_SECONDS, retry_on_timeout=False
    )
