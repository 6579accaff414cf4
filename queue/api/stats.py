"""`GET stats`: the union of R1's, R2's and R4's figures, all of the whole system (contract §1.2)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
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


class Mail(serializers.Serializer[Any]):
    """Messages, however they came in and went out."""

    received = serializers.IntegerField()
    sent = serializers.IntegerField()
    queued = serializers.IntegerField()
    failed = serializers.IntegerField()


class ConnectionFigures(serializers.Serializer[Any]):
    current = serializers.IntegerField()
    total = serializers.IntegerField()
    rejected = serializers.IntegerField()


class Logins(serializers.Serializer[Any]):
    """Over SMTP."""

    attempts = serializers.IntegerField()
    successful = serializers.IntegerField()
    failed = serializers.IntegerField()


class Found(serializers.Serializer[Any]):
    detected = serializers.IntegerField()
    rate = serializers.FloatField(help_text="Of the messages received, from 0 to 1.")


class Storage(serializers.Serializer[Any]):
    messages_stored = serializers.IntegerField()
    total_size_mb = serializers.FloatField()


class Performance(serializers.Serializer[Any]):
    """How long a message takes until it is accepted."""

    avg_processing_ms = serializers.FloatField()
    p95_processing_ms = serializers.FloatField()
    p99_processing_ms = serializers.FloatField()


class Stats(serializers.Serializer[Any]):
    """Of the whole system, since it was set up. With `service` the other service's figures are left out."""

    messages = Mail(required=False)
    connections = ConnectionFigures(required=False)
    authentication = Logins(required=False)
    spam = Found(required=False)
    virus = Found(required=False)
    storage = Storage(required=False)
    performance = Performance(required=False)
    emails_sent = serializers.IntegerField(required=False, help_text="What came in by HTTP.")
    emails_received = serializers.IntegerField(required=False, help_text="What came in by SMTP.")
    emails_in_queue = serializers.IntegerField(required=False)
    emails_fetched = serializers.IntegerField(required=False, help_text="Of imap.")
    active_connections = serializers.IntegerField()
    active_sessions = serializers.IntegerField(required=False, help_text="Of imap.")
    uptime_seconds = serializers.FloatField(help_text="0 where no process tells.")
    requests_total = serializers.IntegerField(help_text="By HTTP, as are the next three.")
    requests_successful = serializers.IntegerField()
    requests_failed = serializers.IntegerField()
    last_request_time = serializers.FloatField(allow_null=True, help_text="In seconds since 1970.")


_EXAMPLE = OpenApiExample(
    "All of them",
    value={
        "messages": {"received": 1500, "sent": 1200, "queued": 15, "failed": 5},
        "connections": {"current": 10, "total": 5000, "rejected": 50},
        "authentication": {"attempts": 1000, "successful": 950, "failed": 50},
        "spam": {"detected": 0, "rate": 0.0},
        "virus": {"detected": 0, "rate": 0.0},
        "storage": {"messages_stored": 10000, "total_size_mb": 500.5},
        "performance": {"avg_processing_ms": 150.5, "p95_processing_ms": 500.0, "p99_processing_ms": 1000.0},
        "emails_sent": 700,
        "emails_received": 800,
        "emails_in_queue": 15,
        "emails_fetched": 40,
        "active_connections": 10,
        "active_sessions": 0,
        "uptime_seconds": 86400.0,
        "requests_total": 2000,
        "requests_successful": 1900,
        "requests_failed": 100,
        "last_request_time": 1761220800.0,
    },
    response_only=True,
    status_codes=["200"],
)


class StatsView(APIView):
    """Live figures of messages, connections, logins, storage and speed; `service` narrows them to one service."""

    @extend_schema(
        parameters=[OpenApiParameter("service", str, enum=["smtp", "imap"])],
        responses=Stats,
        examples=[_EXAMPLE],
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
