"""`webhook-endpoints/{id}/deliveries`: what was sent, what was answered, and sending it again."""

from __future__ import annotations

import json
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.problems import Conflict
from accounts.api.webhook_endpoints import IS_OFF, found_endpoint
from accounts.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from accounts.webhooks import deliveries
from accounts.webhooks.names import EVENTS

MAX_ATTEMPTS_SHOWN = 100


class DeliveryFilter(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=WebhookDelivery.Status.choices, required=False)
    event = serializers.ChoiceField(choices=[*EVENTS, deliveries.TEST_EVENT], required=False)


class DeliveryItem(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="evt_…, the webhook-id of each of its requests.")
    event = serializers.CharField()
    status = serializers.ChoiceField(choices=WebhookDelivery.Status.choices)
    attempts = serializers.IntegerField(help_text="Since it was written, or since its last replay.")
    last_result = serializers.CharField(help_text="What the last attempt came to, in words.")
    created_at = serializers.DateTimeField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class DeliveryPage(PageOfItems):
    items = DeliveryItem(many=True)


class RequestItem(serializers.Serializer[Any]):
    url = serializers.CharField()
    headers = serializers.DictField(child=serializers.CharField())
    body = serializers.CharField()


class ResponseItem(serializers.Serializer[Any]):
    status = serializers.IntegerField()
    body = serializers.CharField(help_text="The first 4 KiB.")


class AttemptItem(serializers.Serializer[Any]):
    started_at = serializers.DateTimeField()
    duration_ms = serializers.IntegerField()
    request = RequestItem()
    response = ResponseItem(allow_null=True, help_text="null: there was no answer.")
    error = serializers.CharField(help_text="Why it failed, in words; empty is success.")


class DeliveryDetail(DeliveryItem):
    payload = serializers.DictField()
    requests = AttemptItem(many=True, help_text="Each request with its answer, the latest first.")


class DeliveryListView(APIView):
    """The endpoint's deliveries, the newest first."""

    @extend_schema(operation_id="webhook_deliveries_list", parameters=[DeliveryFilter], responses=DeliveryPage)
    def get(self, request: Request, endpoint_id: str) -> Response:
        endpoint = found_endpoint(request, endpoint_id)
        asked = DeliveryFilter(data=request.query_params)
        asked.is_valid(raise_exception=True)
        rows = WebhookDelivery.objects.filter(endpoint=endpoint, **asked.validated_data).defer("payload")
        page = page_of(
            rows.order_by("-pk"), window_of(request), lambda found: [DeliveryItem(one).data for one in found]
        )
        return Response(page.as_items())


class DeliveryView(APIView):
    """One delivery."""

    @extend_schema(responses=DeliveryDetail)
    def get(self, request: Request, endpoint_id: str, delivery_id: str) -> Response:
        delivery = _found(found_endpoint(request, endpoint_id), delivery_id)
        attempts = WebhookAttempt.objects.filter(delivery=delivery).order_by("-pk")[:MAX_ATTEMPTS_SHOWN]
        return Response(
            {
                **DeliveryItem(delivery).data,
                "payload": json.loads(delivery.payload),
                "requests": [_attempt(attempt, delivery.payload) for attempt in attempts],
            }
        )


class DeliveryReplayView(APIView):
    """Sending it again."""

    @extend_schema(
        request=None,
        responses={202: DeliveryItem, 409: OpenApiResponse(description="It is under way, or the endpoint is off.")},
    )
    def post(self, request: Request, endpoint_id: str, delivery_id: str) -> Response:
        """Send it again under the same id, with all attempts anew."""
        endpoint = found_endpoint(request, endpoint_id)
        delivery = _found(endpoint, delivery_id)
        if not endpoint.is_active:
            raise Conflict(IS_OFF)
        if not deliveries.replay(WebhookDelivery.objects.filter(pk=delivery.pk), timezone.now()):
            raise Conflict("It is being sent just now.")
        delivery.refresh_from_db()
        return Response(DeliveryItem(delivery).data, status=202)


def _found(endpoint: WebhookEndpoint, text: str) -> WebhookDelivery:
    is_id = text.isascii() and text.isprintable() and len(text) <= 30
    found = WebhookDelivery.objects.filter(endpoint=endpoint, pk=text).first() if is_id else None
    if found is None:
        raise NotFound(f"There is no delivery {text[:40]!r}.")
    return found


def _attempt(attempt: WebhookAttempt, body: str) -> dict[str, Any]:
    answer = {"status": attempt.response_status, "body": attempt.response_body}
    return {
        "started_at": attempt.started_at,
        "duration_ms": attempt.duration_ms,
        "request": {"url": attempt.url, "headers": attempt.request_headers, "body": body},
        "response": None if attempt.response_status is None else answer,
        "error": attempt.error,
    }
