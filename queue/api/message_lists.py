"""`messages/search`, `/stats`, `/recent`, `/domain/{id}` and `/thread/{thread_id}` (R3)."""

from __future__ import annotations

from typing import Any, cast

from django.db.models import Count, Q, QuerySet, Sum
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.paging import page_of, window_of
from accounts.models import User
from mailflow.api.visibility import visible_messages
from mailflow.models import Message
from queue.api import message_shape
from queue.api.messages import DayOrTimeField, MessagePage, concerns, sent_to

MAX_THREAD = 1000


class SearchQuery(serializers.Serializer[Any]):
    q = serializers.CharField(max_length=200, help_text="A text in subject, sender, recipient or Message-ID.")


class StatsQuery(serializers.Serializer[Any]):
    since = DayOrTimeField(required=False, help_text="A date such as 2025-01-31, or a time.")


class MessageFigures(serializers.Serializer[Any]):
    """Of the messages that the caller sees."""

    total_messages = serializers.IntegerField()
    delivered_messages = serializers.IntegerField()
    failed_messages = serializers.IntegerField(help_text="Failed, bounced or rejected.")
    pending_messages = serializers.IntegerField(help_text="Pending or being processed.")
    total_size_bytes = serializers.IntegerField()


class MessageSearchView(APIView):
    """The newest first."""

    @extend_schema(operation_id="messages_search", parameters=[SearchQuery], responses=MessagePage)
    def get(self, request: Request) -> Response:
        user = cast(User, request.user)
        query = SearchQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        text = query.validated_data["q"]
        found = (
            Q(subject__icontains=text)
            | Q(header_from__icontains=text)
            | Q(reverse_path__icontains=text)
            | Q(internet_message_id__icontains=text)
            | sent_to(user, Q(recipient__icontains=text))
        )
        return _listed(request, visible_messages(user).filter(found))


class MessageStatsView(APIView):
    @extend_schema(operation_id="messages_stats", parameters=[StatsQuery], responses=MessageFigures)
    def get(self, request: Request) -> Response:
        query = StatsQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        messages = visible_messages(cast(User, request.user)).order_by()
        if "since" in query.validated_data:
            messages = messages.filter(created_at__gte=query.validated_data["since"][0])
        status = Message.Status
        counted = messages.aggregate(
            total_messages=Count("pk"),
            delivered_messages=Count("pk", filter=Q(status=status.DELIVERED)),
            failed_messages=Count("pk", filter=Q(status__in=(status.FAILED, status.BOUNCED, status.REJECTED))),
            pending_messages=Count("pk", filter=Q(status__in=(status.PENDING, status.PROCESSING))),
            total_size_bytes=Sum("size_octets"),
        )
        return Response({**counted, "total_size_bytes": counted["total_size_bytes"] or 0})


class RecentMessagesView(APIView):
    """The newest, ten unless `limit` says otherwise."""

    @extend_schema(operation_id="messages_recent", responses=MessagePage)
    def get(self, request: Request) -> Response:
        return _listed(request, visible_messages(cast(User, request.user)), default=10)


class DomainMessagesView(APIView):
    """Messages from or to one domain of ours."""

    @extend_schema(operation_id="messages_of_domain", responses=MessagePage)
    def get(self, request: Request, domain_id: int) -> Response:
        user = cast(User, request.user)
        try:
            wanted = concerns(user, domain_id)
        except ValidationError:
            raise NotFound(f"There is no domain {domain_id}.") from None
        return _listed(request, visible_messages(user).filter(wanted))


class ThreadMessagesView(APIView):
    """The messages of one thread, the oldest first."""

    @extend_schema(operation_id="messages_of_thread", responses=MessagePage)
    def get(self, request: Request, thread_id: str) -> Response:
        user = cast(User, request.user)
        if "\0" in thread_id:
            raise NotFound("There is no such thread.")
        seen = visible_messages(user)
        replies = seen.filter(thread_id=thread_id, is_reply=True).order_by("pk").values_list("pk", flat=True)
        found = list(replies[:MAX_THREAD])  # by their index; the first message has none, and is looked for
        found += seen.filter(thread_id=thread_id, is_reply=False).values_list("pk", flat=True)[:MAX_THREAD]
        if not found:
            raise NotFound(f"There is no thread {thread_id[:40]!r}.")
        return _listed(request, Message.objects.filter(pk__in=found), order="pk")


def _listed(request: Request, messages: QuerySet[Message], *, order: str = "-pk", default: int = 20) -> Response:
    user = cast(User, request.user)
    page = page_of(
        messages.order_by(order), window_of(request, default=default), lambda rows: message_shape.items(rows, user)
    )
    return Response(page.as_items())
