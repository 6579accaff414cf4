"""Run in a process of its own with a system's environment: fills the queue with entries as they would stand there.

`python -m bench.fill NUMBER`. A quarter is for one domain, the rest for two thousand; nearly all wait, some are held or
scheduled, a few have ended. Messages have no content: nothing reads it here.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import django
from django.db.models.fields import NOT_PROVIDED

BATCH = 5000
BIG_DOMAIN = "big.example"
SMALL_DOMAIN, SMALL = "small.example", 60  # entries
DOMAINS = 2000
REPLIES = (
    "450 4.2.0 Greylisted, try again in 300 seconds",
    "421 4.7.0 Too many connections from your address",
    "451 4.3.2 Please try again later",
)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailproj.settings")
    django.setup()

    from django.db import connection, transaction  # noqa: PLC0415  (models cannot be imported before the setup)

    from mailflow.models import Message  # noqa: PLC0415
    from mailflow.spool.insert import bulk_insert  # noqa: PLC0415
    from queue.models import Entry  # noqa: PLC0415

    number = int(sys.argv[1])
    rows = _rows(number, random.Random(number))
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA synchronous=OFF")  # what is filled in need not outlive a crash
        while batch := [row for row, _ in zip(rows, range(BATCH), strict=False)]:
            with transaction.atomic():
                for model, values in zip((Message, Entry), zip(*batch, strict=True), strict=True):
                    blank = _blank(model)
                    bulk_insert(model, tuple(blank), [tuple({**blank, **one}.values()) for one in values])
        if connection.vendor == "postgresql":  # as autovacuum would, a minute later
            cursor.execute("VACUUM ANALYZE")


def _blank(model: Any) -> dict[str, Any]:
    """Return what a row has by default; what the database itself fills in is left to it."""
    return {
        field.attname: field.get_default() for field in model._meta.concrete_fields if field.db_default is NOT_PROVIDED
    }


def _rows(number: int, chance: random.Random) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield messages and their entries, in the order of time, over the last three days."""
    from mailflow.ids import first_message_id, first_row_id  # noqa: PLC0415
    from mailflow.spool.insert import JsonText  # noqa: PLC0415

    now = dt.datetime.now(dt.UTC)
    span = dt.timedelta(days=3) / number
    for ordinal in range(number):
        at = now - dt.timedelta(days=3) + ordinal * span
        message_id = f"{first_message_id(at)}{ordinal:014x}"
        domain = _domain(ordinal, number, chance)
        state = _state(chance, now, at)
        is_open = state["finished_at"] is None
        message = {
            "id": message_id,
            "created_at": at,
            "source": "submission",
            "status": "processing" if is_open else state["status"],
            "reverse_path": f"sender{ordinal % 500}@example.com",
            "recipients": JsonText(f'["user{ordinal}@{domain}"]'),
            "recipient_count": 1,
            "subject": f"Newsletter number {ordinal}",
            "header_from": f"Sender <sender{ordinal % 500}@example.com>",
            "internet_message_id": f"<{ordinal}@example.com>",
            "thread_id": message_id,
            "size_octets": 2048,
            "digest": "0" * 64,
            "organization_id": ordinal % 20 + 1,
            "protocol": "ESMTPSA",
            "trace_id": f"{ordinal:016x}",
            "finished_at": state["finished_at"],
        }
        entry = {
            "id": first_row_id(at) + (ordinal & 0x3FFFFF),
            "message_id": message_id,
            "recipient": f"user{ordinal}@{domain}",
            "domain": domain,
            "created_at": at,
            "expires_at": at + dt.timedelta(days=5),
            "max_attempts": 5,
            **state,
        }
        yield message, entry


def _domain(ordinal: int, number: int, chance: random.Random) -> str:
    """A small domain has as many entries in a large queue as in a small one."""
    if ordinal % max(1, number // SMALL) == 0:
        return SMALL_DOMAIN
    return BIG_DOMAIN if chance.random() < 0.25 else f"d{chance.randrange(DOMAINS)}.example"


def _state(chance: random.Random, now: dt.datetime, at: dt.datetime) -> dict[str, Any]:
    """Where an entry stands: of a thousand each kind is enough to fill a page of fifty."""
    kind = chance.random()
    later = now + dt.timedelta(minutes=chance.randrange(1, 2000))
    state: dict[str, Any] = {
        "status": "pending", "next_attempt_at": at, "attempts": 0, "last_reply": "", "finished_at": None,
    }  # fmt: skip
    if kind < 0.40:
        return state
    if kind < 0.70:
        tries, reply = chance.randrange(1, 5), chance.choice(REPLIES)
        return {**state, "status": "retry", "next_attempt_at": later, "attempts": tries, "last_reply": reply}
    if kind < 0.77:
        return {**state, "next_attempt_at": None, "held_at": now, "hold_reason": "root: a test"}
    if kind < 0.84:
        return {**state, "next_attempt_at": later, "scheduled_at": later}
    status = "delivered" if kind < 0.86 else "bounced" if kind < 0.93 else "failed"
    return {**state, "status": status, "next_attempt_at": None, "finished_at": at, "last_reply": "550 No such user"}


if __name__ == "__main__":
    main()
