"""`GET queue`, `GET`/`DELETE queue/{message_id}` and its `retry` (R4): the queue, grouped by message, for staff."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.paging import Page, window_of
from accounts.api.problems import Conflict
from accounts.api.texts import text
from accounts.models import User
from mailflow.api.visibility import StaffForMessages
from mailflow.ids import MESSAGE_ID_PREFIX
from mailflow.models import Message
from queue import actions, queued, selection
from queue.api.message_shape import RecipientItem, recipient
from queue.control import Action, Left, Order, Tally
from queue.models import Entry
from queue.queued import STATUSES, TOTAL_CAP
from queue.waiting import Around, around, waiting_for

STATUS_CHOICES = [(status, status) for status in STATUSES]
NOTHING_WAITS = "None of its recipients is waiting: each has ended, or a worker has it in hands."
WAITS_FOR_A_PERSON = "It is on hold, or scheduled for later by its sender; a retry overrides neither."
STATUS = OpenApiParameter("status", str, enum=STATUSES)
BEFORE = OpenApiParameter(
    "before", str, description="A message id: what was accepted before it, however far back, at the price of page 1."
)


class QueuedMessage(serializers.Serializer[Any]):
    """A message in the queue; `to` are the recipients who have not got it."""

    id = serializers.CharField()
    to = serializers.ListField(child=serializers.CharField())
    subject = serializers.CharField()
    size_bytes = serializers.IntegerField()
    attempts = serializers.IntegerField(help_text="The most that any of its recipients had.")
    max_attempts = serializers.IntegerField()
    next_retry = serializers.DateTimeField(allow_null=True)
    status = serializers.ChoiceField(choices=STATUS_CHOICES)
    waiting_for = serializers.CharField(allow_null=True)
    created_at = serializers.DateTimeField()
    recipients = RecipientItem(many=True)

    def get_fields(self) -> dict[str, Any]:
        return {**super().get_fields(), "from": serializers.CharField(help_text="Empty for the null path.")}


class QueuePage(serializers.Serializer[Any]):
    items = QueuedMessage(many=True)
    total = serializers.IntegerField(help_text=f"Exact below {TOTAL_CAP:,}, which stands for that many or more.")
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    total_pages = serializers.IntegerField()


class Done(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()


_REMOVED, _RETRIED = (
    OpenApiExample("Done", value={"success": True, "message": words}, response_only=True, status_codes=["200"])
    for words in ("Message removed from queue", "Message queued for immediate retry")
)
_NOTHING_WAITS = OpenApiResponse(description="None of its recipients waits, or only for a person.")


class QueueListView(APIView):
    """Messages that some recipient has not got, the newest first.

    At `/api/queue` the answer is `messages`, `total`, `offset` and `limit`.
    """

    permission_classes = [IsAdminUser]
    as_printed = False

    @extend_schema(operation_id="queue_list", parameters=[STATUS, BEFORE], responses=QueuePage)
    def get(self, request: Request) -> Response:
        status = request.query_params.get("status")
        if status is not None and status not in STATUSES:
            raise ValidationError({"status": f"One of {', '.join(STATUSES)} is needed."})
        before = request.query_params.get("before")
        if before is not None and ("\0" in before or not before.startswith(MESSAGE_ID_PREFIX)):
            raise ValidationError({"before": "A message id is needed."})
        window, now = window_of(request, default=100 if self.as_printed else 20), timezone.now()
        found = queued.page(status, now, offset=window.offset, limit=window.limit, before=before)
        page = Page(_rendered(found, now), queued.total(status, now), window)
        return Response(page.as_named("messages") if self.as_printed else page.as_items())


class QueueView(APIView):
    """One queued message."""

    permission_classes = [StaffForMessages]

    @extend_schema(responses=QueuedMessage)
    def get(self, request: Request, message_id: str) -> Response:
        return Response(_rendered([_found(message_id)], timezone.now())[0])

    @extend_schema(responses={200: Done, 409: _NOTHING_WAITS}, examples=[_REMOVED])
    def delete(self, request: Request, message_id: str) -> Response:
        """Take the message out of the queue: its open entries end as failed."""
        message = _found(message_id)
        if not _done(request, Action.DELETE, message).done:
            raise Conflict(NOTHING_WAITS)
        return Response({"success": True, "message": text(request, "Message removed from queue")})


class QueueRetryView(APIView):
    """Try again at once."""

    permission_classes = [StaffForMessages]

    @extend_schema(request=None, responses={200: Done, 409: _NOTHING_WAITS}, examples=[_RETRIED])
    def post(self, request: Request, message_id: str) -> Response:
        message = _found(message_id)
        tally = _done(request, Action.RETRY, message)
        if not tally.done:
            waits_for_a_person = tally.left[Left.HELD] or tally.left[Left.SCHEDULED]
            raise Conflict(WAITS_FOR_A_PERSON if waits_for_a_person else NOTHING_WAITS)
        return Response({"success": True, "message": text(request, "Message queued for immediate retry")})


def _done(request: Request, action: Action, message: Message) -> Tally:
    """Do it to all that waits of the message, with the line in the trail that every action leaves."""
    order = Order(action, cast(User, request.user).username)
    address = request.META.get("REMOTE_ADDR", "")
    done = actions.perform_at_once(order, selection.of_message(message.pk), door="api", client_address=address)
    return actions.tally_of(done)


def _found(message_id: str) -> Message:
    found = None if "\0" in message_id else queued.find(message_id, timezone.now())
    if found is None:
        raise NotFound(f"There is no message {message_id[:40]!r} in the queue.")
    return found


def _rendered(messages: Sequence[Message], now: dt.datetime) -> list[dict[str, Any]]:
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in queued.entries_of(messages, now).order_by("pk"):
        entries[entry.message_id].append(entry)
    about = around((entry for found in entries.values() for entry in found), now)
    return [_item(message, entries[message.pk], now, about) for message in messages]


def _item(message: Message, entries: Sequence[Entry], now: dt.datetime, about: Around) -> dict[str, Any]:
    waiting = [entry for entry in entries if entry.status in Entry.OPEN]
    first = min(waiting, key=lambda entry: entry.next_attempt_at or now, default=None)
    retrying = any(entry.status == Entry.Status.RETRY for entry in waiting)
    return {
        "id": message.pk,
        "from": message.reverse_path,
        "to": [entry.recipient for entry in entries],
        "subject": message.subject,
        "size_bytes": message.size_octets,
        "attempts": max((entry.attempts for entry in entries), default=0),
        "max_attempts": max((entry.max_attempts for entry in entries), default=0),
        "next_retry": first.next_attempt_at if first else None,
        "status": "retry" if retrying else "pending" if waiting else "failed",
        "waiting_for": waiting_for(first, now, about) if first else None,
        "created_at": message.created_at,
        "recipients": [recipient(entry, now, about) for entry in entries],
    }
