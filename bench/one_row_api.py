"""What the stack itself costs `POST /api/v1/send`: one row, by an API view that checks a key and three fields."""

from __future__ import annotations

from typing import Any

from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import Scope, TrailEntry


class Body(serializers.Serializer[Any]):
    to = serializers.EmailField()
    subject = serializers.CharField()
    text_body = serializers.CharField()


class WriteOneRow(APIView):
    """Authentication, throttles, parser and renderer are the API's own."""

    key_scope = Scope.SEND

    def post(self, request: Request) -> Response:
        body = Body(data=request.data)
        body.is_valid(raise_exception=True)
        entry = TrailEntry.objects.create(kind="bench", detail=str(body.validated_data))
        return Response({"id": entry.pk}, status=202)


urlpatterns = [path("", WriteOneRow.as_view())]
