"""`messages/{id}/cancel` and `/reschedule`: scheduled mail until it leaves, by its sender or by staff."""

from __future__ import annotations

import datetime as dt
from typing import Any, cast

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.fields import TextField
from accounts.api.problems import Conflict
from accounts.models import Scope, User
from mailflow.api.visibility import owns, visible_messages
from mailflow.models import Message
from mailflow.scheduled import MAX_AHEAD
from queue import control
from queue.control import NotScheduled
from queue.moments import MOMENT_WORDS, InvalidMoment


class TimeToSendField(TextField):
    """A time from now on."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return control.parse_time_to_send(super().to_internal_value(data), timezone.now())
        except InvalidMoment as error:
            raise serializers.ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None


class RescheduleBody(serializers.Serializer[Any]):
    scheduled_at = TimeToSendField(
        help_text=f"{MOMENT_WORDS[:1].upper()}{MOMENT_WORDS[1:]}, at most {MAX_AHEAD.days} days ahead; "
        "`now` means at once."
    )


class Scheduled(serializers.Serializer[Any]):
    id = serializers.CharField()
    message_id = serializers.CharField()
    status = serializers.ChoiceField(choices=Message.Status.choices)
    scheduled_at = serializers.DateTimeField(allow_null=True)
    recipients = serializers.IntegerField(help_text="For how many recipients it was done; others have left already.")
    message = serializers.CharField()


_CANCELLED = OpenApiExample(
    "Taken back",
    value={
        "id": "msg_0199f1c2d3e40a1b2c3d4e5f60",
        "message_id": "msg_0199f1c2d3e40a1b2c3d4e5f60",
        "status": "failed",
        "scheduled_at": None,
        "recipients": 2,
        "message": "Cancelled.",
    },
    response_only=True,
    status_codes=["200"],
)
_NOT_SCHEDULED = OpenApiResponse(description="It was not scheduled, or has left.")


class CancelView(APIView):
    """Take back scheduled mail that has not left."""

    key_scope = Scope.SEND

    @extend_schema(request=None, responses={200: Scheduled, 409: _NOT_SCHEDULED}, examples=[_CANCELLED])
    def post(self, request: Request, message_id: str) -> Response:
        """Its recipients end as failed, and nobody gets a report; 409 where it was not scheduled, or has left."""
        user = cast(User, request.user)
        message = _own_message(user, message_id)
        try:
            count = control.cancel(message, actor=user.username, now=timezone.now(), client_address=_address(request))
        except NotScheduled as error:
            raise Conflict(f"It cannot be cancelled. {error}") from None
        return Response(_answer(message, None, count, "Cancelled"))


class RescheduleView(APIView):
    """Put scheduled mail that has not left at another time."""

    key_scope = Scope.SEND

    @extend_schema(
        request=RescheduleBody,
        responses={200: Scheduled, 409: _NOT_SCHEDULED},
        examples=[
            OpenApiExample("In three days", value={"scheduled_at": "3d"}, request_only=True),
            OpenApiExample("In two hours", value={"scheduled_at": "2h"}, request_only=True),
        ],
    )
    def post(self, request: Request, message_id: str) -> Response:
        """409 where it was not scheduled, or has left."""
        user = cast(User, request.user)
        message = _own_message(user, message_id)
        body = RescheduleBody(data=request.data)
        body.is_valid(raise_exception=True)
        at = body.validated_data["scheduled_at"]
        try:
            count = control.reschedule(
                message, at, actor=user.username, now=timezone.now(), client_address=_address(request)
            )
        except NotScheduled as error:
            raise Conflict(f"It cannot be rescheduled. {error}") from None
        return Response(_answer(message, at, count, f"Scheduled for {at:%Y-%m-%d %H:%M:%S} UTC"))


def _address(request: Request) -> str:
    address: str = request.META.get("REMOTE_ADDR", "")
    return address


def _own_message(user: User, message_id: str) -> Message:
    """Return a message that the user may decide on: another tenant's is 404, a colleague's 403 (contract §1.3)."""
    found = None if "\0" in message_id else Message.objects.filter(pk=message_id).first()
    if found is not None and owns(user, found):
        return found
    is_colleagues = found is not None and None is not user.organization_id == found.organization_id
    if found is not None and (is_colleagues or visible_messages(user).filter(pk=found.pk).exists()):
        raise PermissionDenied("Only its sender, an administrator of the organization or staff may do this.")
    raise NotFound(f"There is no message {message_id[:40]!r}.")


def _answer(message: Message, at: dt.datetime | None, count: int, done: str) -> dict[str, Any]:
    message.refresh_from_db()
    of_all = f" for {count} of {message.recipient_count} recipients" if count < message.recipient_count else ""
    return {
        "id": message.pk,
        "message_id": message.pk,
        "status": message.status,
        "scheduled_at": at,
        "recipients": count,
        "message": f"{done}{of_all}.",
    }
