"""`suppressions`: the list of addresses that get no mail, with import and export as CSV (contract §1.1).

Members of an organization see its rows, its administrators change them; staff see and change all, those of the whole
system too. Another tenant's row is as if it were not there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, cast

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied, UnsupportedMediaType, ValidationError
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.asking import checked
from accounts.api.downloads import DownloadView
from accounts.api.fields import TextField
from accounts.api.paging import PageOfItems, page_of, window_of
from accounts.api.parsers import JSONParser
from accounts.api.problems import Conflict, TooLarge
from accounts.models import ApiKey, Organization, User
from accounts.names import InvalidName, fold_address, parse_address, parse_domain
from mailflow.api.visibility import sees_all
from queue import suppression_files, suppression_list
from queue.models import Suppression
from queue.suppression_files import Counts, Plan, Scope, Unreadable
from queue.suppression_list import Actor

MAX_ID = 2**63 - 1
MAX_WORDS = 1000
STATES = ("active", "expired")


class AddressInput(TextField):
    """An address, folded as it is kept."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            folded = fold_address(str(parse_address(text)))
            parse_address(folded)
        except InvalidName as error:
            raise serializers.ValidationError(f"Not a valid address: {error}.") from None
        return folded


class DomainInput(TextField):
    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            return parse_domain(text) if text else ""
        except InvalidName as error:
            raise serializers.ValidationError(f"Not a valid domain name: {error}.") from None


class ChangedSuppression(serializers.Serializer[Any]):
    """What a row may be changed to; address and scope stay."""

    reason = serializers.ChoiceField(choices=Suppression.Reason.choices, required=False)
    words = TextField(required=False, allow_blank=True, max_length=MAX_WORDS)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="Null: until it is removed.")

    def to_internal_value(self, data: Any) -> Any:
        unknown = set(data) - set(self.fields) if isinstance(data, dict) else set()
        if unknown:
            raise serializers.ValidationError(dict.fromkeys(sorted(unknown), "This field cannot be set."))
        return super().to_internal_value(data)


class NewSuppression(ChangedSuppression):
    address = AddressInput()
    sending_domain = DomainInput(required=False, allow_blank=True, help_text="Empty: mail from all of your domains.")
    organization_id = serializers.IntegerField(
        required=False, allow_null=True, help_text="For staff; null: mail of everybody. Others: their own."
    )


class SuppressionItem(serializers.Serializer[Any]):
    """One row."""

    id = serializers.CharField()
    address = serializers.CharField()
    scope = serializers.ChoiceField(choices=["organization", "domain", "system"])
    organization_id = serializers.IntegerField(allow_null=True)
    sending_domain = serializers.CharField()
    reason = serializers.ChoiceField(choices=Suppression.Reason.choices)
    words = serializers.CharField()
    source_message_id = serializers.CharField(allow_null=True)
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    is_active = serializers.BooleanField(help_text="Whether it is in force now.")
    hits = serializers.IntegerField()
    last_hit_at = serializers.DateTimeField(allow_null=True)


class SuppressionPage(PageOfItems):
    items = SuppressionItem(many=True)


class SuppressionFilter(serializers.Serializer[Any]):
    """The query of the list and of the export; conditions all hold together."""

    address = serializers.CharField(required=False, help_text="Whole, whatever its case.")
    q = serializers.CharField(required=False, help_text="A part of the address, such as a domain.")
    reason = serializers.ChoiceField(choices=Suppression.Reason.choices, required=False)
    state = serializers.ChoiceField(choices=STATES, required=False)
    sending_domain = serializers.CharField(required=False)
    organization_id = serializers.IntegerField(required=False, min_value=1, max_value=MAX_ID)
    source_message_id = serializers.CharField(required=False)


class ImportProblem(serializers.Serializer[Any]):
    line = serializers.IntegerField()
    message = serializers.CharField()


class Imported(serializers.Serializer[Any]):
    """`problems` are the first hundred of `problem_count`."""

    dry_run = serializers.BooleanField()
    added = serializers.IntegerField()
    updated = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    repeated = serializers.IntegerField()
    problem_count = serializers.IntegerField()
    problems = ImportProblem(many=True)


class CsvParser(BaseParser):
    """The body of a request as it came."""

    media_type = "text/csv"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return stream.read(settings.SUPPRESSION_IMPORT_SIZE + 1)


_NEW = OpenApiExample(
    "Asked by phone", value={"address": "bob@example.org", "words": "Asked by phone."}, request_only=True
)
_CHANGE = OpenApiExample(
    "For a while", value={"reason": "soft_bounces", "expires_at": "2099-12-31T00:00:00Z"}, request_only=True
)
_FILE = "address,reason\r\nbob@example.org,complaint\r\ncarol@example.net,manual\r\n"
_IMPORT = [
    OpenApiExample("Two addresses", value=_FILE, media_type="text/csv", request_only=True),
    OpenApiExample("A form", value={"file": _FILE}, media_type="multipart/form-data", request_only=True),
    OpenApiExample(
        "Entered",
        value={
            "dry_run": False,
            "added": 2,
            "updated": 0,
            "unchanged": 0,
            "repeated": 0,
            "problem_count": 0,
            "problems": [],
        },
        response_only=True,
        status_codes=["200"],
    ),
]
_ITEM = OpenApiExample(
    "A row",
    value={
        "id": "110000000000000001",
        "address": "bob@example.org",
        "scope": "organization",
        "organization_id": 1,
        "sending_domain": "",
        "reason": "manual",
        "words": "Asked by phone.",
        "source_message_id": None,
        "created_by": "jane",
        "created_at": "2025-10-23T12:00:00Z",
        "expires_at": None,
        "is_active": True,
        "hits": 0,
        "last_hit_at": None,
    },
    response_only=True,
    status_codes=["200", "201"],
)
_UNUSABLE = OpenApiResponse(description="The body cannot be used; the fields are named.")


class SuppressionListView(APIView):
    """The newest first."""

    @extend_schema(operation_id="suppressions_list", parameters=[SuppressionFilter], responses=SuppressionPage)
    def get(self, request: Request) -> Response:
        window = window_of(request)
        rows = _filtered(request).order_by("-pk")
        return Response(page_of(rows, window, _items).as_items())

    @extend_schema(
        request=NewSuppression,
        responses={
            201: SuppressionItem,
            409: OpenApiResponse(description="The address is on the list already."),
            422: _UNUSABLE,
        },
        examples=[_NEW, _ITEM],
    )
    def post(self, request: Request) -> Response:
        """Enter an address: no more mail goes there from the next attempt on."""
        user = _writer(request)
        data = checked(NewSuppression, request)
        row = Suppression(
            address=data["address"],
            organization_id=_organization_id(user, data.get("organization_id", user.organization_id)),
            sending_domain=data.get("sending_domain", ""),
            reason=data.get("reason", Suppression.Reason.MANUAL.value),
            words=data.get("words", ""),
            expires_at=data.get("expires_at"),
            created_by=_actor(request).name,
        )
        if row.sending_domain and row.organization_id is None:
            raise ValidationError({"sending_domain": ["A sending domain belongs to an organization: name that too."]})
        same = suppression_list.find_same(row)
        if same is not None and not same.is_in_force(timezone.now()):
            suppression_list.remove(Suppression.objects.filter(pk=same.pk), _actor(request))
        elif same is not None:
            raise Conflict(f"{row.address} is on the list already: row {same.pk}.")
        try:
            with transaction.atomic():
                row.save(force_insert=True)
        except IntegrityError:
            raise Conflict(f"{row.address} is on the list already.") from None
        suppression_list.saved([row], _actor(request), "added")
        return Response(_item(row), status=201)


class SuppressionView(APIView):
    """One row."""

    @extend_schema(responses=SuppressionItem, examples=[_ITEM])
    def get(self, request: Request, suppression_id: str) -> Response:
        return Response(_item(_found(request, suppression_id)))

    @extend_schema(
        request=ChangedSuppression, responses={200: SuppressionItem, 422: _UNUSABLE}, examples=[_CHANGE, _ITEM]
    )
    def patch(self, request: Request, suppression_id: str) -> Response:
        row = _found(request, suppression_id)
        _writer(request)
        data = checked(ChangedSuppression, request)
        for name, value in data.items():
            setattr(row, name, value)
        if data:
            row.save(update_fields=list(data))
            suppression_list.saved([row], _actor(request), "changed")
        return Response(_item(row))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, suppression_id: str) -> Response:
        """Remove it: mail goes there again from the next attempt on."""
        row = _found(request, suppression_id)
        _writer(request)
        suppression_list.remove(Suppression.objects.filter(pk=row.pk), _actor(request))
        return Response(status=204)


class SuppressionImportView(APIView):
    """Enter the addresses of a CSV file, all or, with errors in it, none."""

    parser_classes = [CsvParser, MultiPartParser, JSONParser]

    @extend_schema(
        operation_id="suppressions_import",
        parameters=[
            OpenApiParameter("dry_run", bool, description="Only say what would happen."),
            OpenApiParameter("skip_invalid", bool, description="Enter the good lines of a file with errors."),
            OpenApiParameter("organization_id", int, description="For staff; without it the whole system's list."),
        ],
        request={"text/csv": OpenApiTypes.STR, "multipart/form-data": {"type": "object", "properties": {
            "file": {"type": "string", "format": "binary"}
        }}},
        responses={200: Imported, 400: OpenApiResponse(description="Lines cannot be used; nothing was entered.")},
        examples=_IMPORT,
    )  # fmt: skip
    def post(self, request: Request) -> Response:
        user = _writer(request)
        default = None if sees_all(user) else user.organization_id
        asked = request.query_params.get("organization_id")
        owner = _organization_id(user, _number("organization_id", asked) if asked is not None else default)
        is_dry, skips = _truth(request, "dry_run"), _truth(request, "skip_invalid")
        scope = Scope(owner, is_fixed=owner is not None)
        try:
            plan = suppression_files.read(_octets(request), scope, now=timezone.now())
        except Unreadable as error:
            raise ValidationError({"file": [str(error)]}) from None
        if plan.problem_count and not (is_dry or skips):
            raise ValidationError({f"line {one.line}": [one.message] for one in plan.problems})
        return Response(_imported(plan, suppression_files.apply(plan, _actor(request), dry_run=is_dry), is_dry))


class SuppressionExportView(DownloadView):
    """The list as CSV, with the same conditions as the list; what comes out can be imported."""

    @extend_schema(
        operation_id="suppressions_export",
        parameters=[SuppressionFilter],
        responses={(200, "text/csv"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        headers = {
            "Content-Disposition": f'attachment; filename="suppressions-{timezone.now():%Y-%m-%d}.csv"',
            "X-Content-Type-Options": "nosniff",
        }
        pieces = suppression_files.write(_filtered(request))
        return StreamingHttpResponse(pieces, content_type="text/csv; charset=utf-8", headers=headers)


# --- who may, and what ------------------------------------------------------------------------------------------------


def _writer(request: Request) -> User:
    user = cast(User, request.user)
    if sees_all(user) or (user.is_organization_admin and user.organization_id is not None):
        return user
    raise PermissionDenied("Only administrators of your organization may change its suppression list.")


def _organization_id(user: User, wanted: int | None) -> int | None:
    if not sees_all(user):
        if wanted != user.organization_id:
            raise ValidationError({"organization_id": ["There is no such organization."]})
        return wanted
    if wanted is not None and not (0 < wanted <= MAX_ID and Organization.objects.filter(pk=wanted).exists()):
        raise ValidationError({"organization_id": ["There is no such organization."]})
    return wanted


def _found(request: Request, suppression_id: str) -> Suppression:
    """Return the row, or raise 404: another tenant's is as if it were not there."""
    is_id = suppression_id.isascii() and suppression_id.isdigit() and len(suppression_id) < 20
    if is_id and int(suppression_id) <= MAX_ID:
        rows = suppression_list.visible_to(cast(User, request.user)).select_related("organization")
        row = rows.filter(pk=int(suppression_id)).first()
        if row is not None:
            return row
    raise NotFound(f"There is no suppression {suppression_id[:40]!r}.")


def _filtered(request: Request) -> QuerySet[Suppression]:
    asked = SuppressionFilter(data=request.query_params)
    asked.is_valid(raise_exception=True)
    query = asked.validated_data
    rows = suppression_list.visible_to(cast(User, request.user))
    if "address" in query:
        rows = rows.filter(address=fold_address(query["address"]))
    if "q" in query:
        rows = rows.filter(address__contains=query["q"].lower())
    for name in ("reason", "organization_id", "source_message_id"):
        if name in query:
            rows = rows.filter(**{name: query[name]})
    if "sending_domain" in query:
        rows = rows.filter(sending_domain=query["sending_domain"])
    if "state" in query:
        active = suppression_list.in_force(timezone.now())
        rows = rows.filter(active) if query["state"] == "active" else rows.exclude(active)
    return rows


# --- in and out -------------------------------------------------------------------------------------------------------


def _octets(request: Request) -> bytes:
    data: Any = request.data
    if isinstance(data, bytes):
        octets = data
    elif _is_csv(request):
        octets = b""  # a parser is not asked where there is no body
    else:
        upload = request.FILES.get("file")
        if upload is None:
            raise UnsupportedMediaType(
                request.content_type or "", "Send the file as text/csv, or as the field `file` of a form."
            )
        octets = upload.read(settings.SUPPRESSION_IMPORT_SIZE + 1)
    if not octets:
        raise ValidationError({"file": ["The file is empty."]})
    if len(octets) > settings.SUPPRESSION_IMPORT_SIZE:
        raise TooLarge(f"The file is larger than {settings.SUPPRESSION_IMPORT_SIZE} octets.")
    return octets


def _is_csv(request: Request) -> bool:
    return (request.content_type or "").partition(";")[0].strip().lower() == CsvParser.media_type


def _truth(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise ValidationError({name: "Either true or false is needed."})
    return text in ("true", "1")


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValidationError({name: "A whole number is needed."})
    return int(text)


def _actor(request: Request) -> Actor:
    user, key = cast(User, request.user), request.auth
    name = f"{user.username} by key {key.name}" if isinstance(key, ApiKey) else user.username
    return Actor(name, str(request.META.get("REMOTE_ADDR", "")))


def _items(rows: Sequence[Suppression]) -> list[dict[str, Any]]:
    now = timezone.now()
    return [_item(row, now) for row in rows]


def _item(row: Suppression, now: dt.datetime | None = None) -> dict[str, Any]:
    scope = "system" if row.organization_id is None else "domain" if row.sending_domain else "organization"
    return {
        "id": str(row.pk),
        "address": row.address,
        "scope": scope,
        "organization_id": row.organization_id,
        "sending_domain": row.sending_domain,
        "reason": row.reason,
        "words": row.words,
        "source_message_id": row.source_message_id or None,
        "created_by": row.created_by,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "is_active": row.is_in_force(now or timezone.now()),
        "hits": row.hits,
        "last_hit_at": row.last_hit_at,
    }


def _imported(plan: Plan, counts: Counts, is_dry: bool) -> dict[str, Any]:
    return {
        "dry_run": is_dry,
        "added": counts.added,
        "updated": counts.updated,
        "unchanged": counts.unchanged,
        "repeated": plan.repeated,
        "problem_count": plan.problem_count,
        "problems": [{"line": one.line, "message": one.message} for one in plan.problems],
    }
