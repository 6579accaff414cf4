"""`GET stats`: the union of R1's, R2's and R4's figures, all of the whole system (contract §1.2)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from mailflow import counters
from mailflow import figures as live
from mailflow.figures import Figures
from queue import figures

MIB = 1024 * 1024
_OF_IMAP = (
    "emails_fetched", "active_connections", "uptime_seconds", "requests_total", "requests_successful",
    "requests_failed", "last_request_time", "active_sessions",
)  # fmt: skip
_OF_IMAP_ONLY = ("emails_fetched", "active_sessions")


class StatsView(APIView):
    """Live figures of messages, connections, logins, storage and speed; `service` narrows them to one service."""

    @extend_schema(
        parameters=[OpenApiParameter("service", str, enum=["smtp", "imap"])],
        responses={(200, "application/json"): OpenApiTypes.OBJECT},
    )
    def get(self, request: Request) -> Response:
        service = request.query_params.get("service")
        if service not in (None, "smtp", "imap"):
            raise ValidationError({"service": "Either smtp or imap is needed."})
        counters.flush()  # what this process has just counted belongs to the answer
        found = collect(live.read(), timezone.now())
        if service == "imap":
            found = {name: found[name] for name in _OF_IMAP}
        if service == "smtp":
            found = {name: value for name, value in found.items() if name not in _OF_IMAP_ONLY}
        return Response(found)


def collect(system: Figures, now: dt.datetime) -> dict[str, Any]:
    mail, stored, speed = figures.mail(), figures.storage(), system.histogram("processing_ms")
    return {
        "messages": {"received": mail.received, "sent": mail.sent, "queued": mail.queued, "failed": mail.failed},
        "connections": {
            "current": system.gauge("smtp.connections.active"),
            "total": system.sum("smtp.connections.total"),
            "rejected": system.sum("smtp.connections.rejected"),
        },
        "authentication": {
            "attempts": system.sum("smtp.auth.attempts"),
            "successful": system.sum("smtp.auth.successful"),
            "failed": system.sum("smtp.auth.failed"),
        },
        "spam": {"detected": mail.spam, "rate": _rate(mail.spam, mail.received)},
        "virus": {"detected": mail.viruses, "rate": _rate(mail.viruses, mail.received)},
        "storage": {"messages_stored": stored.messages, "total_size_mb": round(stored.octets / MIB, 3)},
        "performance": {
            "avg_processing_ms": round(speed.average, 3),
            "p95_processing_ms": round(speed.percentile(0.95), 3),
            "p99_processing_ms": round(speed.percentile(0.99), 3),
        },
        "emails_sent": mail.received_by_http,
        "emails_received": mail.received_by_smtp,
        "emails_in_queue": mail.queued,
        "emails_fetched": system.sum("emails.fetched"),
        "active_connections": active_connections(system),
        "active_sessions": system.gauge("imap.sessions.active"),
        "uptime_seconds": system.uptime_seconds(now),
        "requests_total": system.sum("http.requests.total"),
        "requests_successful": system.sum("http.requests.successful"),
        "requests_failed": system.sum("http.requests.failed"),
        "last_request_time": system.last_request_at,
    }


def active_connections(system: Figures) -> int:
    return system.gauge("smtp.connections.active") + system.gauge("imap.connections.active")


def _rate(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
