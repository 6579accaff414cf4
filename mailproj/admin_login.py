"""The admin's form: its wrong passwords count, and are told of, like those of HTTP Basic (contract §1.3)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from accounts.api.authentication import note_failure
from accounts.models import User
from accounts.webhooks.login_failures import WRONG_PASSWORD
from mailproj.api import guard


class GuardedBackend(ModelBackend):
    """Looks no password up after too many wrong ones, from there or for that name."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> User | None:
        if request is None or username is None:
            return super().authenticate(request, username, password, **kwargs)
        if guard.exceeded(request, username) is not None:
            raise PermissionDenied  # the form says what it says of a wrong password
        user = super().authenticate(request, username, password, **kwargs)
        if user is None:
            guard.spend(request, username)
            note_failure(request, username, "Admin", WRONG_PASSWORD)
        return user
