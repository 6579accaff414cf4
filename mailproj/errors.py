"""Answers to requests that end outside the API's views: problem details for programs, Django's pages for browsers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.contrib import admin
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views import csrf, defaults
from django.views.decorators.csrf import csrf_exempt

from accounts.api import problems


def only_reads(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer 405 to whatever is no GET or HEAD; nothing is changed, so no token is asked for before that."""

    @csrf_exempt
    @wraps(view)
    def reads(request: HttpRequest) -> HttpResponse:
        if request.method in ("GET", "HEAD"):
            return view(request)
        response = problems.plain_response(405, f'Method "{request.method}" not allowed.')
        response["Allow"] = "GET, HEAD"
        return response

    return reads


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    words = "The request cannot be understood."
    if isinstance(exception, DisallowedHost):
        # Not from the request object: reading the host is what failed.
        host = request.META.get("HTTP_HOST", "")[:100]
        words = f"The host name {host!r} is not one of this server's; ALLOWED_HOSTS lists those that are."
    if problems.is_for_programs(request):
        return problems.plain_response(400, words)
    if isinstance(exception, DisallowedHost):
        return HttpResponse(words, status=400, content_type="text/plain; charset=utf-8")
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if problems.is_for_programs(request):
        return problems.plain_response(403, "That is not allowed.")
    if request.path.startswith("/admin") and getattr(request, "user", None) is not None and request.user.is_staff:
        return render(
            request, "admin/403.html", {**admin.site.each_context(request), "title": "Not allowed"}, status=403
        )
    return defaults.permission_denied(request, exception)


def no_csrf_token(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's CSRF_FAILURE_VIEW; the API's own views ask for the token themselves."""
    if problems.is_for_programs(request):
        return problems.plain_response(403, f"CSRF Failed: {reason}")
    return csrf.csrf_failure(request, reason)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if problems.is_for_programs(request):
        return problems.plain_response(404, "There is nothing at this path; /api/v1/docs/ lists the paths.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if problems.is_for_programs(request):
        return problems.plain_response(500, "Something went wrong on our side; the request id finds it in the log.")
    return defaults.server_error(request)
