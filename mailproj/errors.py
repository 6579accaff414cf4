"""Answers to requests that end outside the API's views: problem details for programs, Django's pages for browsers."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views import defaults

from accounts.api import problems


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if problems.is_for_programs(request):
        return problems.plain_response(400, "The request cannot be understood.")
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if problems.is_for_programs(request):
        return problems.plain_response(403, "That is not allowed.")
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if problems.is_for_programs(request):
        return problems.plain_response(404, "There is nothing at this path; /api/v1/docs/ lists the paths.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if problems.is_for_programs(request):
        return problems.plain_response(500, "Something went wrong on our side; the request id finds it in the log.")
    return defaults.server_error(request)
