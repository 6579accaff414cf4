"""`GET emails` and `emails/{id}`: what is filed in the caller's mailboxes (R2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from django.db import models
from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Cast
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import users
from accounts.api.fields import TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.models import User
from mailflow import counters, folders, mailboxes
from mailflow.api import heads, reading
from mailflow.api.reading import Shown
from mailflow.api.visibility import sees_all
from mailflow.folders import InvalidFlag, InvalidFolder
from mailflow.models import FiledMessage, Message
from mailflow.storage.base import CopyMissing

USER = OpenApiParameter("user", OpenApiTypes.STR, description="Staff only: id, username or address; also `user_id`.")


PERMANENT = OpenApiParameter("permanent", OpenApiTypes.BOOL, description="Remove it for good, wherever it lies.")


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


class Attached(serializers.Serializer[Any]):
    """A file of the message; its octets are at `attachments/{index}`."""

    index = serializers.IntegerField()
    filename = serializers.CharField()
    content_type = serializers.CharField()
    content_id = serializers.CharField()
    size_bytes = serializers.IntegerField()


class EmailDetail(Email):
    headers = serializers.DictField(child=serializers.CharField())
    attachments = Attached(many=True)


class FlagsField(serializers.ListField):
    """IMAP flags: `\\Seen` and the like, or keywords."""

    child = TextField(max_length=64)

    def to_internal_value(self, data: Any) -> Any:
        try:
            return [folders.check_flag(flag) for flag in super().to_internal_value(data)]
        except InvalidFlag as error:
            raise serializers.ValidationError(str(error)) from None


class EmailChange(serializers.Serializer[Any]):
    """What is not named stays as it is."""

    read = serializers.BooleanField(required=False)
    flagged = serializers.BooleanField(required=False)
    flags = FlagsField(required=False, help_text="All flags, in place of those it has.")
    add_flags = FlagsField(required=False)
    remove_flags = FlagsField(required=False)
    folder = TextField(required=False, max_length=255, help_text="The folder that it is moved to.")


class EmailPage(PageOfItems):
    items = Email(many=True)


_CHANGES = [
    OpenApiExample("Read", value={"read": True}, request_only=True),
    OpenApiExample("Flag it and file it away", value={"flagged": True, "folder": "Junk"}, request_only=True),
]
_DETAIL = OpenApiExample(
    "An e-mail",
    value={
        "id": "msg_0199f1c2d3e40a1b2c3d4e5f60",
        "sender": "from@example.org",
        "recipient": "jane@example.com",
        "subject": "Hello",
        "body": "Hello, Jane.",
        "received_at": "2025-10-23T12:00:00Z",
        "folder": "INBOX",
        "uid": 1,
        "flags": ["\\Seen"],
        "read": True,
        "size_bytes": 1234,
        "headers": {"Subject": "Hello", "From": "from@example.org"},
        "attachments": [
            {
                "index": 0,
                "filename": "a.png",
                "content_type": "image/png",
                "content_id": "",
                "size_bytes": 321,
            }
        ],
    },
    response_only=True,
    status_codes=["200"],
)


class EmailFilter(serializers.Serializer[Any]):
    """The query of the list."""

    folder = serializers.CharField(required=False, max_length=255)
    unread = serializers.BooleanField(required=False, allow_null=True, default=None)
    flagged = serializers.BooleanField(required=False, allow_null=True, default=None)
    q = serializers.CharField(required=False, max_length=200, help_text="A text in subject, sender or recipient.")


class EmailListView(APIView):
    """The newest first. At `/emails`, without `/api/v1`, the answer is `emails`, `count`, `total`."""

    as_printed = False

    @extend_schema(operation_id="emails_list", parameters=[USER, EmailFilter], responses=EmailPage)
    def get(self, request: Request) -> Response:
        wanted = EmailFilter(data=request.query_params)
        wanted.is_valid(raise_exception=True)
        rows = _filtered(filed_of(request), wanted.validated_data).order_by("-pk")
        page = page_of(rows, window_of(request, default=100 if self.as_printed else 20), rendered)
        counters.add("emails.fetched", len(page.items))
        if self.as_printed:
            return Response({"emails": page.items, "count": len(page.items), "total": page.total})
        return Response(page.as_items())


class EmailView(APIView):
    """One message with its headers and its whole text."""

    @extend_schema(parameters=[USER], responses=EmailDetail, examples=[_DETAIL])
    def get(self, request: Request, message_id: str) -> Response:
        filed = one_filed(request, message_id)
        counters.add("emails.fetched")
        return Response(_detail(filed))

    @extend_schema(parameters=[USER], request=EmailChange, responses=EmailDetail, examples=[*_CHANGES, _DETAIL])
    def patch(self, request: Request, message_id: str) -> Response:
        """Change flags, or move it to another folder."""
        rows = copies_of(request, message_id)
        body = EmailChange(data=request.data)
        body.is_valid(raise_exception=True)
        data = body.validated_data
        try:
            if data.keys() - {"folder"}:
                folders.change_flags(rows, lambda flags: _changed(flags, data))
            if "folder" in data:
                folders.move(rows, data["folder"])
        except InvalidFolder as error:
            raise ValidationError({"folder": str(error)}) from None
        except InvalidFlag as error:
            raise ValidationError({"flags": str(error)}) from None
        return Response(_detail(one_filed(request, message_id)))

    @extend_schema(parameters=[USER, PERMANENT], responses={204: None})
    def delete(self, request: Request, message_id: str) -> Response:
        """Move it to Trash; what lies there already, or with `permanent=true`, is removed for good."""
        rows = copies_of(request, message_id)
        permanent = request.query_params.get("permanent", "").lower() in ("1", "true", "yes")
        gone = [row for row in rows if permanent or row.mailbox.name == folders.TRASH]
        kept = [row for row in rows if row not in gone]
        mailboxes.ensure_mailboxes({row.mailbox.user_id for row in kept})
        folders.move(kept, folders.TRASH)
        folders.remove(gone)
        return Response(status=204)


def _changed(flags: Sequence[str], data: Mapping[str, Any]) -> list[str]:
    """Return the flags that a change makes of these: first the whole list, then what is added, then what is taken."""
    found = dict.fromkeys(data.get("flags", flags))
    found |= dict.fromkeys(data.get("add_flags", ()))
    for name, flag in (("read", folders.SEEN), ("flagged", folders.FLAGGED)):
        if data.get(name) is True:
            found[flag] = None
        elif data.get(name) is False:
            found.pop(flag, None)
    return [flag for flag in found if flag not in data.get("remove_flags", ())]


def _detail(filed: FiledMessage) -> dict[str, Any]:
    try:
        octets = mailboxes.read_copy(filed)
    except CopyMissing:
        return {**_email(filed, Shown()), "headers": {}, "attachments": []}
    shown = reading.read(octets)
    files = [
        {
            "index": number,
            "filename": one.filename,
            "content_type": one.content_type,
            "content_id": one.content_id,
            "size_bytes": len(one.octets),
        }
        for number, one in enumerate(reading.attachments(octets))
    ]
    return {**_email(filed, shown), "headers": shown.headers, "attachments": files}


def one_filed(request: Request, message_id: str) -> FiledMessage:
    filed = None if "\0" in message_id else filed_of(request).filter(message_id=message_id).order_by("pk").first()
    if filed is None:
        raise NotFound(f"There is no e-mail {message_id[:40]!r}.")
    return filed


def copies_of(request: Request, message_id: str) -> list[FiledMessage]:
    """Return all copies of a message that a change is about: one user's, since another's are another matter."""
    one_filed(request, message_id)
    rows = list(filed_of(request).filter(message_id=message_id).select_related("mailbox__user").order_by("pk"))
    if len({row.mailbox.user_id for row in rows}) > 1:
        raise ValidationError({"user": "Several users have this e-mail: say whose is meant."})
    return rows


def _filtered(rows: QuerySet[FiledMessage], wanted: Mapping[str, Any]) -> QuerySet[FiledMessage]:
    if "folder" in wanted:
        rows = rows.filter(mailbox__name=wanted["folder"])
    if wanted["unread"] is not None or wanted["flagged"] is not None:
        rows = rows.annotate(flags_text=Cast("flags", models.TextField()))
    if wanted["unread"] is not None:
        rows = rows.filter(folders.unread() if wanted["unread"] else ~folders.unread())
    if wanted["flagged"] is not None:
        rows = rows.filter(folders.flagged() if wanted["flagged"] else ~folders.flagged())
    if "q" in wanted:
        text = wanted["q"]
        in_message = Q(subject__icontains=text) | Q(header_from__icontains=text) | Q(reverse_path__icontains=text)
        found = Exists(Message.objects.filter(in_message, pk=OuterRef("message_id")))
        rows = rows.filter(Q(found) | Q(recipient__icontains=text))
    return rows


def filed_of(request: Request) -> QuerySet[FiledMessage]:
    """The filed messages that the request is about: the caller's own, for staff all or one user's."""
    user = cast(User, request.user)
    filed = with_reverse_path(FiledMessage.objects.all())
    named = request.query_params.get("user") or request.query_params.get("user_id")
    if named is None:
        return filed if sees_all(user) else filed.filter(mailbox__user=user)
    found = users.find(named)
    if found is not None and (sees_all(user) or found == user):
        return filed.filter(mailbox__user=found)
    if found is not None and found.organization_id == user.organization_id:
        raise PermissionDenied("Another user's mailbox is for staff.")
    raise NotFound("There is no such user.")  # another tenant's user is as if there were none


def with_reverse_path(rows: QuerySet[FiledMessage]) -> QuerySet[FiledMessage]:
    """Add what a page of them shows beside the row."""
    message = Message.objects.filter(pk=OuterRef("message_id"))
    return rows.select_related("mailbox").annotate(reverse_path=Subquery(message.values("reverse_path")[:1]))


def rendered(rows: Sequence[FiledMessage]) -> list[dict[str, Any]]:
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
        "read": folders.SEEN in filed.flags,
        "size_bytes": filed.size_octets,
    }
