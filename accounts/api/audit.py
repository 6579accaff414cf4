"""`GET audit`: the trail of what staff, users, keys and commands did; for staff (contract §1.1)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.paging import PageOfItems, WindowFilter, page_of, window_of
from accounts.models import TrailEntry


class MomentField(serializers.CharField):
    """A date, which is its first moment in UTC, or a date and time."""

    def to_internal_value(self, data: Any) -> Any:
        text = super().to_internal_value(data)
        try:
            # the space: what a + becomes in a query that was not encoded
            moment = dt.datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
            return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        except (ValueError, OverflowError):
            raise serializers.ValidationError("A date such as 2025-01-31 or 2025-01-31T12:00:00Z is needed.") from None


class AuditFilter(WindowFilter):
    """The query; conditions all hold together. Names match whole, whatever their case."""

    kind = serializers.CharField(required=False, help_text="Such as queue.hold; queue. means all that begin so.")
    actor = serializers.CharField(required=False, help_text="Who acted: user, key or command.")
    subject = serializers.CharField(required=False, help_text="What it was done to; a part of it is enough.")
    client_address = serializers.CharField(required=False)
    q = serializers.CharField(required=False, help_text="Words that are in the detail.")
    since = MomentField(required=False, help_text="A date or a date and time (ISO 8601); this moment is included.")
    until = MomentField(required=False, help_text="The same; this moment is not included.")


class AuditItem(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    kind = serializers.CharField()
    actor = serializers.CharField()
    subject = serializers.CharField()
    client_address = serializers.CharField()
    detail = serializers.CharField()


class AuditPage(PageOfItems):
    items = AuditItem(many=True)


class AuditView(APIView):
    """What was done, and by whom; the latest first."""

    permission_classes = [IsAdminUser]

    @extend_schema(operation_id="audit_list", parameters=[AuditFilter], responses=AuditPage)
    def get(self, request: Request) -> Response:
        window = window_of(request)
        wanted = AuditFilter(data=request.query_params)
        wanted.is_valid(raise_exception=True)
        page = page_of(_filtered(wanted.validated_data), window, lambda rows: [_item(row) for row in rows])
        return Response(page.as_items())


def _filtered(wanted: dict[str, Any]) -> QuerySet[TrailEntry]:
    conditions = Q()
    if kind := wanted.get("kind"):
        conditions &= Q(kind__startswith=kind) if kind.endswith(".") else Q(kind=kind)
    for name, lookup in (
        ("actor", "actor__iexact"),
        ("subject", "subject__icontains"),
        ("client_address", "client_address"),
        ("since", "created_at__gte"),
        ("until", "created_at__lt"),
    ):
        if name in wanted:
            conditions &= Q(**{lookup: wanted[name]})
    for word in wanted.get("q", "").split():
        conditions &= Q(detail__icontains=word)
    return TrailEntry.objects.filter(conditions)


def _item(entry: TrailEntry) -> dict[str, Any]:
    names = ("created_at", "kind", "actor", "subject", "client_address", "detail")
    return {"id": entry.pk, **{name: getattr(entry, name) for name in names}}
