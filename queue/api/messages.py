"""`GET messages`, `messages/{id}`, `/timeline` and `/raw` (R3): each caller sees own mail, staff see all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any, cast

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpResponse
from django.utils.dateparse import parse_date
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.downloads import DownloadView
from accounts.api.paging import PageOfItems, WindowFilter, page_of, window_of
from accounts.api.problems import Conflict
from accounts.models import Domain, User
from accounts.names import InvalidName, parse_address
from mailflow import content
from mailflow.api.visibility import owned_by, owns, recipients_shown, sees_all, visible_message, visible_messages
from mailflow.models import FiledMessage, Message, Tag
from mailflow.storage.base import CopyMissing
from queue import removal
from queue.api import message_shape
from queue.api.message_shape import MessageDetail, MessageItem
from queue.models import Entry
from queue.timeline import TimelineItem, timeline


class DayOrTimeField(serializers.CharField):
    """A date such as 2025-01-31 (UTC), or a date and time; its value is the first and last moment of it."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            day = parse_date(text)
            if day is not None:
                start = dt.datetime.combine(day, dt.time(), dt.UTC)
                return start, start + dt.timedelta(days=1, microseconds=-1)
            # the space: what a + becomes in a query that was not encoded
            moment = dt.datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        except (ValueError, OverflowError):
            raise serializers.ValidationError("A date such as 2025-01-31 or 2025-01-31T12:00:00Z is needed.") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        return moment, moment


class MessageFilter(WindowFilter):
    """The query of the list; addresses match whole, whatever their case."""

    status = serializers.ChoiceField(choices=Message.Status.choices, required=False)
    domain_id = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    date_from = DayOrTimeField(required=False)
    date_to = DayOrTimeField(required=False, help_text="A whole day is included.")
    sender_email = serializers.CharField(required=False)
    recipient = serializers.CharField(required=False)
    recipient_email = serializers.CharField(required=False, help_text="The same as `recipient`.")
    tag = serializers.CharField(required=False, max_length=64, help_text="Of the messages that you sent.")


class MessagePage(PageOfItems):
    items = MessageItem(many=True)


class TimelineStep(serializers.Serializer[Any]):
    """One step, with the decisions that led to it."""

    at = serializers.DateTimeField()
    title = serializers.CharField()
    words = serializers.CharField()
    tone = serializers.ChoiceField(choices=["good", "bad", "waiting", "info"])
    recipient = serializers.CharField()
    reply = serializers.CharField()
    decisions = serializers.ListField(child=serializers.DictField(child=serializers.CharField()))
    is_simulated = serializers.BooleanField(help_text="The sandbox's clock said so, ahead of real time.")
    forwarded_as = serializers.CharField(
        allow_null=True,
        help_text="The message that carries it on, of a forward, where you may see that one.",
    )


class Timeline(serializers.Serializer[Any]):
    message_id = serializers.CharField()
    items = TimelineStep(many=True)
    total = serializers.IntegerField()


class MessageListView(APIView):
    """The newest first."""

    @extend_schema(operation_id="messages_list", parameters=[MessageFilter], responses=MessagePage)
    def get(self, request: Request) -> Response:
        user = cast(User, request.user)
        window = window_of(request)
        wanted = MessageFilter(data=request.query_params)
        wanted.is_valid(raise_exception=True)
        messages = filtered(visible_messages(user), wanted.validated_data, user).order_by("-pk")
        return Response(page_of(messages, window, lambda rows: message_shape.items(rows, user)).as_items())


class MessageView(APIView):
    """One message with each recipient's own result."""

    @extend_schema(responses=MessageDetail)
    def get(self, request: Request, message_id: str) -> Response:
        user = cast(User, request.user)
        return Response(message_shape.detail(visible_message(user, message_id), user))

    @extend_schema(responses={204: None, 409: OpenApiResponse(description="It is still in the queue.")})
    def delete(self, request: Request, message_id: str) -> Response:
        """Delete the record of a message that has ended; copies in mailboxes stay with their owners."""
        user = cast(User, request.user)
        message = visible_message(user, message_id)
        if not owns(user, message):
            raise PermissionDenied("Its sender and staff delete a message's record; your copy is among your e-mails.")
        try:
            removal.remove_record(message, actor=user.username)
        except removal.StillOpen as error:
            raise Conflict(str(error)) from None
        return Response(status=204)


class MessageTimelineView(APIView):
    """What happened to the message, in order and in words."""

    @extend_schema(responses=Timeline)
    def get(self, request: Request, message_id: str) -> Response:
        user = cast(User, request.user)
        message = visible_message(user, message_id)
        share = recipients_shown(user, [message]).get(message.pk)
        # Whoever merely received it sees own steps only: the others name the other recipients.
        items = [item for item in timeline(message.pk) if share is None or item.recipient in share]
        seen = _seen(user, {item.forwarded_as for item in items if item.forwarded_as})
        steps = [_step(item, seen) for item in items]
        return Response({"message_id": message.pk, "items": steps, "total": len(steps)})


class MessageRawView(DownloadView):
    """The message's octets as they were accepted, with our trace headers."""

    @extend_schema(responses={(200, "message/rfc822"): OpenApiResponse(OpenApiTypes.BINARY)})
    def get(self, request: Request, message_id: str) -> HttpResponse:
        message = visible_message(cast(User, request.user), message_id)
        try:
            octets = content.read(message.pk)
        except CopyMissing:
            raise NotFound("The message's content is no longer kept.") from None
        headers = {
            "Content-Disposition": f'attachment; filename="{message.pk}.eml"',
            "X-Content-Type-Options": "nosniff",
        }
        return HttpResponse(octets, content_type="message/rfc822", headers=headers)


def _seen(user: User, message_ids: Collection[str]) -> Collection[str]:
    """Return those that the caller may see: where a forward goes on is for those alone whose alias it was."""
    return set(visible_messages(user).filter(pk__in=message_ids).values_list("pk", flat=True)) if message_ids else ()


def _step(item: TimelineItem, seen: Collection[str]) -> dict[str, Any]:
    return {
        "at": item.at,
        "title": item.title,
        "words": item.words,
        "tone": item.tone,
        "recipient": item.recipient,
        "reply": item.reply,
        "decisions": item.decisions,
        "is_simulated": item.is_simulated,
        "forwarded_as": item.forwarded_as if item.forwarded_as in seen else None,
    }


def filtered(messages: QuerySet[Message], wanted: dict[str, Any], user: User) -> QuerySet[Message]:
    if "status" in wanted:
        messages = messages.filter(status=wanted["status"])
    if "date_from" in wanted:
        messages = messages.filter(created_at__gte=wanted["date_from"][0])
    if "date_to" in wanted:
        messages = messages.filter(created_at__lte=wanted["date_to"][1])
    if "sender_email" in wanted:
        messages = messages.filter(_is("reverse_path", wanted["sender_email"]))
    for name in ("recipient", "recipient_email"):
        if name in wanted:
            messages = messages.filter(sent_to(user, _is("recipient", wanted[name])))
    if "tag" in wanted:
        tagged = Q(pk__in=Tag.objects.filter(tag=wanted["tag"]).values("message_id"))
        messages = messages.filter(tagged if sees_all(user) else tagged & owned_by(user))
    if "domain_id" in wanted:
        messages = messages.filter(concerns(user, wanted["domain_id"]))
    return messages


def concerns(user: User, domain_id: int) -> Q:
    domain = Domain.objects.filter(pk=domain_id).first()
    if domain is None or not (sees_all(user) or domain.organization_id == user.organization_id):
        raise ValidationError({"domain_id": "There is no such domain."})
    end = f"@{domain.name}"
    return Q(reverse_path__iendswith=end) | sent_to(user, Q(recipient__iendswith=end))


def _is(field: str, text: str) -> Q:
    """Match an address as it is kept, the domain in A-labels; SQLite knows of no case beyond ASCII."""
    try:
        address = parse_address(text)
    except InvalidName:
        return Q(**{f"{field}__iexact": text})
    lower = f"{address.local_part.lower()}@{address.domain}"
    return Q(**{f"{field}__iexact": str(address)}) | Q(**{f"{field}__iexact": lower})


def sent_to(user: User, recipient: Q) -> Q:
    """Match by a recipient that the caller may see: a filter must not tell who got a blind copy."""
    entries = Exists(Entry.objects.filter(recipient, message=OuterRef("pk")))
    if sees_all(user):
        return Q(entries)
    own_copies = FiledMessage.objects.filter(recipient, message_id=OuterRef("pk"), mailbox__user=user)
    return (owned_by(user) & Q(entries)) | Q(Exists(own_copies))
