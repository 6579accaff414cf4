"""`api-keys`: made and shown once, limited, rotated with an overlap, revoked (contract §1.3).

Everybody manages their own keys, an organization's administrators those of its users, staff all.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import key_senders, keys, users
from accounts.api.asking import NEEDS_ADMIN, by, caller, checked, demand
from accounts.api.fields import IdOrNameField, TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.models import ApiKey, Scope, User
from accounts.models.api_key import DEFAULT_SCOPES, MAX_SENDERS
from accounts.names import InvalidName, parse_address, parse_domain
from accounts.roles import Access, access_to_user, is_admin_of, is_staff, outranks, own_organization_id

MAX_LIMIT = 2_147_483_647  # what the column holds
LONGEST_OVERLAP = dt.timedelta(days=30)
DEFAULT_OVERLAP = dt.timedelta(days=1)
OTHERS = "Another user's keys are for administrators of the organization."


class SenderDomain(TextField):
    def to_internal_value(self, data: Any) -> str:
        try:
            return parse_domain(super().to_internal_value(data))
        except InvalidName as error:
            raise serializers.ValidationError(f"Not a valid domain name: {error}.") from None


class SenderAddress(TextField):
    def to_internal_value(self, data: Any) -> str:
        try:
            return str(parse_address(super().to_internal_value(data)))
        except InvalidName as error:
            raise serializers.ValidationError(f"Not a valid address: {error}.") from None


class KeyBody(serializers.Serializer[Any]):
    """Without domains and addresses the key may send from all that its user holds; with any, from these alone."""

    name = TextField(max_length=100, help_text="What the key is for.")
    daily_limit = serializers.IntegerField(
        required=False, default=15, min_value=1, max_value=MAX_LIMIT, help_text="Messages a day (UTC)."
    )
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=Scope.choices),
        required=False,
        default=list(DEFAULT_SCOPES),
        min_length=1,
        max_length=len(Scope),
        help_text="`admin` is everything that its user may, the others included.",
    )
    allowed_domains = serializers.ListField(
        child=SenderDomain(max_length=255), required=False, default=list, max_length=MAX_SENDERS
    )
    allowed_addresses = serializers.ListField(
        child=SenderAddress(max_length=254), required=False, default=list, max_length=MAX_SENDERS
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)

    def validate_scopes(self, scopes: list[str]) -> list[str]:
        return [scope for scope in Scope.values if scope in scopes]

    def validate_expires_at(self, at: dt.datetime | None) -> dt.datetime | None:
        if words := keys.why_no_end(at, timezone.now()):
            raise serializers.ValidationError(words)
        return at


class NewKeyBody(KeyBody):
    is_test = serializers.BooleanField(required=False, default=False, help_text="Begins with sk_test_.")
    user = IdOrNameField(
        required=False, max_length=254, help_text="Whose mail it sends: id, username or address; without it, yours."
    )
    user_id = IdOrNameField(required=False, max_length=254, help_text="The same as `user`, as the answer calls it.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "user" in attrs and "user_id" in attrs:
            raise serializers.ValidationError({"user_id": "Give either 'user' or 'user_id', not both."})
        return attrs


class KeyChanges(KeyBody):
    is_active = serializers.BooleanField(required=False, help_text="A revoked key cannot be switched on again.")


class RotationBody(serializers.Serializer[Any]):
    overlap_seconds = serializers.IntegerField(
        required=False,
        default=int(DEFAULT_OVERLAP.total_seconds()),
        min_value=0,
        max_value=int(LONGEST_OVERLAP.total_seconds()),
        help_text="How much longer the text before works.",
    )


class KeyItem(serializers.Serializer[Any]):
    """A key without its text, which nobody can see again."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="The key's visible start.")
    user_id = serializers.IntegerField()
    username = serializers.CharField()
    daily_limit = serializers.IntegerField()
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))
    allowed_domains = serializers.ListField(child=serializers.CharField())
    allowed_addresses = serializers.ListField(child=serializers.CharField())
    is_test = serializers.BooleanField()
    is_active = serializers.BooleanField()
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute or so.")
    revoked_at = serializers.DateTimeField(allow_null=True)
    previous_expires_at = serializers.DateTimeField(
        allow_null=True, help_text="Until then the text before the last rotation works too."
    )
    created_at = serializers.DateTimeField()


class NewKey(KeyItem):
    key = serializers.CharField(help_text="The key itself, this once.")


class KeyPage(PageOfItems):
    items = KeyItem(many=True)


_EXAMPLE = OpenApiExample(
    "A key for one application",
    value={"name": "shop", "daily_limit": 100, "scopes": ["send"], "allowed_domains": ["example.com"]},
    request_only=True,
)
_CHANGE = OpenApiExample("A higher limit", value={"daily_limit": 500}, request_only=True)
_ROTATION = OpenApiExample("The old text works for an hour more", value={"overlap_seconds": 3600}, request_only=True)
_KEY = {
    "id": "3f0c6a3e-8f1f-4c53-9f3e-0d5a5c9f7a10",
    "name": "shop",
    "prefix": "sk_live_3f0c6a3e",
    "user_id": 3,
    "username": "jane",
    "daily_limit": 100,
    "scopes": ["send"],
    "allowed_domains": ["example.com"],
    "allowed_addresses": [],
    "is_test": False,
    "is_active": True,
    "expires_at": None,
    "last_used_at": None,
    "revoked_at": None,
    "previous_expires_at": None,
    "created_at": "2025-10-23T12:00:00Z",
}
_ITEM = OpenApiExample("A key", value=_KEY, response_only=True, status_codes=["200"])
_NEW = OpenApiExample(
    "With its text, this once", value={**_KEY, "key": "sk_live_3f0c…"}, response_only=True, status_codes=["200", "201"]
)
_REVOKED = OpenApiResponse(description="The key is revoked.")


class KeyListView(APIView):
    """The caller's keys; for an organization's administrators those of its users, for staff all."""

    @extend_schema(operation_id="api_keys_list", responses=KeyPage)
    def get(self, request: Request) -> Response:
        user = caller(request)
        rows = ApiKey.objects.select_related("user").order_by("created_at", "pk")
        if not is_staff(user):
            own = own_organization_id(user)
            rows = rows.filter(user__organization_id=own) if is_admin_of(user, own) else rows.filter(user=user)
        return Response(page_of(rows, window_of(request), lambda found: list(map(_item, found))).as_items())

    @extend_schema(
        request=NewKeyBody,
        responses={201: NewKey, 403: OpenApiResponse(description="The key would be another user's.")},
        examples=[_EXAMPLE, _NEW],
    )
    def post(self, request: Request) -> Response:
        """Make a key; the answer alone has its text."""
        values = checked(NewKeyBody, request)
        field = "user_id" if "user_id" in values else "user"
        owner = _owner(request, values.pop(field, None), field)
        _check_senders(owner, values)
        values["allowed_addresses"] = keys.kept_addresses(values["allowed_addresses"])
        name, limit, test = values.pop("name"), values.pop("daily_limit"), values.pop("is_test")
        made, text = keys.create(name, owner, daily_limit=limit, test=test, **values, **by(request))
        return Response({**_item(made), "key": text}, status=201, headers={"Cache-Control": "no-store"})


class KeyView(APIView):
    """One key."""

    @extend_schema(responses=KeyItem, examples=[_ITEM])
    def get(self, request: Request, key_id: str) -> Response:
        return Response(_item(_found(request, key_id)))

    @extend_schema(request=KeyChanges, responses={200: KeyItem, 409: _REVOKED}, examples=[_CHANGE, _ITEM])
    def patch(self, request: Request, key_id: str) -> Response:
        """Change its name, limits, scopes or end, or switch it on or off."""
        key = _found(request, key_id)
        values = checked(KeyChanges, request, partial=True)
        _check_senders(key.user, values)
        if "allowed_addresses" in values:
            values["allowed_addresses"] = keys.kept_addresses(values["allowed_addresses"])
        try:
            keys.change(key, values, **by(request))
        except ValueError as error:
            raise Conflict(f"{str(error).capitalize()}.") from None
        return Response(_item(key))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, key_id: str) -> Response:
        """Revoke it: from now on it opens nothing, in any process. Its record stays, for the mail that it sent."""
        keys.revoke(_found(request, key_id), **by(request))
        return Response(status=204)


class KeyRotateView(APIView):
    """A new text for the key."""

    @extend_schema(request=RotationBody, responses={200: NewKey, 409: _REVOKED}, examples=[_ROTATION, _NEW])
    def post(self, request: Request, key_id: str) -> Response:
        """Give the key a new text, which the answer alone has; the one before works for `overlap_seconds` longer."""
        key = _found(request, key_id)
        overlap = dt.timedelta(seconds=checked(RotationBody, request)["overlap_seconds"])
        try:
            text = keys.rotate(key, overlap=overlap, **by(request))
        except ValueError as error:
            raise Conflict(f"{str(error).capitalize()}.") from None
        return Response({**_item(key), "key": text}, headers={"Cache-Control": "no-store"})


def _found(request: Request, text: str) -> ApiKey:
    try:
        key_id = uuid.UUID(text)
    except ValueError:
        raise NotFound(f"There is no API key {text[:40]!r}.") from None
    key = ApiKey.objects.select_related("user").filter(pk=key_id).first()
    if key is None:
        raise NotFound(f"There is no API key {text[:40]!r}.")
    demand(access_to_user(caller(request), key.user), "API key", text, words=OTHERS)
    if outranks(caller(request), key.user):
        raise PermissionDenied("The key's user has powers that you have not.")
    return key


def _owner(request: Request, named: str | None, field: str) -> User:
    """Return whose key is to be made: it can do what its user can, so nobody makes one for somebody mightier."""
    user = caller(request)
    if named is None:
        return user
    found = users.find(named)
    access = Access.NONE if found is None else access_to_user(user, found)
    if found is None or access is Access.NONE:
        raise ValidationError({field: "There is no such user."})
    if access is Access.FORBIDDEN:
        raise PermissionDenied(f"{field}: {NEEDS_ADMIN}")
    if outranks(user, found):
        raise PermissionDenied(f"{field}: it has powers that you have not.")
    return found


def _check_senders(owner: User, values: dict[str, Any]) -> None:
    try:
        key_senders.check(
            owner, domains=values.get("allowed_domains", ()), addresses=values.get("allowed_addresses", ())
        )
    except key_senders.NotHeld as error:
        raise ValidationError({error.field: str(error)}) from None


def _item(key: ApiKey) -> dict[str, Any]:
    return {
        "id": str(key.pk),
        "name": key.name,
        "prefix": key.prefix,
        "user_id": key.user_id,
        "username": key.user.username,
        "daily_limit": key.daily_limit,
        "scopes": key.scopes,
        "allowed_domains": key.allowed_domains,
        "allowed_addresses": key.allowed_addresses,
        "is_test": key.is_test,
        "is_active": key.is_active,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
        "previous_expires_at": key.previous_expires_at,
        "created_at": key.created_at,
    }
