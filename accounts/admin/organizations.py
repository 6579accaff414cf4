"""Admin pages of tenants, their domains and their aliases."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest

from accounts.admin.base import Admin, badge, shorten
from accounts.models import Alias, Domain, Organization, User


def _count_of(related: QuerySet[Any], field: str) -> Coalesce:
    """Count related rows per row shown; joins of two such counts in one query would multiply each other."""
    counted = related.filter(**{field: OuterRef("pk")}).order_by().values(field).annotate(number=Count("pk"))
    return Coalesce(Subquery(counted.values("number")), 0)


@admin.register(Organization)
class OrganizationAdmin(Admin):
    list_display = ["name", "is_active", "user_count", "domain_count", "created_at"]
    list_filter = ["is_active"]
    search_fields = ["name"]
    readonly_fields = ["created_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        users = _count_of(User.objects.all(), "organization")
        domains = _count_of(Domain.objects.all(), "organization")
        counted: QuerySet[Any] = super().get_queryset(request).annotate(user_number=users, domain_number=domains)
        return counted

    @admin.display(description="users", ordering="user_number")
    def user_count(self, organization: Any) -> int:
        return int(organization.user_number)

    @admin.display(description="domains", ordering="domain_number")
    def domain_count(self, organization: Any) -> int:
        return int(organization.domain_number)


@admin.register(Domain)
class DomainAdmin(Admin):
    list_display = [
        "name", "organization", "status_label", "is_trusted", "is_active", "takes_mail", "alias_count", "created_at",
    ]  # fmt: skip
    list_filter = ["status", "is_active", "accepts_mail", "is_trusted"]
    list_select_related = ["organization"]
    search_fields = ["name", "organization__name"]
    autocomplete_fields = ["organization"]
    readonly_fields = ["created_at", "updated_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        aliases = _count_of(Alias.objects.all(), "domain")
        counted: QuerySet[Any] = super().get_queryset(request).annotate(alias_number=aliases)
        return counted

    @badge("status", {"verified": "success", "pending": "warning", "failed": "danger"}, ordering="status")
    def status_label(self, domain: Domain) -> tuple[str, str]:
        return domain.status, domain.get_status_display()

    @admin.display(description="takes mail", boolean=True)
    def takes_mail(self, domain: Domain) -> bool:
        return domain.takes_mail

    @admin.display(description="aliases", ordering="alias_number")
    def alias_count(self, domain: Any) -> int:
        return int(domain.alias_number)


@admin.register(Alias)
class AliasAdmin(Admin):
    list_display = ["__str__", "target_list", "announcement_label", "is_active", "created_at"]
    list_filter = ["announcement", "is_active"]
    list_select_related = ["domain"]
    search_fields = ["local_part", "domain__name", "targets"]
    autocomplete_fields = ["domain"]
    readonly_fields = ["created_at"]

    @admin.display(description="forwards to")
    def target_list(self, alias: Alias) -> str:
        return shorten(", ".join(alias.targets))

    @badge("announcement", {"silent": "info", "told": "success", "moved": "warning"}, ordering="announcement")
    def announcement_label(self, alias: Alias) -> tuple[str, str]:
        return alias.announcement, alias.announcement
