"""The front page: a short health answer for programs, a page with links for browsers."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from accounts.api.problems import prefers_html
from mailflow import runtime
from mailproj import health


def front_page(request: HttpRequest) -> HttpResponse:
    checks = health.run_checks()
    failing = [check.name for check in checks if not check.passed]
    context = {
        "status": "unhealthy" if failing else "healthy",
        "version": settings.VERSION,
        "failing": failing,
    }
    if prefers_html(request):
        page = {
            **context,
            "checks": checks,
            "smtp_port": settings.SMTP_PORT,
            "takes_mail": runtime.fresh().enabled,
            "sandbox": settings.DELIVERY_MODE == "sandbox",
        }
        return _varying(render(request, "landing.html", page))
    return _varying(JsonResponse(context, status=503 if failing else 200))


def _varying(response: HttpResponse) -> HttpResponse:
    response["Vary"] = "Accept"
    response["Cache-Control"] = "no-store"
    return response
