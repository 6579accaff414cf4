"""Admin page of messages: the list, one message's page, and its octets to download."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.defaultfilters import filesizeformat
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge
from mailflow.admin.columns import one_line, short_moment
from mailflow.admin.filters import SinceByMessageId
from mailflow.ids import MESSAGE_ID_PREFIX
from mailflow.models import Message
from queue.admin import message_page, rescheduling

MESSAGE_COLOURS = {
    "pending": "info",
    "processing": "info",
    "delivered": "success",
    "bounced": "danger",
    "failed": "danger",
    "rejected": "danger",
}


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    list_display = [
        "short_subject", "status_label", "sender", "recipient_list", "at", "short_error", "source", "size",
    ]  # fmt: skip
    list_filter = ["status", "source", SinceByMessageId]
    search_fields = [
        "id", "subject", "reverse_path", "header_from", "recipients", "internet_message_id", "client_address",
        "trace_id",
    ]  # fmt: skip
    search_help_text = "Message id, subject, addresses, Message-ID, client address or trace id"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<path:object_id>/raw/", view(self.raw_view), name="mailflow_message_raw"),
            path("<path:object_id>/reschedule/", view(self.reschedule_view), name="mailflow_message_reschedule"),
            *super().get_urls(),
        ]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if term.startswith(MESSAGE_ID_PREFIX) and " " not in term:
            return queryset.filter(pk__startswith=term), False  # the primary key answers, however large the table
        return super().get_search_results(request, queryset, search_term)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        message = self.get_object(request, unquote(object_id))
        if message is not None and self.has_view_permission(request, message):
            colour = MESSAGE_COLOURS.get(message.status, "info")
            extra_context = {**(extra_context or {}), "status_colour": colour}
            extra_context["page"] = message_page.build(message, request.GET.get("recipients", "1"))
        return super().change_view(request, object_id, form_url, extra_context)

    def raw_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The message bit for bit, as a file: nothing in it is ever shown by the browser."""
        message = self.get_object(request, unquote(object_id))
        if message is None:
            raise Http404("There is no such message.")
        if not self.has_view_permission(request, message):
            raise PermissionDenied
        pieces = message_page.stream(message.pk)
        first = next(pieces, None)
        if first is None:
            raise Http404("The content of this message is not kept any more.")
        return StreamingHttpResponse(
            message_page.prepended(first, pieces),
            content_type="message/rfc822",
            headers={
                "Content-Disposition": f'attachment; filename="{message.pk}.eml"',
                "X-Content-Type-Options": "nosniff",
                "Content-Security-Policy": "default-src 'none'; sandbox",
                "Cache-Control": "private, no-store",
            },
        )

    def reschedule_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Put scheduled mail that has not left at another time, or send it now."""
        message = self.get_object(request, unquote(object_id))
        if message is None:
            raise Http404("There is no such message.")
        if not (self.has_view_permission(request, message) and request.user.has_perm("queue.change_entry")):
            raise PermissionDenied
        return rescheduling.answer(request, self.admin_site, message)

    @admin.display(description="subject", ordering="subject")
    def short_subject(self, message: Message) -> SafeString | str:
        return one_line(message.subject, 12) or "(no subject)"

    @badge("status", MESSAGE_COLOURS, ordering="status")
    def status_label(self, message: Message) -> tuple[str, str]:
        return message.status, message.get_status_display()

    @admin.display(description="from", ordering="reverse_path")
    def sender(self, message: Message) -> SafeString | str:
        return one_line(message.reverse_path or "<>", 9)

    @admin.display(description="to")
    def recipient_list(self, message: Message) -> SafeString | str:
        more = message.recipient_count - 1
        return one_line(f"{message.recipients[0]} +{more}" if more > 0 else "".join(message.recipients), 10)

    @admin.display(description="created at", ordering="created_at")
    def at(self, message: Message) -> SafeString:
        return short_moment(message.created_at)

    @admin.display(description="size", ordering="size_octets")
    def size(self, message: Message) -> str:
        return filesizeformat(message.size_octets)

    @admin.display(description="trouble")
    def short_error(self, message: Message) -> SafeString | str:
        return one_line(message.error_message, 10)
