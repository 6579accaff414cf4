"""`organizations`: tenants, for staff; an organization's administrators see and rename their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, OuterRef, ProtectedError, QuerySet, Subquery
from django.db.models.functions import Coalesce
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.asking import by, by_number, caller, checked, demand
from accounts.api.fields import TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.models import Domain, Organization, TrailEntry, User
from accounts.roles import access_to_organization, is_staff, own_organization_id

NEEDS_STAFF = "That needs staff of the platform."


class OrganizationBody(serializers.Serializer[Any]):
    name = TextField(max_length=200)
    is_active = serializers.BooleanField(
        required=False, help_text="While off, its users and keys can do nothing; staff only."
    )


class OrganizationItem(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    name = serializers.CharField()
    is_active = serializers.BooleanField()
    user_count = serializers.IntegerField()
    domain_count = serializers.IntegerField()
    created_at = serializers.DateTimeField()


class OrganizationPage(PageOfItems):
    items = OrganizationItem(many=True)


_EXAMPLE = OpenApiExample("A new tenant", value={"name": "Acme"}, request_only=True)
_CHANGE = OpenApiExample("A new name", value={"name": "Acme Inc."}, request_only=True)
_ITEM = OpenApiExample(
    "A tenant",
    value={
        "id": 2,
        "name": "Acme",
        "is_active": True,
        "user_count": 0,
        "domain_count": 0,
        "created_at": "2025-10-23T12:00:00Z",
    },
    response_only=True,
    status_codes=["200", "201"],
)
_TAKEN = OpenApiResponse(description="The name is taken.")


class OrganizationListView(APIView):
    """Staff see all organizations, others their own."""

    @extend_schema(operation_id="organizations_list", responses=OrganizationPage)
    def get(self, request: Request) -> Response:
        user = caller(request)
        rows = _counted() if is_staff(user) else _counted().filter(pk=own_organization_id(user))
        if not (is_staff(user) or user.is_organization_admin):
            raise PermissionDenied("That needs an administrator of the organization.")
        return Response(
            page_of(rows.order_by("pk"), window_of(request), lambda found: list(map(_item, found))).as_items()
        )

    @extend_schema(
        request=OrganizationBody,
        responses={201: OrganizationItem, 409: _TAKEN},
        examples=[_EXAMPLE, _ITEM],
    )
    def post(self, request: Request) -> Response:
        """Make an organization; for staff."""
        if not is_staff(caller(request)):
            raise PermissionDenied(NEEDS_STAFF)
        values = checked(OrganizationBody, request)
        with _named(), transaction.atomic():
            made = Organization.objects.create(**values)
            _trail(request, "organization.created", made)
        return Response(_item(_counted().get(pk=made.pk)), status=201)


class OrganizationView(APIView):
    """One organization."""

    @extend_schema(responses=OrganizationItem, examples=[_ITEM])
    def get(self, request: Request, organization_id: str) -> Response:
        return Response(_item(_found(request, organization_id)))

    @extend_schema(request=OrganizationBody, responses={200: OrganizationItem, 409: _TAKEN}, examples=[_CHANGE, _ITEM])
    def patch(self, request: Request, organization_id: str) -> Response:
        """Rename it, or (staff) switch it on or off."""
        found = _found(request, organization_id)
        values = checked(OrganizationBody, request, partial=True)
        new = {name: value for name, value in values.items() if getattr(found, name) != value}
        if "is_active" in new and not is_staff(caller(request)):
            raise PermissionDenied(f"is_active: {NEEDS_STAFF}")
        if new:
            for name, value in new.items():
                setattr(found, name, value)
            with _named(), transaction.atomic():
                found.save(update_fields=list(new))
                _trail(request, "organization.changed", found, f"Changed: {', '.join(new)}.")
        return Response(_item(found))

    @extend_schema(responses={204: None, 409: OpenApiResponse(description="It has users or domains.")})
    def delete(self, request: Request, organization_id: str) -> Response:
        """Remove it; its users and domains must have gone before. For staff."""
        found = _found(request, organization_id)
        if not is_staff(caller(request)):
            raise PermissionDenied(NEEDS_STAFF)
        try:
            with transaction.atomic():
                _trail(request, "organization.deleted", found)
                found.delete()
        except ProtectedError:
            held = f"{found.user_number} users and {found.domain_number} domains"  # type: ignore[attr-defined]
            raise Conflict(f"The organization has {held}: delete them first.") from None
        return Response(status=204)


@contextmanager
def _named() -> Iterator[None]:
    """Turn a name that is taken into a 409."""
    try:
        yield
    except IntegrityError:
        raise Conflict("An organization of this name exists already.") from None


def _found(request: Request, text: str) -> Organization:
    found = by_number(_counted(), text, "organization")
    demand(access_to_organization(caller(request), found.pk), "organization", text)
    return found


def _counted() -> QuerySet[Organization]:
    """Organizations with how many users and domains they have; joins of both would multiply each other."""
    users = User.objects.filter(organization=OuterRef("pk"))
    domains = Domain.objects.filter(organization=OuterRef("pk"))
    return Organization.objects.annotate(user_number=_count(users), domain_number=_count(domains))


def _count(rows: QuerySet[Any]) -> Coalesce:
    grouped = rows.order_by().values("organization").annotate(number=Count("pk"))
    return Coalesce(Subquery(grouped.values("number")), 0)


def _item(organization: Any) -> dict[str, Any]:
    return {
        "id": organization.pk,
        "name": organization.name,
        "is_active": organization.is_active,
        "user_count": organization.user_number,
        "domain_count": organization.domain_number,
        "created_at": organization.created_at,
    }


def _trail(request: Request, kind: str, organization: Organization, detail: str = "") -> None:
    who = by(request)
    TrailEntry.objects.create(
        kind=kind, actor=who["actor"][:254], subject=organization.name, client_address=who["client"], detail=detail
    )
