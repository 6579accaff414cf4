"""Admin pages of mailboxes and what is filed in them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, link
from mailflow.models import FiledMessage, Mailbox


@admin.register(Mailbox)
class MailboxAdmin(ReadOnlyAdmin):
    list_display = ["name", "user", "filed_count", "uid_next", "highest_modseq", "uid_validity"]
    list_select_related = ["user"]
    search_fields = ["name", "user__username", "user__email"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        filed = FiledMessage.objects.filter(mailbox=OuterRef("pk")).order_by().values("mailbox")
        number = Coalesce(Subquery(filed.annotate(number=Count("pk")).values("number")), 0)
        counted: QuerySet[Any] = super().get_queryset(request).annotate(filed_number=number)
        return counted

    @admin.display(description="messages")
    def filed_count(self, mailbox: Any) -> int:
        return int(mailbox.filed_number)


@admin.register(FiledMessage)
class FiledMessageAdmin(ReadOnlyAdmin):
    list_display = ["message_link", "owner", "folder", "uid", "flag_list", "size", "internal_date", "storage"]
    list_display_links = ["uid"]  # the first column leads to the message
    list_select_related = ["mailbox__user"]
    search_fields = ["message_id", "recipient", "mailbox__name", "mailbox__user__username", "mailbox__user__email"]
    ordering = ["-pk"]

    @admin.display(description="message", ordering="message_id")
    def message_link(self, filed: FiledMessage) -> SafeString:
        return link("mailflow_message_change", filed.message_id, text=filed.message_id)

    @admin.display(description="owner")
    def owner(self, filed: FiledMessage) -> str:
        return str(filed.mailbox.user)

    @admin.display(description="mailbox")
    def folder(self, filed: FiledMessage) -> str:
        return filed.mailbox.name

    @admin.display(description="flags")
    def flag_list(self, filed: FiledMessage) -> str:
        return " ".join(filed.flags)

    @admin.display(description="size", ordering="size_octets")
    def size(self, filed: FiledMessage) -> str:
        return filesizeformat(filed.size_octets)
