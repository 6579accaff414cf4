"""What views want to know of a request: who asks, for the trail, and the body as checked values."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from django.db.models import Model, QuerySet
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request

from accounts.models import ApiKey, User
from accounts.roles import Access
from accounts.trail import By

M = TypeVar("M", bound=Model)
NEEDS_ADMIN = "That needs an administrator of the organization."
MAX_ID = 2**63 - 1


def caller(request: Request) -> User:
    return cast(User, request.user)


def by(request: Request) -> By:
    user, key = caller(request), request.auth
    actor = f"{user.username} by key {key.name}" if isinstance(key, ApiKey) else user.username
    return {"actor": actor, "client": str(request.META.get("REMOTE_ADDR", ""))[:45]}


def checked(serializer: type[serializers.Serializer[Any]], request: Request, **options: Any) -> dict[str, Any]:
    """Return the body's values, or raise a 400 that names each field."""
    body = serializer(data=request.data, **options)
    body.is_valid(raise_exception=True)
    return cast("dict[str, Any]", body.validated_data)


def by_number(rows: QuerySet[M], text: str, what: str) -> M:
    """Return the row with this id, or raise a 404; what is no number is no id."""
    found = None
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_ID:
        found = rows.filter(pk=int(text)).first()
    if found is None:
        raise NotFound(f"There is no {what} {text[:40]!r}.")
    return found


def demand(access: Access, what: str, text: str, *, full: bool = True, words: str = NEEDS_ADMIN) -> None:
    """Raise the 404 or 403 that goes with the access; with `full` false, a member's is enough."""
    if access is Access.NONE:
        raise NotFound(f"There is no {what} {text[:40]!r}.")
    if access is Access.FORBIDDEN and full:
        raise PermissionDenied(words)
