"""Who is asking: the X-API-Key header (R5), HTTP Basic (R4, RFC 7617) or the admin's session (contract §1.3).

An API key is taken from the header alone, never from a URL.
"""

from __future__ import annotations

import base64
import binascii

from rest_framework.authentication import BaseAuthentication
from rest_framework.authentication import SessionAuthentication as DjangoSessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts import credentials, keys
from accounts.models import ApiKey, TrailEntry, User

CHALLENGE = 'Basic realm="mailproj", charset="UTF-8"'


class ApiKeyAuthentication(BaseAuthentication):
    """`request.auth` is the key, `request.user` the user whose mail the key sends."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        text = request.headers.get("X-API-Key")
        if text is None:
            return None
        key = keys.authenticate(text.strip())
        if key is None:
            raise AuthenticationFailed("The API key in X-API-Key is not known or not active.")
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class BasicAuthentication(BaseAuthentication):
    """Username or address, and password."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        name, password = _decode(encoded)
        user = credentials.verify(name, password)
        if user is None:
            client = request.META.get("REMOTE_ADDR", "")
            shown = name.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:254]
            TrailEntry.objects.create(
                kind="auth.failed",
                actor=shown,
                subject="HTTP Basic",
                client_address=client,
                detail="Wrong name or password.",
            )
            raise AuthenticationFailed("The name or the password is wrong, or the account is switched off.")
        return user, None

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


class SessionAuthentication(DjangoSessionAuthentication):
    """The admin's session; unsafe methods need its CSRF token."""

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


def _decode(encoded: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise AuthenticationFailed("The Authorization header is not valid HTTP Basic.") from None
    name, colon, password = text.partition(":")
    if not colon:
        raise AuthenticationFailed("The Authorization header is not valid HTTP Basic.")
    return name, password
