"""Admin page of workers: who is alive, and what each does just now and since when."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from accounts.admin.base import ReadOnlyAdmin
from queue import workers
from queue.models import Worker


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """One page in the place of list and form: there are few workers, and what they do is what one wants to see."""

    def get_urls(self) -> list[URLPattern]:
        return [path("", self.admin_site.admin_view(self.workers_view), name="queue_worker_changelist")]

    def workers_view(self, request: HttpRequest, **_: Any) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        now = timezone.now()
        context = {
            **self.admin_site.each_context(request),
            "title": "Workers",
            "opts": self.opts,
            "workers": workers.read(now),
            "now": now,
        }
        return TemplateResponse(request, "admin/queue/worker/now.html", context)
