"""DRF's EXCEPTION_HANDLER: every exception of a view becomes a problem, and refusals count (contract §1.2, §1.3)."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api import problems
from mailproj.api import throttling
from mailproj.api.throttling import TooManyRequests


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Answer with a problem; who is refused before the throttle is asked is counted here, and so has an end too."""
    request: Request | None = context.get("request")
    if request is not None and not throttling.is_counted(request._request):
        budget = throttling.count(request._request, *throttling.whom(request, error))
        known = error.budget.resets_in_seconds if isinstance(error, TooManyRequests) else 0
        if budget is not None and not budget.allowed and budget.resets_in_seconds > known:
            error = TooManyRequests(budget)
        elif isinstance(error, TooManyRequests):  # after wrong passwords: the headers tell of that limit first
            request._request.rate_limit_budgets.insert(0, error.budget)  # type: ignore[attr-defined]
    return problems.exception_handler(error, context)
