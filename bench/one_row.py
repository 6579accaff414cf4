"""The peer of `POST /api/v1/send`: a Django view that writes one row durably, and nothing else."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from accounts.models import TrailEntry


@require_POST
def write_one_row(request: HttpRequest) -> JsonResponse:
    entry = TrailEntry.objects.create(kind="bench", detail=request.body.decode())
    response = JsonResponse({"id": entry.pk}, status=202)
    response["Content-Length"] = str(len(response.content))  # no middleware does it here, and the connection is kept
    return response


urlpatterns = [path("", write_one_row)]
