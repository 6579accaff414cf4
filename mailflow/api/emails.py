"""`GET emails` and `emails/{id}`: what is filed in the caller's mailboxes (R2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from django.db.models import OuterRef, QuerySet, Subquery
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import users
from accounts.api.paging import page_of, window_of
from accounts.models import User
from mailflow import counters, mailboxes
from mailflow.api import heads, reading
from mailflow.api.reading import Shown
from mailflow.api.visibility import sees_all
from mailflow.models import FiledMessage, Message
from mailflow.storage.base import CopyMissing

SEEN = "\\Seen"
USER = OpenApiParameter("user", OpenApiTypes.STR, description="Staff only: id, username or address; also `user_id`.")


class Email(serializers.Serializer[Any]):
    """One filed message; `id` is the message's id."""

    id = serializers.CharField()
    sender = serializers.CharField()
    recipient = serializers.CharField()
    subject = serializers.CharField()
    body = serializers.CharField(help_text="The plain text; in lists at most of the first 64 KiB.")
    received_at = serializers.DateTimeField()
    folder = serializers.CharField()
    uid = serializers.IntegerField()
    flags = serializers.ListField(child=serializers.CharField())
    read = serializers.BooleanField()
    size_bytes = serializers.IntegerField()


class EmailDetail(Email):
    headers = serializers.DictField(child=serializers.CharField())


class EmailPage(serializers.Serializer[Any]):
    items = Email(many=True)
    total = serializers.IntegerField()
    page = serializers.IntegerField()
    page_size = serializers.IntegerField()
    total_pages = serializers.IntegerField()


class EmailListView(APIView):
    """The newest first; below /api/v1 in R3's envelope, at R2's path in R2's."""

    as_printed = False

    @extend_schema(operation_id="emails_list", parameters=[USER], responses=EmailPage)
    def get(self, request: Request) -> Response:
        page = page_of(
            _filed(request).order_by("-pk"), window_of(request, default=100 if self.as_printed else 20), _rendered
        )
        counters.add("emails.fetched", len(page.items))
        if self.as_printed:
            return Response({"emails": page.items, "count": len(page.items), "total": page.total})
        return Response(page.as_items())


class EmailView(APIView):
    """One message with its headers and its whole text."""

    @extend_schema(parameters=[USER], responses=EmailDetail)
    def get(self, request: Request, message_id: str) -> Response:
        filed = None if "\0" in message_id else _filed(request).filter(message_id=message_id).order_by("pk").first()
        if filed is None:
            raise NotFound(f"There is no e-mail {message_id[:40]!r}.")
        shown = _read(filed)
        counters.add("emails.fetched")
        return Response({**_email(filed, shown), "headers": shown.headers})


def _filed(request: Request) -> QuerySet[FiledMessage]:
    """The filed messages that the request is about: the caller's own, for staff all or one user's."""
    user = cast(User, request.user)
    message = Message.objects.filter(pk=OuterRef("message_id"))
    filed = FiledMessage.objects.select_related("mailbox").annotate(
        reverse_path=Subquery(message.values("reverse_path")[:1])
    )
    named = request.query_params.get("user") or request.query_params.get("user_id")
    if named is None:
        return filed if sees_all(user) else filed.filter(mailbox__user=user)
    found = users.find(named)
    if found is not None and (sees_all(user) or found == user):
        return filed.filter(mailbox__user=found)
    if found is not None and found.organization_id == user.organization_id:
        raise PermissionDenied("Another user's mailbox is for staff.")
    raise NotFound("There is no such user.")  # another tenant's user is as if there were none


def _rendered(rows: Sequence[FiledMessage]) -> list[dict[str, Any]]:
    """Render a page: the spool gives the beginnings with one query, the storage those that have left it."""
    shown = heads.shown({filed.message_id for filed in rows})
    return [_email(filed, shown.get(filed.message_id) or _read(filed)) for filed in rows]


def _read(filed: FiledMessage) -> Shown:
    try:
        return reading.read(mailboxes.read_copy(filed))
    except CopyMissing:
        return Shown()


def _email(filed: FiledMessage, shown: Shown) -> dict[str, Any]:
    return {
        "id": filed.message_id,
        "sender": shown.sender or getattr(filed, "reverse_path", None) or "",  # without a From the envelope tells
        "recipient": filed.recipient,
        "subject": shown.subject,
        "body": shown.body,
        "received_at": filed.internal_date,
        "folder": filed.mailbox.name,
        "uid": filed.uid,
        "flags": filed.flags,
        "read": SEEN in filed.flags,
        "size_bytes": filed.size_octets,
    }
