"""Admin pages of tenants."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.admin.base import count_of
from accounts.admin.trailed import TrailedAdmin
from accounts.models import Domain, Organization, User


@admin.register(Organization)
class OrganizationAdmin(TrailedAdmin):
    trail_kind = "organization"
    list_display = ["name", "is_active", "user_count", "domain_count", "created_at"]
    list_filter = ["is_active"]
    search_fields = ["name"]
    readonly_fields = ["created_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        users = count_of(User.objects.all(), "organization")
        domains = count_of(Domain.objects.all(), "organization")
        counted: QuerySet[Any] = super().get_queryset(request).annotate(user_number=users, domain_number=domains)
        return counted

    @admin.display(description="users", ordering="user_number")
    def user_count(self, organization: Any) -> int:
        return int(organization.user_number)

    @admin.display(description="domains", ordering="domain_number")
    def domain_count(self, organization: Any) -> int:
        return int(organization.domain_number)
