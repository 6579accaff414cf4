"""Deliveries from due to ended: claimed by lease, written down with each request and answer, replayed.

docs/adr/0020 has the reasons.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts import sealed
from accounts.leases import among_first
from accounts.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from accounts.webhooks import endpoints, outbox
from accounts.webhooks.schedule import next_delay

MAX_ENDPOINTS_A_ROUND = 200
TEST_EVENT = "webhook.test"
_SAMPLE = {
    "message_id": "msg_0198a1b2c3d4e5f60718293a4b",
    "from": "sender@example.com",
    "to": ["recipient@example.com"],
    "subject": "Test Email",
    "size_bytes": 1234,
}
_SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "message.failed": {**_SAMPLE, "reason": "550 5.1.1 No such user"},
    "user.created": {"user_id": 1, "username": "john", "email": "john@example.com", "organization_id": 1},
    "auth.failed": {"username": "john", "client_address": "192.0.2.7", "protocol": "smtp", "reason": "Wrong password."},
}


@dataclass(frozen=True, slots=True)
class Parcel:
    """One leased delivery with what its request needs; `trouble` says why none can be made."""

    delivery_id: str
    endpoint_id: UUID
    event: str
    url: str
    body: bytes
    attempts: int
    keys: Sequence[bytes]
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one request ended. `error` in words, empty for success; `retry_after` as the answer asked."""

    parcel: Parcel
    started_at: dt.datetime
    duration: dt.timedelta
    headers: Mapping[str, str]
    status: int | None = None
    answer: str = ""
    error: str = ""
    retry_after: dt.timedelta | None = None

    @property
    def is_gone(self) -> bool:
        """410: the receiver wants no more of it (Standard Webhooks)."""
        return self.status == 410


def claim(
    worker: str, *, now: dt.datetime, lease: dt.timedelta, a_endpoint: int, running: Mapping[UUID, int]
) -> list[Parcel]:
    """Lease what is due, so much that no endpoint has more than `a_endpoint` under way here; return it.

    Each endpoint is asked for by itself, so that one with a hundred thousand waiting keeps no other from its turn;
    whose turn it is goes by chance where there are more than one round takes. Where nothing is due nothing is locked.
    """
    full = [pk for pk, count in running.items() if count >= a_endpoint]
    due = WebhookDelivery.objects.filter(endpoint=OuterRef("pk"), next_attempt_at__lte=now)
    rows = WebhookEndpoint.objects.filter(Exists(due), is_active=True).exclude(pk__in=full)
    waiting = {endpoint.pk: endpoint for endpoint in rows.order_by("?")[:MAX_ENDPOINTS_A_ROUND]}
    if not waiting:
        return []
    with transaction.atomic():
        claimed = [
            delivery_id
            for pk in sorted(waiting)
            for delivery_id in _lease(worker, pk, a_endpoint - running.get(pk, 0), now, now + lease)
        ]
    opened = {pk: _keys(endpoint, now) for pk, endpoint in waiting.items()}
    deliveries = WebhookDelivery.objects.filter(pk__in=claimed).order_by("pk")
    return [_parcel(delivery, waiting[delivery.endpoint_id], *opened[delivery.endpoint_id]) for delivery in deliveries]


def _lease(worker: str, endpoint_id: UUID, count: int, now: dt.datetime, until: dt.datetime) -> list[str]:
    """Two workers never get the same delivery: one statement, on PostgreSQL over rows locked with SKIP LOCKED."""
    table = connection.ops.quote_name(WebhookDelivery._meta.db_table)
    moment = connection.ops.adapt_datetimefield_value
    key = WebhookEndpoint._meta.pk.get_db_prep_value(endpoint_id, connection)
    longest_due = f"SELECT id FROM {table} WHERE endpoint_id = %s AND next_attempt_at <= %s ORDER BY next_attempt_at"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET lease = %s, next_attempt_at = %s WHERE {among_first(longest_due, count)} RETURNING id",  # noqa: S608
            [worker, moment(until), key, moment(now)],
        )
        return [row[0] for row in cursor.fetchall()]


def _keys(endpoint: WebhookEndpoint, now: dt.datetime) -> tuple[list[bytes], str]:
    try:
        return endpoints.secrets_of(endpoint, now), ""
    except sealed.CannotOpen as error:
        return [], f"The endpoint's secret cannot be opened: {error}."


def _parcel(delivery: WebhookDelivery, endpoint: WebhookEndpoint, keys: Sequence[bytes], trouble: str) -> Parcel:
    return Parcel(
        delivery.pk,
        endpoint.pk,
        delivery.event,
        endpoint.url,
        delivery.payload.encode(),
        delivery.attempts,
        keys,
        trouble,
    )


def give_back_all(worker: str, now: dt.datetime) -> None:
    """Return whatever the worker still has, due at once for whoever comes."""
    mine = WebhookDelivery.objects.filter(next_attempt_at__isnull=False, lease=worker)
    mine.update(lease="", next_attempt_at=now)


def settle(attempts: Sequence[Attempt], *, worker: str, now: dt.datetime) -> list[WebhookEndpoint]:
    """Write down how requests ended, in the caller's transaction; return the endpoints that were switched off by it.

    A failure counts only while the lease stands; a success always does, for that saves a repetition.
    """
    ids = sorted(attempt.parcel.delivery_id for attempt in attempts)
    rows = {row.pk: row for row in WebhookDelivery.objects.filter(pk__in=ids).order_by("pk").select_for_update()}
    known = [attempt for attempt in attempts if attempt.parcel.delivery_id in rows]
    WebhookAttempt.objects.bulk_create([_attempt_row(attempt) for attempt in known])
    for attempt in known:
        row = rows[attempt.parcel.delivery_id]
        if row.lease == worker or (not attempt.error and row.status == WebhookDelivery.Status.PENDING):
            _end(row, attempt, now)
    return _judge(known, now)


def _attempt_row(attempt: Attempt) -> WebhookAttempt:
    return WebhookAttempt(
        delivery_id=attempt.parcel.delivery_id,
        started_at=attempt.started_at,
        duration_ms=round(attempt.duration.total_seconds() * 1000),
        url=attempt.parcel.url,
        request_headers=dict(attempt.headers),
        response_status=attempt.status,
        response_body=attempt.answer.replace("\0", "\ufffd"),
        error=attempt.error,
    )


def _end(row: WebhookDelivery, attempt: Attempt, now: dt.datetime) -> None:
    row.lease = ""
    row.attempts = attempt.parcel.attempts + 1
    row.last_result = (attempt.error or f"Taken: {attempt.status}.")[:300]
    delay = None
    if attempt.error and not attempt.is_gone:
        fraction = random.random()  # noqa: S311  (spreads load, keeps no secret)
        delay = next_delay(row.attempts, settings.WEBHOOK_RETRY_SCHEDULE, fraction=fraction, asked=attempt.retry_after)
    row.next_attempt_at = None if delay is None else now + delay
    if delay is None:
        row.status = WebhookDelivery.Status.FAILED if attempt.error else WebhookDelivery.Status.DELIVERED
        row.finished_at = now
    row.save(update_fields=["lease", "attempts", "last_result", "next_attempt_at", "status", "finished_at"])


def _judge(attempts: Sequence[Attempt], now: dt.datetime) -> list[WebhookEndpoint]:
    """Note at each endpoint how it fares, and switch off those that are gone, or have failed for too long."""
    disabled = []
    for pk in sorted({attempt.parcel.endpoint_id for attempt in attempts}):
        theirs = [attempt for attempt in attempts if attempt.parcel.endpoint_id == pk]
        rows = WebhookEndpoint.objects.filter(pk=pk)
        if any(not attempt.error for attempt in theirs):
            rows.update(last_success_at=now, failing_since=None)
        else:
            first = min(attempt.started_at for attempt in theirs)
            rows.filter(failing_since__isnull=True).update(failing_since=first)
        endpoint = rows.select_related("organization").first()
        if endpoint is None:
            continue
        reason = _reason_to_disable(endpoint, theirs, now)
        if reason and endpoints.disable(endpoint, reason, now):
            endpoint.is_active, endpoint.disabled_at, endpoint.disabled_reason = False, now, reason
            disabled.append(endpoint)
    return disabled


def _reason_to_disable(endpoint: WebhookEndpoint, attempts: Sequence[Attempt], now: dt.datetime) -> str:
    if any(attempt.is_gone for attempt in attempts):
        return "It answered 410: it wants no more of it."
    longest = dt.timedelta(seconds=settings.WEBHOOK_DISABLE_AFTER_SECONDS)
    if longest and endpoint.failing_since is not None and now - endpoint.failing_since >= longest:
        last = attempts[-1].error
        return f"Nothing has been delivered since {endpoint.failing_since:%Y-%m-%d %H:%M} UTC. The last attempt: {last}"
    return ""


def replay(deliveries: QuerySet[WebhookDelivery], now: dt.datetime) -> int:
    """Send again, with the same id and body, and with all attempts anew; return how many.

    Those that are under way just now are left alone.
    """
    under_way = ~Q(lease="") & Q(next_attempt_at__gt=now)
    return deliveries.exclude(under_way).update(
        status=WebhookDelivery.Status.PENDING, attempts=0, next_attempt_at=now, lease="", finished_at=None
    )


def send_test(endpoint: WebhookEndpoint, event: str = "") -> WebhookDelivery:
    """Write a delivery of made-up data for one endpoint: an event of the name given, or of one of its own."""
    now = timezone.now()
    name = event or TEST_EVENT
    body = outbox.payload(name, now, _SAMPLES.get(name, _SAMPLE))
    made = outbox.delivery(endpoint.pk, name, body, now)
    made.save(force_insert=True)
    return made
