"""`GET queue/workers`: who delivers, and what each worker does just now; for staff."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.api.paging import MAX_PAGE_SIZE, PageOfItems, part_of, window_of
from queue import workers


class DoingItem(serializers.Serializer[Any]):
    destination = serializers.CharField()
    message_id = serializers.CharField()
    recipients = serializers.IntegerField()
    since = serializers.DateTimeField()


class WorkerItem(serializers.Serializer[Any]):
    """One worker process; `doing` has the deliveries that run for the longest, 50 at most."""

    name = serializers.CharField()
    host = serializers.CharField()
    pid = serializers.IntegerField()
    started_at = serializers.DateTimeField()
    seen_at = serializers.DateTimeField(help_text="When it last told of itself, which it does every few seconds.")
    is_silent = serializers.BooleanField(help_text="It has not: its leases run out, and others take over.")
    in_flight = serializers.IntegerField(help_text="Entries under lease.")
    running = serializers.IntegerField(help_text="Deliveries that run.")
    waiting = serializers.IntegerField(help_text="Entries that wait in it for their turn.")
    rung = serializers.IntegerField(help_text="Entries that it was rung for and has not claimed yet.")
    doing = DoingItem(many=True)


class WorkerList(PageOfItems):
    """All of them on one page, unless less is asked for."""

    items = WorkerItem(many=True)


class WorkerListView(APIView):
    """All workers, those that fell silent first."""

    permission_classes = [IsAdminUser]

    @extend_schema(operation_id="queue_workers_list", responses=WorkerList)
    def get(self, request: Request) -> Response:
        found = [asdict(seen) for seen in workers.read(timezone.now())]
        return Response(part_of(found, window_of(request, default=MAX_PAGE_SIZE)).as_items())
