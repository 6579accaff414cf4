"""`GET health`: the union of R1's, R2's, R3's and R4's fields, without credentials."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import Error
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.problems import RETRY_AFTER_SECONDS
from mailflow import figures as live
from mailflow import runtime
from mailproj import health, machine
from mailproj.health import Check
from queue import figures
from queue.api.stats import active_connections


class Connections(serializers.Serializer[Any]):
    active = serializers.IntegerField()
    total = serializers.IntegerField()


class Memory(serializers.Serializer[Any]):
    """Of the web process that answers."""

    allocated_mb = serializers.FloatField(help_text="Resident memory.")
    heap_mb = serializers.FloatField(help_text="The part of it that belongs to no file.")


class CheckResult(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok", "failing"])
    words = serializers.CharField()


class Features(serializers.Serializer[Any]):
    """What this system is set up for."""

    smtp_authentication = serializers.BooleanField()
    smtp_tls = serializers.BooleanField()
    reception = serializers.BooleanField(
        help_text="Whether mail from outside is taken: SMTP_ACCEPTS_MAIL says so, and `enabled` was not switched off."
    )
    billing = serializers.BooleanField()
    sandbox = serializers.BooleanField(help_text="Whether all mail goes to the simulated internet.")


class Health(serializers.Serializer[Any]):
    """Figures that need the database are null while it is away."""

    status = serializers.ChoiceField(choices=["healthy", "unhealthy"])
    version = serializers.CharField()
    uptime_seconds = serializers.FloatField(allow_null=True)
    controller_running = serializers.BooleanField(allow_null=True, help_text="Whether an SMTP listener is alive.")
    emails_in_queue = serializers.IntegerField(allow_null=True)
    active_connections = serializers.IntegerField(allow_null=True)
    connections = Connections(allow_null=True)
    memory = Memory()
    checks = serializers.DictField(child=CheckResult())
    failing = serializers.ListField(child=serializers.CharField())
    features = Features()


_UNHEALTHY = OpenApiResponse(Health, description="A check fails; `failing` names it.")


class HealthView(APIView):
    """200 while all is well, 503 with the failing checks named otherwise."""

    authentication_classes: list[type] = []
    permission_classes = [AllowAny]

    @extend_schema(auth=[], responses={200: Health, 503: _UNHEALTHY})
    def get(self, request: Request) -> Response:
        checks = health.run_checks()
        failing = [check.name for check in checks if not check.passed]
        allocated, heap = machine.process_memory()
        body = {
            "status": "unhealthy" if failing else "healthy",
            "version": settings.VERSION,
            **_live("database" not in failing),
            "memory": {"allocated_mb": allocated, "heap_mb": heap},
            "checks": {check.name: _result(check) for check in checks},
            "failing": failing,
            "features": _features(),
        }
        headers = {"Cache-Control": "no-store", **({"Retry-After": str(RETRY_AFTER_SECONDS)} if failing else {})}
        return Response(body, status=503 if failing else 200, headers=headers)


def _features() -> dict[str, bool]:
    return {
        "smtp_authentication": settings.SMTP_ENABLE_AUTH,
        "smtp_tls": settings.SMTP_ENABLE_TLS,
        "reception": settings.SMTP_ACCEPTS_MAIL and runtime.fresh().enabled,
        "billing": bool(settings.STRIPE_API_KEY),
        "sandbox": settings.DELIVERY_MODE == "sandbox",
    }


def _result(check: Check) -> dict[str, str]:
    return {"status": "ok" if check.passed else "failing", "words": check.words}


def _live(database_answers: bool) -> dict[str, Any]:
    names = ("uptime_seconds", "controller_running", "emails_in_queue", "active_connections", "connections")
    nothing: dict[str, Any] = dict.fromkeys(names)
    if not database_answers:
        return nothing
    try:
        system, waiting = live.read(), figures.queued()
    except Error:  # it went away between the check and here
        return nothing
    return {
        "uptime_seconds": system.uptime_seconds(timezone.now()),
        "controller_running": system.is_running("smtp.connections.active"),
        "emails_in_queue": waiting,
        "active_connections": active_connections(system),
        "connections": {
            "active": system.gauge("smtp.connections.active"),
            "total": system.sum("smtp.connections.total"),
        },
    }
