"""The limits a minute outside the API's views, and the headers that tell of limits on every answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponse

from accounts.api import problems
from mailflow.limits.threads import Budget
from mailproj.api import throttling
from mailproj.middleware import GetResponse, is_of_api

_DAY_SECONDS = 86400


def count_the_rest(get_response: GetResponse) -> GetResponse:
    """Count by address what no view counted: unknown paths, bodies that are too large, forms without a token."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if not is_of_api(request) or throttling.is_counted(request):
            return response
        return _refusal(throttling.count_address(request)) or response

    return middleware


def limited(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Count a request by address before a plain view works for it."""

    @wraps(view)
    def counted(request: HttpRequest) -> HttpResponse:
        return _refusal(throttling.count_address(request)) or view(request)

    return counted


def _refusal(budget: Budget | None) -> HttpResponse | None:
    if budget is None or budget.allowed:
        return None
    response = problems.plain_response(429, throttling.words(budget))
    response["Retry-After"] = str(budget.resets_in_seconds)
    return response


def rate_limit_headers(get_response: GetResponse) -> GetResponse:
    """Say what is left of the limits that the request met (draft-ietf-httpapi-ratelimit-headers, and R4's own).

    R4's headers tell of one limit: of the day, where the view has said that already, else of the one met first.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        found: list[Budget] = getattr(request, "rate_limit_budgets", [])
        policies = [
            (f"{budget.rule.window_seconds}s", budget.rule.limit, budget.rule.window_seconds) for budget in found
        ]
        states = [(f"{budget.rule.window_seconds}s", budget.remaining, budget.resets_in_seconds) for budget in found]
        if "X-RateLimit-Limit" in response:
            policies.append(("day", int(response["X-RateLimit-Limit"]), _DAY_SECONDS))
            resets_in = max(0, int(response["X-RateLimit-Reset"]) - int(time.time()))
            states.append(("day", int(response["X-RateLimit-Remaining"]), resets_in))
        elif found:
            response["X-RateLimit-Limit"] = str(found[0].rule.limit)
            response["X-RateLimit-Remaining"] = str(found[0].remaining)
            response["X-RateLimit-Reset"] = str(int(time.time()) + found[0].resets_in_seconds)
        if policies:
            response["RateLimit-Policy"] = ", ".join(
                f'"{name}";q={limit};w={window}' for name, limit, window in policies
            )
            response["RateLimit"] = ", ".join(f'"{name}";r={left};t={seconds}' for name, left, seconds in states)
        return response

    return middleware
