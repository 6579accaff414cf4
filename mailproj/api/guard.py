"""The limits on wrong passwords and keys: those of SMTP AUTH, counted together with it (contract §1.3, §2)."""

from __future__ import annotations

from typing import NoReturn

from django.http import HttpRequest
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts.api.authentication import ApiKeyAuthentication, BasicAuthentication, offered
from accounts.models import User
from mailflow.limits import rules, subjects, threads
from mailflow.limits.rules import Rule
from mailflow.limits.threads import Budget
from mailproj.api.throttling import TooManyRequests, address_of, is_exempt


class GuardedBasicAuthentication(BasicAuthentication):
    """Looks no password up after too many wrong ones, from there or for that name: each costs us an Argon2id hash."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        try:
            given = offered(request)
        except AuthenticationFailed:
            spend(request, "")
            raise
        return None if given is None else (self.verify(request, *given), None)

    def verify(self, request: Request, name: str, password: str) -> User:
        stay_within(request, name)
        try:
            return super().verify(request, name, password)
        except AuthenticationFailed:
            spend(request, name)
            raise


class GuardedKeyAuthentication(ApiKeyAuthentication):
    """Counts wrong keys as wrong passwords.

    A right key opens all the same: 288 random bits are not guessed, and one program with an old key must not stop all
    others behind its address.
    """

    def refuse(self, request: Request) -> NoReturn:
        stay_within(request, "")  # and leaves no further line in the trail
        spend(request, "")
        super().refuse(request)


def stay_within(request: HttpRequest | Request, name: str) -> None:
    """Raise a 429 where one more failure would be too many."""
    budget = exceeded(request, name)
    if budget is not None:
        raise TooManyRequests(budget)


def exceeded(request: HttpRequest | Request, name: str) -> Budget | None:
    """Return the limit that one more failure would be over."""
    for rule, subject in _counted(request, name):
        budget = threads.current().look(rule, subject)
        if budget is not None and not budget.allowed:
            return budget
    return None


def spend(request: HttpRequest | Request, name: str) -> None:
    """Count a failure, whether or not there is such a user."""
    for rule, subject in _counted(request, name):
        threads.current().take(rule, subject)


def _counted(request: HttpRequest | Request, name: str) -> list[tuple[Rule, str]]:
    if is_exempt(request):
        return []
    client, known = subjects.of_client(address_of(request)), rules.from_settings()
    return [
        (known.auth_failures, client.address),
        (known.network_auth_failures, client.network),
        (known.user_name_auth_failures, subjects.of_user_name(name)),
    ]
