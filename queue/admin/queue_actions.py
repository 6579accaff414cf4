"""Admin pages of actions in bulk: how far each is, what it left alone, and a button to stop it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge, shorten
from queue import actions
from queue.control import LEFT_WORDS, Left
from queue.models import QueueAction

COLOURS = {"waiting": "info", "running": "warning", "done": "success", "stopped": "danger", "failed": "danger"}


@admin.register(QueueAction)
class QueueActionAdmin(ReadOnlyAdmin):
    list_display = ["description", "status_label", "progress", "actor", "door", "created_at", "finished_at"]
    list_filter = ["status", "action", "door"]
    search_fields = ["actor"]
    search_help_text = "Who asked for it"
    fields = [
        "description", "status", "progress", "left_alone", "reason", "actor", "door", "client_address", "created_at",
        "started_at", "finished_at", "runner", "seen_at", "error",
    ]  # fmt: skip
    change_form_template = "admin/queue/queueaction/progress.html"

    def get_urls(self) -> list[URLPattern]:
        stop = path("<int:pk>/stop/", self.admin_site.admin_view(self.stop_view), name="queue_queueaction_stop")
        return [stop, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may_stop = request.user.has_perm("queue.change_entry")
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "may_stop": may_stop})

    def stop_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not request.user.has_perm("queue.change_entry"):
            raise PermissionDenied
        has_asked = actions.request_stop(pk)
        words = "It ends after the batch under way; what is done stays done." if has_asked else "It has ended already."
        self.message_user(request, words, messages.SUCCESS if has_asked else messages.WARNING)
        return HttpResponseRedirect(reverse("admin:queue_queueaction_change", args=[pk]))

    @admin.display(description="action")
    def description(self, action: QueueAction) -> str:
        return shorten(actions.words_of(action), 120)

    @badge("status", COLOURS, ordering="status")
    def status_label(self, action: QueueAction) -> tuple[str, str]:
        return action.status, action.get_status_display()

    @admin.display(description="progress")
    def progress(self, action: QueueAction) -> SafeString | str:
        if action.total is None:
            return "not begun"
        share = 100 * action.looked_at / action.total if action.total else 100
        bar = (
            '<span class="bg-base-200 block h-1.5 overflow-hidden rounded-default" style="width: 10rem">'
            '<span class="bg-primary-600 block h-full" style="width: {}%"></span></span>'
        )
        counts = f"{action.looked_at:,} of {action.total:,}, {action.done:,} done"
        return format_html("{}" + bar, counts, f"{share:.1f}")

    @admin.display(description="left alone")
    def left_alone(self, action: QueueAction) -> SafeString | str:
        rows = [(f"{count:,}", LEFT_WORDS[Left(name)]) for name, count in sorted(action.left.items())]
        return format_html_join(SafeString("<br>"), "{} {}", rows) if rows else "none"

    @admin.display(description="reason")
    def reason(self, action: QueueAction) -> str:
        return str(action.parameters.get("reason", ""))
