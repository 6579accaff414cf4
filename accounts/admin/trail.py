"""Admin page of the trail: what staff, users and keys did, and what was refused them."""

from __future__ import annotations

from django.contrib import admin

from accounts.admin.base import ReadOnlyAdmin, SinceFilter, shorten
from accounts.models import TrailEntry


@admin.register(TrailEntry)
class TrailEntryAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "kind", "actor", "subject", "client_address", "short_detail"]
    list_filter = [SinceFilter, "kind"]
    search_fields = ["kind", "actor", "subject", "client_address", "detail"]

    @admin.display(description="detail")
    def short_detail(self, entry: TrailEntry) -> str:
        return shorten(entry.detail)
