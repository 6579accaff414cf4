"""`aliases`: addresses that forward, the catch-all `*` among them.

Members see their organization's aliases, its administrators manage them, staff manage all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import aliases
from accounts.api.asking import by, by_number, caller, checked, demand
from accounts.api.fields import SEVERAL, TextField, names_several
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.models import Alias, Domain
from accounts.models.alias import MAX_TARGETS
from accounts.names import InvalidName, parse_address, parse_domain
from accounts.roles import access_to_organization, is_staff, own_organization_id


class _TargetField(TextField):
    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        if names_several(text) and not _is_address(text):
            raise serializers.ValidationError(SEVERAL)
        return text


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except InvalidName:
        return False
    return True


@extend_schema_field({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
class TargetsField(serializers.ListField):
    """One address or a list of them."""

    child = _TargetField(max_length=254)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_length=1, max_length=MAX_TARGETS, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        return [self.child.run_validation(data)] if isinstance(data, str) else super().to_internal_value(data)


class AliasBody(serializers.Serializer[Any]):
    targets = TargetsField(help_text="Where its mail goes: one address or a list.")
    announcement = serializers.ChoiceField(
        choices=Alias.Announcement.choices, required=False, help_text="What a sending server hears of it."
    )
    is_active = serializers.BooleanField(required=False)


class NewAliasBody(AliasBody):
    """The address, or its two parts."""

    address = TextField(
        required=False, max_length=320, help_text="Such as sales@example.com, or *@example.com for the catch-all."
    )
    domain_id = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    local_part = TextField(required=False, max_length=128)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if ("address" in attrs) == ("local_part" in attrs or "domain_id" in attrs):
            raise serializers.ValidationError({"address": "Give either address, or domain_id and local_part."})
        for name in ("domain_id", "local_part"):
            if "address" not in attrs and name not in attrs:
                raise serializers.ValidationError({name: "It is needed beside the other part."})
        return attrs


class AliasItem(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    address = serializers.CharField()
    domain_id = serializers.IntegerField()
    local_part = serializers.CharField()
    targets = serializers.ListField(child=serializers.CharField())
    announcement = serializers.ChoiceField(choices=Alias.Announcement.choices)
    is_active = serializers.BooleanField()
    created_at = serializers.DateTimeField()


class AliasPage(PageOfItems):
    items = AliasItem(many=True)


_EXAMPLES = [
    OpenApiExample(
        "One target", value={"address": "info@example.com", "targets": "jane@example.com"}, request_only=True
    ),
    OpenApiExample("Catch-all", value={"address": "*@example.com", "targets": ["jane@example.com"]}, request_only=True),
]
_CHANGE = OpenApiExample(
    "Lead it elsewhere", value={"targets": ["jane@example.com", "joe@example.org"]}, request_only=True
)
_ITEM = OpenApiExample(
    "An alias",
    value={
        "id": 7,
        "address": "info@example.com",
        "domain_id": 1,
        "local_part": "info",
        "targets": ["jane@example.com"],
        "announcement": "silent",
        "is_active": True,
        "created_at": "2025-10-23T12:00:00Z",
    },
    response_only=True,
    status_codes=["200", "201"],
)
_TAKEN = OpenApiResponse(description="The address is an alias or a mailbox already.")


class AliasListView(APIView):
    """The aliases of the caller's organization's domains; for staff all."""

    @extend_schema(
        operation_id="aliases_list",
        parameters=[OpenApiParameter("domain_id", int, description="Of this domain alone.")],
        responses={200: AliasPage, 404: OpenApiResponse(description="There is no such domain.")},
    )
    def get(self, request: Request) -> Response:
        user, domain_id = caller(request), request.query_params.get("domain_id")
        rows = Alias.objects.select_related("domain").order_by("pk")
        if not is_staff(user):
            rows = rows.filter(domain__organization_id=own_organization_id(user))
        if domain_id is not None:
            domain = by_number(Domain.objects.all(), domain_id, "domain")
            demand(access_to_organization(user, domain.organization_id), "domain", domain_id, full=False)
            rows = rows.filter(domain=domain)
        return Response(page_of(rows, window_of(request), lambda found: list(map(_item, found))).as_items())

    @extend_schema(
        request=NewAliasBody,
        responses={201: AliasItem, 409: _TAKEN},
        examples=[*_EXAMPLES, _ITEM],
    )
    def post(self, request: Request) -> Response:
        """Make an alias."""
        values = checked(NewAliasBody, request)
        domain, local_part = _place(request, values)
        fields = {name: value for name, value in values.items() if name in AliasBody().fields}
        with _told("address" if "address" in values else "local_part"):
            made = aliases.create(domain, local_part, fields, **by(request))
        return Response(_item(made), status=201)


class AliasView(APIView):
    """One alias."""

    @extend_schema(responses=AliasItem, examples=[_ITEM])
    def get(self, request: Request, alias_id: str) -> Response:
        return Response(_item(_found(request, alias_id, full=False)))

    @extend_schema(request=AliasBody, responses={200: AliasItem, 409: _TAKEN}, examples=[_CHANGE, _ITEM])
    def patch(self, request: Request, alias_id: str) -> Response:
        """Change where it leads, what it announces, or switch it on or off."""
        alias = _found(request, alias_id)
        with _told("local_part"):
            aliases.change(alias, checked(AliasBody, request, partial=True), **by(request))
        return Response(_item(alias))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, alias_id: str) -> Response:
        aliases.delete(_found(request, alias_id), **by(request))
        return Response(status=204)


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Answer what is wrong with an alias; `place` is the field of the request that has the local part."""
    try:
        yield
    except aliases.InvalidAlias as error:
        raise ValidationError(
            {place if name == "local_part" else name: words for name, words in error.errors.items()}
        ) from None
    except aliases.AliasTaken as error:
        raise Conflict(str(error)) from None


def _place(request: Request, values: dict[str, Any]) -> tuple[Domain, str]:
    """Return the domain and the local part that the body names; a domain of others is as if there were none."""
    if "address" in values:
        local_part, at, name = values["address"].rpartition("@")
        field = "address"
        try:
            domain = Domain.objects.filter(name=parse_domain(name)).first() if at else None
        except InvalidName as error:
            raise ValidationError({field: f"Not a valid address: {error}."}) from None
    else:
        local_part, field = values["local_part"], "domain_id"
        domain = Domain.objects.filter(pk=values["domain_id"]).first()
    user = caller(request)
    if domain is None or not (is_staff(user) or domain.organization_id == user.organization_id):
        raise ValidationError({field: "There is no such domain."})
    demand(access_to_organization(user, domain.organization_id), "domain", str(domain.pk))
    return domain, local_part


def _found(request: Request, text: str, *, full: bool = True) -> Alias:
    alias = by_number(Alias.objects.select_related("domain"), text, "alias")
    demand(access_to_organization(caller(request), alias.domain.organization_id), "alias", text, full=full)
    return alias


def _item(alias: Alias) -> dict[str, Any]:
    return {
        "id": alias.pk,
        "address": str(alias),
        "domain_id": alias.domain_id,
        "local_part": alias.local_part,
        "targets": alias.targets,
        "announcement": alias.announcement,
        "is_active": alias.is_active,
        "created_at": alias.created_at,
    }
