"""`folders` and `POST fetch`: the caller's mailboxes, what is in them, and what is new (R2)."""

from __future__ import annotations

from typing import Any, cast

from django.db import transaction
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.parsers import FormParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import users
from accounts.api.fields import IdOrNameField, TextField
from accounts.api.paging import MAX_PAGE_SIZE, PageOfItems, part_of, window_of
from accounts.api.parsers import JSONParser
from accounts.api.problems import Conflict
from accounts.api.texts import text
from accounts.models import Scope, User
from mailflow import counters, folders
from mailflow.api.emails import USER, Email, rendered, with_reverse_path
from mailflow.api.visibility import sees_all
from mailflow.folders import InvalidFolder, NoSuchFolder
from mailflow.models import FetchMark, FiledMessage

MAX_FETCHED = 100


class Folder(serializers.Serializer[Any]):
    name = serializers.CharField()
    role = serializers.ChoiceField(choices=["inbox", "sent", "drafts", "junk", "trash"], allow_null=True)
    messages = serializers.IntegerField()
    unread = serializers.IntegerField()
    size_bytes = serializers.IntegerField()


class FolderList(PageOfItems):
    """All of them on one page, unless less is asked for."""

    items = Folder(many=True)


class FolderBody(serializers.Serializer[Any]):
    name = TextField(max_length=255)


class FetchBody(serializers.Serializer[Any]):
    user_id = IdOrNameField(required=False, help_text="Staff: whose mailbox; id, username or address.")


class FetchAnswer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["success"])
    emails_fetched = serializers.IntegerField(help_text="New since the caller's last fetch.")
    message = serializers.CharField()
    emails = Email(many=True, help_text=f"Up to {MAX_FETCHED} of them, the newest first.")


_NEW = OpenApiExample("A folder in a folder", value={"name": "Customers/Acme"}, request_only=True)
_RENAMED = OpenApiExample("A new name", value={"name": "Archive"}, request_only=True)
_FOLDER = OpenApiExample(
    "A folder",
    value={"name": "Archive", "role": None, "messages": 0, "unread": 0, "size_bytes": 0},
    response_only=True,
    status_codes=["200", "201"],
)
_FETCH = [
    OpenApiExample("One's own", value={}, request_only=True),
    OpenApiExample("For staff: one mailbox", value={"user_id": "jane"}, request_only=True),
    OpenApiExample(
        "Nothing new",
        value={
            "status": "success",
            "emails_fetched": 0,
            "message": "Emails fetched successfully",
            "emails": [],
        },
        response_only=True,
        status_codes=["200"],
    ),
]


class FolderListView(APIView):
    @extend_schema(operation_id="folders_list", parameters=[USER], responses=FolderList)
    def get(self, request: Request) -> Response:
        found = [_folder(one) for one in folders.figures(_owner(request).pk)]
        return Response(part_of(found, window_of(request, default=MAX_PAGE_SIZE)).as_items())

    @extend_schema(
        parameters=[USER],
        request=FolderBody,
        responses={201: Folder, 409: OpenApiResponse(description="It is there.")},
        examples=[_NEW, _FOLDER],
    )
    def post(self, request: Request) -> Response:
        owner, name = _owner(request), _name(request)
        if name in {one.name for one in folders.figures(owner.pk)}:
            raise Conflict(f"There is a folder {name!r} already.")
        _changed(folders.create, owner.pk, name)
        return Response(_named(owner, folders.check_name(name)), status=201)


class FolderView(APIView):
    @extend_schema(operation_id="folders_retrieve", parameters=[USER], responses=Folder)
    def get(self, request: Request, name: str) -> Response:
        return Response(_named(_owner(request), name))

    @extend_schema(parameters=[USER], request=FolderBody, responses=Folder, examples=[_RENAMED, _FOLDER])
    def patch(self, request: Request, name: str) -> Response:
        """Rename it, with those below it."""
        owner, new_name = _owner(request), _name(request)
        _changed(folders.rename, owner.pk, name, new_name)
        return Response(_named(owner, new_name))

    @extend_schema(parameters=[USER], responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Remove it, which must be empty."""
        _changed(folders.delete, _owner(request).pk, name)
        return Response(status=204)


class FetchView(APIView):
    """Tell what came since the last time."""

    key_scope = Scope.READ
    parser_classes = [JSONParser, FormParser, MultiPartParser]  # a POST without a body may call itself anything

    @extend_schema(parameters=[USER], request=FetchBody, responses=FetchAnswer, examples=_FETCH)
    def post(self, request: Request) -> Response:
        caller = cast(User, request.user)
        body = FetchBody(data=request.data if isinstance(request.data, dict) else {"user_id": request.data})
        body.is_valid(raise_exception=True)
        named = body.validated_data.get("user_id") or request.query_params.get("user")
        owner = find_owner(caller, named) if named else None if sees_all(caller) else caller
        rows = FiledMessage.objects.all() if owner is None else FiledMessage.objects.filter(mailbox__user=owner)
        with transaction.atomic():
            owner_id = owner.pk if owner is not None else 0
            FetchMark.objects.get_or_create(caller_id=caller.pk, owner_id=owner_id)
            mark = FetchMark.objects.select_for_update().get(caller_id=caller.pk, owner_id=owner_id)
            new = rows.filter(pk__gt=mark.last_filed_id)
            count = new.count()
            last = new.order_by("-pk").values_list("pk", flat=True).first()
            shown = list(with_reverse_path(new).order_by("-pk")[:MAX_FETCHED])
            if last is not None:
                FetchMark.objects.filter(pk=mark.pk).update(last_filed_id=last)
        counters.add("emails.fetched", count)
        words = text(request, "Emails fetched successfully")
        return Response({"status": "success", "emails_fetched": count, "message": words, "emails": rendered(shown)})


def find_owner(caller: User, named: str) -> User:
    """Return the user whose mailbox is meant: another's is for staff, another tenant's does not exist."""
    found = users.find(named)
    if found is not None and (sees_all(caller) or found == caller):
        return found
    if found is not None and caller.organization_id and found.organization_id == caller.organization_id:
        raise PermissionDenied("Another user's mailbox is for staff.")
    raise NotFound("There is no such user.")


def _owner(request: Request) -> User:
    named = request.query_params.get("user") or request.query_params.get("user_id")
    caller = cast(User, request.user)
    return find_owner(caller, named) if named else caller


def _name(request: Request) -> str:
    body = FolderBody(data=request.data)
    body.is_valid(raise_exception=True)
    return str(body.validated_data["name"])


def _changed(change: Any, *arguments: Any) -> None:
    try:
        change(*arguments)
    except NoSuchFolder as error:
        raise NotFound(str(error)) from None
    except InvalidFolder as error:
        raise ValidationError({"name": str(error)}) from None


def _named(owner: User, name: str) -> dict[str, Any]:
    for one in folders.figures(owner.pk):
        if one.name == name:
            return _folder(one)
    raise NotFound(f"There is no folder {name[:100]!r}.")


def _folder(one: folders.FolderFigures) -> dict[str, Any]:
    return {
        "name": one.name,
        "role": one.role,
        "messages": one.messages,
        "unread": one.unread,
        "size_bytes": one.octets,
    }
