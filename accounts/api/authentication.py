"""Who is asking: the X-API-Key header (R5), HTTP Basic (R4, RFC 7617) or the admin's session (contract §1.3).

An API key is taken from the header alone, never from a URL.
"""

from __future__ import annotations

import base64
import binascii
from typing import NoReturn

from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.authentication import SessionAuthentication as DjangoSessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request

from accounts import credentials, keys
from accounts.models import ApiKey, Scope, TrailEntry, User
from accounts.webhooks import login_failures
from accounts.webhooks.login_failures import LoginFailure

CHALLENGE = 'Basic realm="mailproj", charset="UTF-8"'
WRONG_KEY = "The API key is not known, not active or has expired."


class LacksScope(PermissionDenied):
    """The key is right and its user known, but it is for other things; `key` is whom the limits count."""

    def __init__(self, key: ApiKey, scope: Scope) -> None:
        super().__init__(f"The API key lacks the scope {scope.value!r}; it has: {', '.join(key.scopes)}.")
        self.key = key


class ApiKeyAuthentication(BaseAuthentication):
    """`request.auth` is the key, `request.user` the user whose mail the key sends.

    What a key may be used for is asked here, so that no view can forget it: what only reads needs the scope `read`,
    all else `admin`, or what the view names as its `key_scope`.
    """

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        text = request.META.get("HTTP_X_API_KEY")
        if text is None:
            return None
        key = keys.authenticate(text.strip())
        if key is None:
            self.refuse(request)
        scope = needed_scope(request)
        if not keys.has_scope(key, scope):
            raise LacksScope(key, scope)
        keys.note_use(key, timezone.now())
        return key.user, key

    def refuse(self, request: Request) -> NoReturn:
        """Nothing of the text is kept: it may be a right one with a slip, or be good elsewhere."""
        note_failure(request, "", "X-API-Key", WRONG_KEY)
        raise AuthenticationFailed("The API key in X-API-Key is not known, not active or has expired.")

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class BasicAuthentication(BaseAuthentication):
    """Username or address, and password."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        given = offered(request)
        return None if given is None else (self.verify(request, *given), None)

    def verify(self, request: Request, name: str, password: str) -> User:
        user = credentials.verify(name, password)
        if user is None:
            note_failure(request, name, "HTTP Basic", login_failures.WRONG_PASSWORD)
            raise AuthenticationFailed(login_failures.WRONG_PASSWORD)
        return user

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class SessionAuthentication(DjangoSessionAuthentication):
    """The admin's session; unsafe methods need its CSRF token."""

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


def needed_scope(request: Request) -> Scope:
    """Return which scope a key needs for the request."""
    if request.method in SAFE_METHODS:
        return Scope.READ
    return Scope(getattr(request.parser_context.get("view"), "key_scope", Scope.ADMIN))


def offered(request: Request) -> tuple[str, str] | None:
    """Return the name and the password of HTTP Basic, None where the request has no such header."""
    scheme, _, encoded = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return _decode(encoded) if scheme.lower() == "basic" else None


def note_failure(request: HttpRequest | Request, name: str, subject: str, reason: str) -> None:
    """Write a failed login into the trail, and tell of it; `subject` is the way in that was tried."""
    shown = name.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:254]
    client = str(request.META.get("REMOTE_ADDR", ""))[:45]
    with transaction.atomic():
        TrailEntry.objects.create(
            kind="auth.failed", actor=shown, subject=subject, client_address=client, detail=reason
        )
        login_failures.tell([LoginFailure(shown, client, "http", timezone.now(), reason)])


def _decode(encoded: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise AuthenticationFailed("The Authorization header is not valid HTTP Basic.") from None
    name, colon, password = text.partition(":")
    if not colon:
        raise AuthenticationFailed("The Authorization header is not valid HTTP Basic.")
    return name, password
