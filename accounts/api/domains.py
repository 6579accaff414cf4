"""`domains` (R3): made, looked at, verified by DNS, changed, given up; and R1's question whether a domain is local.

Members see their organization's domains, its administrators manage them, staff manage all.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import domains
from accounts.api.asking import NEEDS_ADMIN, by, by_number, caller, checked, demand
from accounts.api.fields import TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.billing.plans import PlanLimitReached
from accounts.dns_checks import State
from accounts.dns_records import Purpose, Record, dkim_public_key, records_of
from accounts.models import Domain, Organization
from accounts.names import InvalidName, parse_domain
from accounts.roles import access_to_organization, is_admin_of, is_staff, own_organization_id

STATE_CHOICES = [(state.value, state.value) for state in State]


class DomainNameText(TextField):
    """A domain name of at least two labels, in any script; its value is in lower-case A-labels."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=255, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        try:
            name = parse_domain(super().to_internal_value(data))
        except InvalidName as error:
            raise serializers.ValidationError(f"Not a valid domain name: {error}.") from None
        if "." not in name or name.rpartition(".")[2].isdigit():
            raise serializers.ValidationError("Not a valid domain name: such as example.com is needed.")
        return name


class NewDomainBody(serializers.Serializer[Any]):
    name = DomainNameText(help_text="Such as example.com.")
    organization_id = serializers.IntegerField(
        required=False, min_value=1, max_value=2**63 - 1, help_text="Staff only; without it, the caller's own."
    )
    accepts_mail = serializers.BooleanField(required=False, default=True, help_text="Off for a domain that only sends.")
    is_trusted = serializers.BooleanField(required=False, default=False, help_text="Usable without DNS; staff only.")


class DomainBody(serializers.Serializer[Any]):
    is_active = serializers.BooleanField(required=False, help_text="While off, mail for the domain is refused.")
    accepts_mail = serializers.BooleanField(required=False)
    is_trusted = serializers.BooleanField(required=False, help_text="Usable without DNS; staff only.")


class DomainItem(serializers.Serializer[Any]):
    """The booleans are what the last check found."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    organization_id = serializers.IntegerField()
    status = serializers.ChoiceField(choices=Domain.Status.choices)
    is_active = serializers.BooleanField()
    mx_record_verified = serializers.BooleanField()
    spf_record_verified = serializers.BooleanField()
    dkim_record_verified = serializers.BooleanField()
    dmarc_record_verified = serializers.BooleanField()
    dkim_public_key = serializers.CharField(allow_null=True)
    verification_token = serializers.CharField()
    ownership_verified = serializers.BooleanField()
    is_trusted = serializers.BooleanField()
    accepts_mail = serializers.BooleanField()
    is_usable = serializers.BooleanField(help_text="Whether mail is taken for it and sent from it.")
    verified_at = serializers.DateTimeField(allow_null=True, help_text="When all records were first found.")
    last_checked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class DomainPage(PageOfItems):
    items = DomainItem(many=True)


class DnsRecord(serializers.Serializer[Any]):
    """One record to publish."""

    purpose = serializers.ChoiceField(choices=[(purpose.value, purpose.value) for purpose in Purpose])
    type = serializers.CharField()
    name = serializers.CharField(help_text="Absolute, without the last dot.")
    value = serializers.CharField(help_text="For MX the host.")
    priority = serializers.IntegerField(allow_null=True, help_text="For MX.")
    zone_line = serializers.CharField(help_text="The same as a line of a zone file.")

    def get_fields(self) -> dict[str, Any]:  # a serializer's own attribute is called required
        return {**super().get_fields(), "required": serializers.BooleanField()}


class DnsRecords(serializers.Serializer[Any]):
    domain = serializers.CharField()
    records = DnsRecord(many=True)
    zone = serializers.CharField(help_text="All of them as lines of a zone file.")


class CheckedRecord(serializers.Serializer[Any]):
    """One record: what was expected, what was found, and in words what follows."""

    purpose = serializers.CharField()
    type = serializers.CharField()
    name = serializers.CharField()
    expected = serializers.CharField()
    found = serializers.ListField(child=serializers.CharField())
    status = serializers.ChoiceField(choices=STATE_CHOICES)
    message = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "required": serializers.BooleanField()}


class DomainWithRecords(DomainItem):
    records = DnsRecord(many=True)


class DomainChecked(DomainItem):
    records = CheckedRecord(many=True)


class DomainExists(serializers.Serializer[Any]):
    exists = serializers.BooleanField(help_text="Whether mail for it is ours, or it is one of the caller's domains.")
    domain = serializers.CharField()


_ITEM = OpenApiExample(
    "A domain",
    value={
        "id": 1,
        "name": "example.com",
        "organization_id": 1,
        "status": "verified",
        "is_active": True,
        "mx_record_verified": True,
        "spf_record_verified": True,
        "dkim_record_verified": True,
        "dmarc_record_verified": True,
        "dkim_public_key": "MIIBIjANBgkq…",
        "verification_token": "mailproj-verify=…",
        "ownership_verified": True,
        "is_trusted": False,
        "accepts_mail": True,
        "is_usable": True,
        "verified_at": "2025-10-23T12:05:00Z",
        "last_checked_at": "2025-10-23T12:05:00Z",
        "created_at": "2025-10-23T12:00:00Z",
        "updated_at": "2025-10-23T12:05:00Z",
    },
    response_only=True,
    status_codes=["200"],
)
_EXISTS = OpenApiExample(
    "A domain of ours", value={"exists": True, "domain": "example.com"}, response_only=True, status_codes=["200"]
)


class DomainListView(APIView):
    """The caller's organization's domains; for staff all."""

    @extend_schema(
        operation_id="domains_list",
        parameters=[OpenApiParameter("status", str, enum=Domain.Status.values)],
        responses=DomainPage,
    )
    def get(self, request: Request) -> Response:
        user, status = caller(request), request.query_params.get("status")
        rows = Domain.objects.prefetch_related("dkim_keys").order_by("pk")
        if not is_staff(user):
            rows = rows.filter(organization_id=own_organization_id(user))
        if status is not None:
            if status not in Domain.Status.values:
                raise ValidationError({"status": f"One of {', '.join(Domain.Status.values)} is needed."})
            rows = rows.filter(status=status)
        return Response(page_of(rows, window_of(request), lambda found: list(map(_item, found))).as_items())

    @extend_schema(
        request=NewDomainBody,
        responses={201: DomainWithRecords, 409: OpenApiResponse(description="The domain exists already.")},
        examples=[OpenApiExample("A new domain", value={"name": "example.org"}, request_only=True)],
    )
    def post(self, request: Request) -> Response:
        """Make a domain; the answer says which DNS records to publish before it is verified."""
        user = caller(request)
        if not is_admin_of(user, user.organization_id):
            raise PermissionDenied(NEEDS_ADMIN)
        values = checked(NewDomainBody, request)
        if values["is_trusted"] and not is_staff(user):
            raise PermissionDenied("is_trusted: that needs staff of the platform.")
        organization = _organization(request, values)
        try:
            made = domains.create(values["name"], organization, accepts_mail=values["accepts_mail"], **by(request))
        except domains.NameTaken as taken:
            raise Conflict(str(taken)) from None
        except PlanLimitReached as reached:
            raise PermissionDenied(str(reached)) from None
        if values["is_trusted"]:
            domains.change(made, is_trusted=True, **by(request))
        return Response({**_item(made), "records": [_record(record) for record in records_of(made)]}, status=201)


class DomainView(APIView):
    """One domain."""

    @extend_schema(responses=DomainItem, examples=[_ITEM])
    def get(self, request: Request, domain_id: str) -> Response:
        return Response(_item(_found(request, domain_id, full=False)))

    @extend_schema(
        request=DomainBody,
        responses=DomainItem,
        examples=[OpenApiExample("Switched on", value={"is_active": True}, request_only=True), _ITEM],
    )
    def patch(self, request: Request, domain_id: str) -> Response:
        """Switch it on or off, or say whether it takes mail."""
        domain = _found(request, domain_id)
        values = checked(DomainBody, request)
        trusted = values.get("is_trusted", domain.is_trusted)
        if trusted != domain.is_trusted and not is_staff(caller(request)):
            raise PermissionDenied("is_trusted: that needs staff of the platform.")
        domains.change(domain, **values, **by(request))
        return Response(_item(domain))

    @extend_schema(responses={204: None, 409: OpenApiResponse(description="Mailboxes have addresses in it.")})
    def delete(self, request: Request, domain_id: str) -> Response:
        """Give it up, with its aliases; its mailboxes must have gone before."""
        try:
            domains.delete(_found(request, domain_id), **by(request))
        except domains.InUse as used:
            raise Conflict(str(used)) from None
        return Response(status=204)


class DomainVerifyView(APIView):
    """Look the domain's records up now."""

    @extend_schema(request=None, responses=DomainChecked)
    def post(self, request: Request, domain_id: str) -> Response:
        """Say for each record what was found and what was expected.

        The domain is verified if all required ones are right, failed if one is known not to be; while DNS does not
        answer nothing changes. A domain that was verified once stays usable.
        """
        domain = _found(request, domain_id)
        domains.verify(domain, **by(request))
        return Response({**_item(domain), "records": domain.check_results})


class DomainRecordsView(APIView):
    """What to publish in DNS."""

    @extend_schema(responses=DnsRecords)
    def get(self, request: Request, domain_id: str) -> Response:
        domain = _found(request, domain_id, full=False)
        records = records_of(domain)
        zone = "".join(f"{record.zone_line}\n" for record in records)
        return Response({"domain": domain.name, "records": [_record(record) for record in records], "zone": zone})


class DomainExistsView(APIView):
    """Whether a domain is local: what every sending host learns at RCPT too; of the caller's own, always."""

    @extend_schema(responses=DomainExists, examples=[_EXISTS])
    def get(self, request: Request, name: str) -> Response:
        user = caller(request)
        try:
            wanted = parse_domain(name)
        except InvalidName as error:
            raise ValidationError({"name": f"Not a valid domain name: {error}."}) from None
        domain = Domain.objects.filter(name=wanted).first()
        is_own = domain is not None and (is_staff(user) or domain.organization_id == user.organization_id)
        return Response({"exists": domain is not None and (is_own or domain.is_usable), "domain": wanted})


def _found(request: Request, text: str, *, full: bool = True) -> Domain:
    domain = by_number(Domain.objects.all(), text, "domain")
    demand(access_to_organization(caller(request), domain.organization_id), "domain", text, full=full)
    return domain


def _organization(request: Request, values: dict[str, Any]) -> Organization:
    user = caller(request)
    wanted = values.get("organization_id", user.organization_id)
    if wanted is None:
        raise ValidationError({"organization_id": "It is needed: your account has no organization."})
    found = Organization.objects.filter(pk=wanted).first()
    if found is None or not (is_staff(user) or wanted == user.organization_id):
        raise ValidationError({"organization_id": "There is no such organization."})
    return found


def _item(domain: Domain) -> dict[str, Any]:
    required = [result for result in domain.check_results if result["required"]]
    right = {result["purpose"]: True for result in required}
    for result in required:  # of several keys that sign each must be there
        right[result["purpose"]] = right[result["purpose"]] and result["status"] == State.OK
    return {
        "id": domain.pk,
        "name": domain.name,
        "organization_id": domain.organization_id,
        "status": domain.status,
        "is_active": domain.is_active,
        **{f"{kind}_record_verified": right.get(kind, False) for kind in ("mx", "spf", "dkim", "dmarc")},
        "dkim_public_key": dkim_public_key(domain),
        "verification_token": domain.verification_token,
        "ownership_verified": right.get("ownership", False),
        "is_trusted": domain.is_trusted,
        "accepts_mail": domain.accepts_mail,
        "is_usable": domain.is_usable,
        "verified_at": domain.verified_at,
        "last_checked_at": domain.last_checked_at,
        "created_at": domain.created_at,
        "updated_at": domain.updated_at,
    }


def _record(record: Record) -> dict[str, Any]:
    return {
        "purpose": record.purpose.value,
        "type": record.type,
        "name": record.name,
        "value": record.value,
        "priority": record.preference,
        "required": record.required,
        "zone_line": record.zone_line,
    }
