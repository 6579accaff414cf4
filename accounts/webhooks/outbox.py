"""The outbox of webhooks: what happened is written for every endpoint that wants to hear of it, in the transaction of
the change itself, so that it is told if, and only if, it happened.

The doors for mail pass here for every message. Who listens is remembered for `KEPT_SECONDS` in each process, and where
nobody does, nothing is asked, made or written.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts.models.domain import Domain
from accounts.models.webhook import WebhookDelivery, WebhookEndpoint

KEPT_SECONDS = 2.0
BATCH = 500  # rows in a statement
Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened. `data_for` says what an organization may know of it, None where it is none of its
    business; asked with None it tells all, for those who hear of the whole system.
    """

    event: str
    at: dt.datetime
    data_for: Callable[[int | None], Data | None]


@dataclass(frozen=True, slots=True)
class _Subscriber:
    endpoint_id: UUID
    organization_id: int | None


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of what. `owners`: to which of the listening organizations a domain belongs."""

    ends_at: float = float("inf")
    by_event: Mapping[str, Sequence[_Subscriber]] = field(default_factory=dict)
    owners: Mapping[str, int] = field(default_factory=dict)


_lock = threading.Lock()
_remembered: Listeners | None = None


def forget() -> None:
    """Look anew at the next question; for whoever changes an endpoint."""
    use(None)


def use(listeners: Listeners | None) -> None:
    global _remembered
    _remembered = listeners


def wanted(event: str) -> bool:
    """Whether anybody hears of such events; costs two comparisons, and a query or two every `KEPT_SECONDS`."""
    return event in _listeners().by_event


def owner_of(domain: str) -> int | None:
    """Return which of the organizations that listen has the domain."""
    return _listeners().owners.get(domain)


def add(notices: Iterable[Notice]) -> int:
    """Write what the listeners are to hear, in the caller's transaction; return how many deliveries that made."""
    by_event = _listeners().by_event
    rows: list[WebhookDelivery] = []
    for notice in notices:
        payloads: dict[int | None, str | None] = {}
        for subscriber in by_event.get(notice.event, ()):
            audience = subscriber.organization_id
            if audience not in payloads:
                data = notice.data_for(audience)
                payloads[audience] = None if data is None else payload(notice.event, notice.at, data)
            body = payloads[audience]
            if body is not None:
                rows.append(delivery(subscriber.endpoint_id, notice.event, body, notice.at))
    if rows:
        with transaction.atomic(savepoint=False):
            WebhookDelivery.objects.bulk_create(rows, batch_size=BATCH)
    return len(rows)


def delivery(endpoint_id: UUID, event: str, body: str, now: dt.datetime) -> WebhookDelivery:
    """Return a delivery that is due at once, not yet written."""
    return WebhookDelivery(
        id=new_id(), endpoint_id=endpoint_id, event=event, payload=body, created_at=now, next_attempt_at=now
    )


def payload(event: str, at: dt.datetime, data: Data) -> str:
    """Return the body as R4 prints it; what is no Unicode (lone surrogates) is replaced, for no column takes it."""
    moment = at.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    text = json.dumps({"event": event, "timestamp": moment, "data": data}, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def new_id() -> str:
    """Return `evt_` and 26 hexadecimal digits: 48 bits of milliseconds, then 56 random bits."""
    return f"evt_{time.time_ns() // 1_000_000:012x}{os.urandom(7).hex()}"


def first_id(at: dt.datetime) -> str:
    """Return the lower bound of the ids made at or after that moment."""
    return f"evt_{int(at.timestamp() * 1000):012x}"


def _listeners() -> Listeners:
    found = _remembered
    if found is not None and time.monotonic() < found.ends_at:
        return found
    with _lock:
        found = _remembered
        if found is None or time.monotonic() >= found.ends_at:
            found = _read()
            use(found)
    return found


def _read() -> Listeners:
    by_event: dict[str, list[_Subscriber]] = {}
    organizations: set[int] = set()
    active = WebhookEndpoint.objects.filter(is_active=True).exclude(organization__is_active=False)
    for pk, organization_id, events in active.order_by().values_list("pk", "organization_id", "events"):
        if organization_id is not None:
            organizations.add(organization_id)
        for event in events:
            by_event.setdefault(event, []).append(_Subscriber(pk, organization_id))
    owned = Domain.objects.filter(organization__in=organizations).order_by() if organizations else ()
    # Usable ones alone: a domain that somebody merely claims tells them nothing of its mail.
    owners = {domain.name: domain.organization_id for domain in owned if domain.is_usable}
    return Listeners(time.monotonic() + KEPT_SECONDS, by_event, owners)
