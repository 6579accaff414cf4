"""`users` (R4): listed, made, looked at with statistics, changed by an administrator or oneself, deleted with all data.

An organization's administrators manage its users, staff all; nobody manages an account whose powers are greater.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import membership, users
from accounts.api.asking import NEEDS_ADMIN, by, caller, checked, demand
from accounts.api.fields import TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.api.texts import text
from accounts.billing.plans import PlanLimitReached
from accounts.membership import AccountTaken, InvalidAccount
from accounts.models import Organization, User
from accounts.roles import SELF_SERVICE, Access, access_to_user, is_admin_of, is_staff, outranks, own_organization_id
from mailflow import erasure, user_figures
from mailflow.errors import Unavailable

log = structlog.get_logger(__name__)

MAX_QUOTA_MB = 2_147_483_647  # what the column holds
ERASE_SECONDS = 2.0  # how long a deletion is worked on before its answer; the worker does the rest
MIGHTIER = "The account has powers that you have not."
DELETED = "User deleted successfully"
_FIELDS = {"enabled": "is_active"}  # the API's word for a field of the model


class UserBody(serializers.Serializer[Any]):
    """Any of the fields. Oneself: `email` and `password`; the others need an administrator, `is_staff` a superuser."""

    email = TextField(required=False, max_length=254, help_text="The mailbox address.")
    password = TextField(required=False, max_length=4096, trim_whitespace=False, write_only=True)
    quota_mb = serializers.IntegerField(
        required=False, min_value=0, max_value=MAX_QUOTA_MB, help_text="Room for kept mail, in MiB; 0 means no limit."
    )
    enabled = serializers.BooleanField(required=False)
    is_organization_admin = serializers.BooleanField(required=False)
    is_staff = serializers.BooleanField(required=False)
    organization_id = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=2**63 - 1, help_text="Staff only."
    )


class NewUserBody(UserBody):
    """Without an organization the account belongs to the one whose domain its address is in, else to the caller's."""

    username = TextField(max_length=150)
    email = TextField(max_length=254, help_text="The mailbox address.")
    password = TextField(max_length=4096, trim_whitespace=False, write_only=True)


class UserItem(serializers.Serializer[Any]):
    """An account, without its password."""

    id = serializers.IntegerField()
    username = serializers.CharField()
    email = serializers.CharField()
    created_at = serializers.DateTimeField()
    last_login = serializers.DateTimeField(allow_null=True, help_text="By any door; to the minute or so.")
    quota_mb = serializers.IntegerField()
    used_mb = serializers.FloatField()
    enabled = serializers.BooleanField()
    organization_id = serializers.IntegerField(allow_null=True)
    is_organization_admin = serializers.BooleanField()
    is_staff = serializers.BooleanField()


class Statistics(serializers.Serializer[Any]):
    messages_received = serializers.IntegerField()
    messages_sent = serializers.IntegerField()
    storage_used_mb = serializers.FloatField()


class UserDetail(UserItem):
    statistics = Statistics()


class UserPage(PageOfItems):
    items = UserItem(many=True)


class UserDeleted(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()
    data_removed = serializers.BooleanField(
        help_text="Whether all data is gone; else the account is, and the worker goes on with its data."
    )


_NEW = OpenApiExample(
    "A new account",
    value={"username": "john", "email": "john@example.com", "password": "SecureP@ssw0rd", "quota_mb": 1000},
    request_only=True,
)
_CHANGE = OpenApiExample(
    "Another address, more room",
    value={"email": "newemail@example.com", "quota_mb": 2000, "enabled": True},
    request_only=True,
)
_ITEM = OpenApiExample(
    "An account",
    value={
        "id": 3,
        "username": "jane",
        "email": "jane@example.com",
        "created_at": "2025-10-23T12:00:00Z",
        "last_login": None,
        "quota_mb": 1000,
        "used_mb": 0.0,
        "enabled": True,
        "organization_id": 1,
        "is_organization_admin": False,
        "is_staff": False,
    },
    response_only=True,
    status_codes=["200", "201"],
)
_TAKEN = OpenApiResponse(description="The name or the address is taken.")


class UserListView(APIView):
    """The users of the caller's organization, for its administrators; for staff all.

    At `/api/users` the answer is `users`, `total`, `offset` and `limit`.
    """

    as_printed = False

    @extend_schema(operation_id="users_list", responses=UserPage)
    def get(self, request: Request) -> Response:
        user = caller(request)
        if not is_admin_of(user, user.organization_id):
            raise PermissionDenied(NEEDS_ADMIN)
        rows = _visible(user).order_by("pk")
        window = window_of(request, default=100 if self.as_printed else 20)
        page = page_of(rows, window, lambda found: list(map(_item, found)))
        return Response(page.as_named("users") if self.as_printed else page.as_items())

    @extend_schema(request=NewUserBody, responses={201: UserItem, 409: _TAKEN}, examples=[_NEW, _ITEM])
    def post(self, request: Request) -> Response:
        """Make an account with a mailbox."""
        user = caller(request)
        if not is_admin_of(user, user.organization_id):
            raise PermissionDenied(NEEDS_ADMIN)
        values = _model_values(request, checked(NewUserBody, request))
        _check_powers(user, values, User())
        if "organization" not in values or not is_staff(user):
            values["organization"] = _default_organization(user, values["email"])
        name, address, password = values.pop("username"), values.pop("email"), values.pop("password")
        organization = values.pop("organization")
        with _told():
            made = membership.create(
                name, address, password, organization, by_staff=is_staff(user), **by(request), **values
            )
        return Response(_item(made), status=201)


class UserView(APIView):
    """One user, by username, address or id."""

    @extend_schema(responses=UserDetail)
    def get(self, request: Request, username: str) -> Response:
        user, _ = _found(request, username)
        return Response({**_item(user), "statistics": user_figures.statistics(user)})

    @extend_schema(request=UserBody, responses={200: UserItem, 409: _TAKEN}, examples=[_CHANGE, _ITEM])
    def put(self, request: Request, username: str) -> Response:
        """Change what is given; the rest stays as it is."""
        user, access = _found(request, username)
        actor = caller(request)
        if outranks(actor, user):
            raise PermissionDenied(MIGHTIER)
        values = _model_values(request, checked(UserBody, request))
        if access is Access.OWN:
            _check_self_service(user, values)
        else:
            _check_powers(actor, values, user)
        if user == actor and not values.get("is_active", True):
            raise Conflict("You cannot switch off the account that you act as.")
        with _told():
            membership.change(user, values, by_staff=is_staff(actor), is_self=access is Access.OWN, **by(request))
        return Response(_item(user))

    @extend_schema(request=UserBody, responses={200: UserItem, 409: _TAKEN}, examples=[_CHANGE, _ITEM])
    def patch(self, request: Request, username: str) -> Response:
        """The same as PUT."""
        return self.put(request, username)

    @extend_schema(responses={200: UserDeleted, 409: OpenApiResponse(description="It is the caller's own account.")})
    def delete(self, request: Request, username: str) -> Response:
        """Delete the account with its mailboxes, copies, keys and the records of what it sent.

        It is gone at once, name and address are free. What it had sent and is still on its way goes on.
        """
        user, access = _found(request, username)
        if access is Access.OWN:
            raise PermissionDenied(NEEDS_ADMIN)
        if user == caller(request):
            raise Conflict("You cannot delete the account that you act as.")
        if outranks(caller(request), user):
            raise PermissionDenied(MIGHTIER)
        if not erasure.begin(user, **by(request)):
            raise NotFound(f"There is no user {username[:40]!r}.")
        return Response({"success": True, "message": text(request, DELETED), "data_removed": _erased(user.pk)})


def _erased(user_id: int) -> bool:
    try:
        return erasure.erase(user_id, seconds=ERASE_SECONDS)
    except Unavailable as trouble:  # the account is gone; its data waits for the storage
        log.error("erasure_waits_for_storage", user_id=user_id, cause=trouble.cause)
        return False


def _visible(user: User) -> QuerySet[User]:
    alive = User.objects.filter(deleted_at__isnull=True)
    return alive if is_staff(user) else alive.filter(organization_id=own_organization_id(user))


def _found(request: Request, name: str) -> tuple[User, Access]:
    """Return the user and what the caller may do with it; 404 for another tenant's, 403 for a colleague."""
    found = users.find(name)
    access = Access.NONE if found is None else access_to_user(caller(request), found)
    demand(access, "user", name, words="Another user's account is for administrators of the organization.")
    assert found is not None
    return found, access


def _model_values(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body's values under the model's names; an organization as the object."""
    values = {_FIELDS.get(name, name): value for name, value in body.items()}
    if "organization_id" in values:
        wanted = values.pop("organization_id")
        user = caller(request)
        found = None if wanted is None else Organization.objects.filter(pk=wanted).first()
        if wanted is not None and (found is None or not (is_staff(user) or wanted == user.organization_id)):
            raise ValidationError({"organization_id": "There is no such organization."})
        values["organization"] = found
    return values


def _default_organization(user: User, address: str) -> Organization | None:
    if not is_staff(user):
        return user.organization
    return membership.organization_of_address(address) or user.organization


def _check_self_service(user: User, values: dict[str, Any]) -> None:
    """Refuse what is not one's own to change; a value that is as it was is no change."""
    wanted = [name for name in values if name not in SELF_SERVICE and values[name] != getattr(user, name)]
    if wanted:
        names = {model: api for api, model in _FIELDS.items()}
        raise PermissionDenied(f"{', '.join(names.get(name, name) for name in wanted)}: {NEEDS_ADMIN}")


def _check_powers(actor: User, values: dict[str, Any], user: User) -> None:
    """Refuse powers that the actor cannot give, and moves between organizations except by staff."""
    if values.get("is_staff", user.is_staff) != user.is_staff and not actor.is_superuser:
        raise PermissionDenied("is_staff: that needs a superuser.")
    moves = "organization" in values and values["organization"] != (user.organization or actor.organization)
    if moves and not is_staff(actor):
        raise PermissionDenied("organization_id: that needs staff of the platform.")


@contextmanager
def _told() -> Iterator[None]:
    """Answer what is wrong with an account."""
    try:
        yield
    except InvalidAccount as error:
        raise ValidationError(dict(error.errors)) from None
    except AccountTaken as error:
        raise Conflict(str(error)) from None
    except PlanLimitReached as error:
        raise PermissionDenied(str(error)) from None


def _item(user: User) -> dict[str, Any]:
    return {
        "id": user.pk,
        "username": user.username,
        "email": user.email,
        "created_at": user.date_joined,
        "last_login": user.last_login,
        "quota_mb": user.quota_mb,
        "used_mb": user_figures.used_mb(user),
        "enabled": user.is_active,
        "organization_id": user.organization_id,
        "is_organization_admin": user.is_organization_admin,
        "is_staff": user.is_staff,
    }
