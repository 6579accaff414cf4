"""`GET queue`, `GET`/`DELETE queue/{message_id}` and its `retry` (R4): the queue, grouped by message, for staff."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.paging import page_of, window_of
from accounts.api.problems import Conflict
from accounts.api.texts import text
from accounts.models import User
from mailflow.models import Message
from queue import control
from queue.api.message_shape import RecipientItem, recipient
from queue.models import Entry
from queue.waiting import waiting_for

STATUSES = ("pending", "retry", "failed")
STATUS_CHOICES = [(status, status) for status in STATUSES]
_UNSUCCESSFUL = (Entry.Status.FAILED, Entry.Status.BOUNCED)
NOTHING_WAITS = "None of its recipients is waiting: each has ended, or a worker is delivering to it right now."
STATUS = OpenApiParameter("status", str, enum=STATUSES)


class QueuedMessage(serializers.Serializer[Any]):
    """R4's fields; `to` are the recipients who have not got it."""

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
    total = serializers.IntegerField()
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    total_pages = serializers.IntegerField()


class Done(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    message = serializers.CharField()


class QueueListView(APIView):
    """Messages that some recipient has not got; below /api/v1 in R3's envelope, at R4's path in R4's."""

    permission_classes = [IsAdminUser]
    as_printed = False

    @extend_schema(operation_id="queue_list", parameters=[STATUS], responses=QueuePage)
    def get(self, request: Request) -> Response:
        status = request.query_params.get("status")
        if status is not None and status not in STATUSES:
            raise ValidationError({"status": f"One of {', '.join(STATUSES)} is needed."})
        window = window_of(request, default=100 if self.as_printed else 20)
        page = page_of(_queued(status).order_by("-pk"), window, _rendered)
        return Response(page.as_named("messages") if self.as_printed else page.as_items())


class QueueView(APIView):
    """One queued message."""

    permission_classes = [IsAdminUser]

    @extend_schema(responses=QueuedMessage)
    def get(self, request: Request, message_id: str) -> Response:
        return Response(_rendered([_found(message_id)])[0])

    @extend_schema(responses=Done)
    def delete(self, request: Request, message_id: str) -> Response:
        """Take the message out of the queue: its open entries end as failed."""
        message = _found(message_id)
        if not control.remove(_entries(message), actor=_actor(request)):
            raise Conflict(NOTHING_WAITS)
        return Response({"success": True, "message": text(request, "Message removed from queue")})


class QueueRetryView(APIView):
    """Try again at once."""

    permission_classes = [IsAdminUser]

    @extend_schema(request=None, responses=Done)
    def post(self, request: Request, message_id: str) -> Response:
        message = _found(message_id)
        if not control.retry_now(_entries(message), actor=_actor(request)):
            raise Conflict(NOTHING_WAITS)
        return Response({"success": True, "message": text(request, "Message queued for immediate retry")})


def _actor(request: Request) -> str:
    return cast(User, request.user).username


def _entries(message: Message) -> QuerySet[Entry]:
    return Entry.objects.filter(message=message)


def _listed(now: dt.datetime) -> Q:
    """Entries that the queue shows: the open ones, and what ended without success a while ago."""
    kept_since = now - dt.timedelta(days=settings.QUEUE_KEEP_FAILED_DAYS)
    return Q(status__in=Entry.OPEN) | Q(status__in=_UNSUCCESSFUL, finished_at__gte=kept_since)


def _queued(status: str | None) -> QuerySet[Message]:
    """Messages with listed entries; a message's status is the liveliest of its entries': retry, pending, failed."""
    messages = Message.objects.filter(pk__in=Entry.objects.filter(_listed(timezone.now())).values("message_id"))
    retrying, pending = (
        Exists(Entry.objects.filter(message=OuterRef("pk"), status=of_entry))
        for of_entry in (Entry.Status.RETRY, Entry.Status.PENDING)
    )
    if status == "retry":
        return messages.filter(retrying)
    if status == "pending":
        return messages.filter(pending & ~retrying)
    if status == "failed":
        return messages.filter(~pending & ~retrying)
    return messages


def _found(message_id: str) -> Message:
    found = None if "\0" in message_id else _queued(None).filter(pk=message_id).first()
    if found is None:
        raise NotFound(f"There is no message {message_id[:40]!r} in the queue.")
    return found


def _rendered(messages: Sequence[Message]) -> list[dict[str, Any]]:
    now = timezone.now()
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in Entry.objects.filter(_listed(now), message__in=messages).order_by("pk"):
        entries[entry.message_id].append(entry)
    return [_item(message, entries[message.pk], now) for message in messages]


def _item(message: Message, entries: Sequence[Entry], now: dt.datetime) -> dict[str, Any]:
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
        "waiting_for": waiting_for(first, now) if first else None,
        "created_at": message.created_at,
        "recipients": [recipient(entry, now) for entry in entries],
    }
