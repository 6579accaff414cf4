"""The API's limits a minute, by key, user or address (contract §1.3, §2).

Every request is counted once: by `MinuteThrottle` where a view lets it in, by `refusals` where it is refused before
that (no or wrong credentials, a missing scope or role), and by the middleware where no view of the API answers.

DRF imports this module while it makes its views, so nothing here may import these.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from accounts.api.authentication import LacksScope
from accounts.models import ApiKey, User
from mailflow import counters
from mailflow.limits import rules, subjects, threads
from mailflow.limits.rules import Rule
from mailflow.limits.threads import Budget
from mailproj.proxies import NOT_DIRECT


class TooManyRequests(Throttled):
    """The detail says which limit it was; whom it met stays in the log."""

    def __init__(self, budget: Budget) -> None:
        super().__init__(wait=budget.resets_in_seconds)
        self.detail = words(budget)  # type: ignore[assignment]
        self.wait = budget.resets_in_seconds
        self.budget = budget


class MinuteThrottle(BaseThrottle):
    """Counts each request that a view lets in against whoever makes it."""

    def allow_request(self, request: Request, view: Any) -> bool:
        budget = count(request._request, *whom(request))
        if budget is not None and not budget.allowed:
            raise TooManyRequests(budget)
        return True


def count_address(request: HttpRequest) -> Budget | None:
    """Count a request that no view of the API answers: nobody has asked who makes it."""
    return count(request, rules.api_from_settings().address_requests, subjects.of_client(address_of(request)).address)


def count(request: HttpRequest, rule: Rule, subject: str) -> Budget | None:
    """Count the request, and keep what is left for the headers (`mailproj.rate_limits`); None where nothing limits.

    Who is exempt reads the limit that others have, and always all of it left.
    """
    if is_exempt(request):
        budget = Budget(True, rule, rule.limit, rule.window_seconds) if rule.limit else None
    else:
        budget = threads.current().take(rule, subject)
    request.rate_limit_budgets = [budget] if budget is not None else []  # type: ignore[attr-defined]
    if budget is not None and not budget.allowed:
        counters.add("http.rate_limit.refused")
    return budget


def is_counted(request: HttpRequest) -> bool:
    return hasattr(request, "rate_limit_budgets")


def is_exempt(request: HttpRequest | Request) -> bool:
    """Whether SMTP_RATE_LIMIT_EXEMPT names the client; never where the address is that of a proxy before it."""
    if request.META.get(NOT_DIRECT):
        return False
    ip = subjects.of_client(address_of(request)).ip
    return ip is not None and any(ip in network for network in settings.SMTP_RATE_LIMIT_EXEMPT)


def address_of(request: HttpRequest | Request) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))


def words(budget: Budget) -> str:
    counted = budget.rule.counted
    for preposition in (" by ", " from ", " for "):
        counted = counted.partition(preposition)[0]
    return f"At most {budget.rule.limit} {counted} are taken; try again in {budget.resets_in_seconds} s."


def whom(request: Request, error: Exception | None = None) -> tuple[Rule, str]:
    """Return the rule and the subject of whoever makes the request, as far as that is known."""
    known = rules.api_from_settings()
    # Before anybody asked who it is: asking now could fail, and the request ends here anyway.
    user, auth = (request.user, request.auth) if "_user" in vars(request) else (None, None)
    key = error.key if isinstance(error, LacksScope) else auth
    if isinstance(key, ApiKey):
        return known.key_requests, str(key.pk)
    if isinstance(user, User):
        return known.user_requests, str(user.pk)
    return known.address_requests, subjects.of_client(address_of(request)).address
