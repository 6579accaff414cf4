"""`PATCH messages/{id}/status` (R3): staff put a record right, and the trail says who."""

from __future__ import annotations

from typing import Any, cast

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.fields import TextField
from accounts.api.problems import Conflict
from accounts.models import TrailEntry, User
from accounts.models.fields import validate_address
from mailflow import events
from mailflow.api.visibility import StaffForMessages, visible_message
from mailflow.events import NewEvent
from mailflow.models import Event, Message
from queue.api import message_shape
from queue.api.message_shape import STATUS_SET, MessageDetail
from queue.models import Entry

_ENDED = (Message.Status.DELIVERED, Message.Status.FAILED, Message.Status.BOUNCED, Message.Status.REJECTED)


class StatusQuery(serializers.Serializer[Any]):
    """In the query or in the body."""

    new_status = serializers.ChoiceField(choices=Message.Status.choices)
    forwarded_to = TextField(required=False, max_length=254, validators=[validate_address])


class StatusBody(serializers.Serializer[Any]):
    """What the query does not say."""

    new_status = serializers.ChoiceField(choices=Message.Status.choices, required=False)
    forwarded_to = TextField(required=False, max_length=254)


_PARAMETERS = [
    OpenApiParameter("new_status", str, enum=Message.Status.values, description="Needed, here or in the body."),
    OpenApiParameter("forwarded_to", str, description="An address."),
]


class MessageStatusView(APIView):
    """A message that is still in the queue keeps the status that the queue gives it: take it out first."""

    permission_classes = [StaffForMessages]

    @extend_schema(
        parameters=_PARAMETERS,
        request=StatusBody,
        examples=[OpenApiExample("In the body", value={"new_status": "delivered"}, request_only=True)],
        responses={200: MessageDetail, 409: OpenApiResponse(description="It is still in the queue.")},
    )
    def patch(self, request: Request, message_id: str) -> Response:
        user = cast(User, request.user)
        given = request.data if isinstance(request.data, dict) else {}
        query = StatusQuery(data={**given, **request.query_params.dict()})
        query.is_valid(raise_exception=True)
        new, forwarded_to = query.validated_data["new_status"], query.validated_data.get("forwarded_to", "")
        with transaction.atomic():
            message = Message.objects.select_for_update().get(pk=visible_message(user, message_id).pk)
            if Entry.objects.filter(message=message, status__in=Entry.OPEN).exists():
                raise Conflict("The message is still in the queue, which tells its status. Take it out first.")
            old = message.status
            message.status = new
            message.finished_at = (message.finished_at or timezone.now()) if new in _ENDED else None
            message.save(update_fields=["status", "finished_at"])
            onto = f", forwarded to {forwarded_to}" if forwarded_to else ""
            words = f"{user.username} set the status from {old} to {new}{onto}."
            events.record(
                [
                    NewEvent(
                        kind=Event.Kind.CHANGED.value,
                        rule=STATUS_SET,
                        summary=words,
                        message_id=message.pk,
                        recipient=forwarded_to,
                        actor=user.username,
                        trace_id=message.trace_id,
                    )
                ]
            )
            TrailEntry.objects.create(kind="message.status", actor=user.username, subject=message.pk, detail=words)
        return Response(message_shape.detail(message, user))
