"""`webhook-endpoints`: URLs that hear of events, signed by Standard Webhooks (R4, contract §1.1).

An organization's administrators look after its own, staff after all, those of the whole system included.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.asking import NEEDS_ADMIN, by, caller, checked, demand
from accounts.api.fields import TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.models import Organization, User, WebhookEndpoint
from accounts.roles import access_to_organization, is_staff, own_organization_id
from accounts.webhooks import deliveries, endpoints
from accounts.webhooks.endpoints import DEFAULT_OVERLAP, LONGEST_OVERLAP, InvalidEndpoint, TooManyEndpoints
from accounts.webhooks.names import CHOICES, EVENTS
from accounts.webhooks.target import MAX_LENGTH

IS_OFF = "The endpoint is off: set is_active first."


class EndpointChanges(serializers.Serializer[Any]):
    """What can be changed. A change of the URL, or switching it on, forgets its failures."""

    url = TextField(
        max_length=MAX_LENGTH, help_text="https:// or http://, to a public address; redirects are not followed."
    )
    events = serializers.ListField(child=serializers.ChoiceField(choices=CHOICES), min_length=1, max_length=len(EVENTS))
    description = TextField(required=False, allow_blank=True, max_length=200)
    is_active = serializers.BooleanField(required=False)


class EndpointBody(EndpointChanges):
    events = serializers.ListField(
        child=serializers.ChoiceField(choices=CHOICES),
        min_length=1,
        max_length=len(EVENTS),
        required=False,
        default=list(EVENTS),
        help_text="All of them if not given.",
    )
    organization_id = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="For staff: whose events it hears, null for the whole system's; without it, one's own.",
    )


class SecretRotation(serializers.Serializer[Any]):
    overlap_seconds = serializers.IntegerField(
        required=False,
        default=int(DEFAULT_OVERLAP.total_seconds()),
        min_value=0,
        max_value=int(LONGEST_OVERLAP.total_seconds()),
        help_text="How much longer requests are signed with the secret before, too.",
    )


class TestBody(serializers.Serializer[Any]):
    event = serializers.ChoiceField(
        choices=CHOICES, required=False, help_text="Send made-up data under this name; else as webhook.test."
    )


class EndpointItem(serializers.Serializer[Any]):
    """An endpoint without its secret, which nobody can see again."""

    id = serializers.UUIDField()
    organization_id = serializers.IntegerField(allow_null=True, help_text="null: it hears of the whole system.")
    url = serializers.CharField()
    description = serializers.CharField()
    events = serializers.ListField(child=serializers.ChoiceField(choices=CHOICES))
    is_active = serializers.BooleanField()
    is_from_environment = serializers.BooleanField(help_text="It follows SMTP_WEBHOOK_URL and SMTP_WEBHOOK_EVENTS.")
    failing_since = serializers.DateTimeField(allow_null=True)
    last_success_at = serializers.DateTimeField(allow_null=True)
    disabled_at = serializers.DateTimeField(allow_null=True, help_text="When the system switched it off.")
    disabled_reason = serializers.CharField()
    previous_expires_at = serializers.DateTimeField(
        allow_null=True, help_text="Until then requests are signed with the secret before the last rotation, too."
    )
    created_at = serializers.DateTimeField()


class NewEndpoint(EndpointItem):
    secret = serializers.CharField(help_text="whsec_…, for a Standard Webhooks library; this once.")


class EndpointPage(PageOfItems):
    items = EndpointItem(many=True)


class TestAnswer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="evt_…; look at the delivery to see what came of it.")
    event = serializers.CharField()
    status = serializers.CharField()


_EXAMPLE = OpenApiExample(
    "Hear of what comes in and what fails",
    value={"url": "https://example.com/webhook", "events": ["message.received", "message.failed"]},
    request_only=True,
)
_CHANGE = OpenApiExample("Switch it off", value={"is_active": False}, request_only=True)
_ROTATION = OpenApiExample("Both secrets sign for an hour", value={"overlap_seconds": 3600}, request_only=True)
_TRIAL = OpenApiExample("As if a message had come in", value={"event": "message.received"}, request_only=True)
_SENT = OpenApiExample(
    "On its way",
    value={"id": "evt_0199f1c2d3e40a1b2c3d4e5f60", "event": "message.received", "status": "pending"},
    response_only=True,
    status_codes=["202"],
)
_PAYLOAD = OpenApiExample(
    "The new endpoint",
    value={
        "id": "3f0c6a3e-8f1f-4c53-9f3e-0d5a5c9f7a10",
        "organization_id": 1,
        "url": "https://example.com/webhook",
        "description": "",
        "events": ["message.received", "message.failed"],
        "is_active": True,
        "is_from_environment": False,
        "failing_since": None,
        "last_success_at": None,
        "disabled_at": None,
        "disabled_reason": "",
        "previous_expires_at": None,
        "created_at": "2025-10-23T12:00:00Z",
        "secret": "whsec_…",
    },
    response_only=True,
    status_codes=["201"],
)


class EndpointListView(APIView):
    """The organization's endpoints; for staff all.

    Each event is sent by POST, with a body such as `{"event": "message.received", "timestamp": "2025-10-23T12:00:00Z",
    "data": {"message_id": "msg_…", "from": "…", "to": ["…"], "subject": "…", "size_bytes": 1234}}` and the headers
    `webhook-id` (the same at each attempt: a receiver that has seen it is done), `webhook-timestamp` and
    `webhook-signature`. An answer of 2xx within 15 seconds is success; else it is sent again, for about a day.
    """

    @extend_schema(operation_id="webhook_endpoints_list", responses=EndpointPage)
    def get(self, request: Request) -> Response:
        user = caller(request)
        rows = WebhookEndpoint.objects.order_by("created_at", "pk")
        if not is_staff(user):
            if not user.is_organization_admin:
                raise PermissionDenied(NEEDS_ADMIN)
            rows = rows.filter(organization_id=own_organization_id(user))
        return Response(page_of(rows, window_of(request), lambda found: [_item(one) for one in found]).as_items())

    @extend_schema(
        request=EndpointBody,
        responses={201: NewEndpoint, 409: OpenApiResponse(description="The organization has as many as it may have.")},
        examples=[_EXAMPLE, _PAYLOAD],
    )
    def post(self, request: Request) -> Response:
        """Make an endpoint; the answer alone has its secret."""
        user = caller(request)
        if not (is_staff(user) or user.is_organization_admin):
            raise PermissionDenied(NEEDS_ADMIN)
        values = checked(EndpointBody, request)
        organization = _organization(user, values)
        values.pop("organization_id", None)
        with _fields():
            made, secret = endpoints.create(
                organization, values.pop("url"), values.pop("events"), **values, **by(request)
            )
        return Response({**_item(made), "secret": secret}, status=201, headers={"Cache-Control": "no-store"})


class EndpointView(APIView):
    """One endpoint."""

    @extend_schema(responses=EndpointItem)
    def get(self, request: Request, endpoint_id: str) -> Response:
        return Response(_item(found_endpoint(request, endpoint_id)))

    @extend_schema(request=EndpointChanges, responses=EndpointItem, examples=[_CHANGE])
    def patch(self, request: Request, endpoint_id: str) -> Response:
        """Change it. What waits goes to the new URL; while off, nothing is noted, and what waits goes on waiting."""
        endpoint = found_endpoint(request, endpoint_id)
        values = checked(EndpointChanges, request, partial=True)
        with _fields():
            endpoints.change(endpoint, values, **by(request))
        return Response(_item(endpoint))

    @extend_schema(responses={204: None, 409: OpenApiResponse(description="It follows SMTP_WEBHOOK_URL.")})
    def delete(self, request: Request, endpoint_id: str) -> Response:
        """Remove it, with what waits for it."""
        try:
            endpoints.delete(found_endpoint(request, endpoint_id), **by(request))
        except InvalidEndpoint as error:
            raise Conflict(str(error)) from None
        return Response(status=204)


class EndpointRotateView(APIView):
    """A new secret for the endpoint."""

    @extend_schema(
        request=SecretRotation,
        responses={200: NewEndpoint, 409: OpenApiResponse(description="Its secret is SMTP_WEBHOOK_SECRET.")},
        examples=[_ROTATION],
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Make a new secret, which the answer alone has; for `overlap_seconds` requests bear signatures of both."""
        endpoint = found_endpoint(request, endpoint_id)
        overlap = dt.timedelta(seconds=checked(SecretRotation, request)["overlap_seconds"])
        try:
            secret = endpoints.rotate_secret(endpoint, overlap=overlap, **by(request))
        except InvalidEndpoint as error:
            raise Conflict(str(error)) from None
        return Response({**_item(endpoint), "secret": secret}, headers={"Cache-Control": "no-store"})


class EndpointTestView(APIView):
    """A trial of the endpoint."""

    @extend_schema(
        request=TestBody,
        responses={202: TestAnswer, 409: OpenApiResponse(description="The endpoint is off.")},
        examples=[_TRIAL, _SENT],
    )
    def post(self, request: Request, endpoint_id: str) -> Response:
        """Send made-up data, signed and retried as any event."""
        endpoint = found_endpoint(request, endpoint_id)
        event = checked(TestBody, request).get("event", "")
        if not endpoint.is_active:
            raise Conflict(IS_OFF)
        made = deliveries.send_test(endpoint, event)
        return Response({"id": made.pk, "event": made.event, "status": made.status}, status=202)


def found_endpoint(request: Request, text: str) -> WebhookEndpoint:
    """Return the endpoint with this id, if the caller may look after it; else raise a 404 or 403."""
    try:
        endpoint_id = UUID(text)
    except ValueError:
        raise NotFound(f"There is no webhook endpoint {text[:40]!r}.") from None
    found = WebhookEndpoint.objects.select_related("organization").filter(pk=endpoint_id).first()
    if found is None:
        raise NotFound(f"There is no webhook endpoint {text[:40]!r}.")
    demand(access_to_organization(caller(request), found.organization_id), "webhook endpoint", text)
    return found


def _organization(user: User, values: dict[str, Any]) -> Organization | None:
    if "organization_id" not in values:
        if user.organization is None and not is_staff(user):
            raise PermissionDenied(NEEDS_ADMIN)
        return user.organization
    wanted: int | None = values["organization_id"]
    if wanted is not None and wanted == user.organization_id:
        return user.organization
    if not is_staff(user):
        raise ValidationError({"organization_id": "Only staff makes endpoints for others."})
    if wanted is None:
        return None
    found = Organization.objects.filter(pk=wanted).first() if 0 < wanted < 2**63 else None
    if found is None:
        raise ValidationError({"organization_id": "There is no such organization."})
    return found


@contextmanager
def _fields() -> Iterator[None]:
    """Turn what the endpoint cannot be into an answer that names the field."""
    try:
        yield
    except InvalidEndpoint as error:
        raise ValidationError({error.field: str(error)}) from None
    except TooManyEndpoints as error:
        raise Conflict(str(error)) from None


def _item(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return dict(EndpointItem(endpoint).data)
