"""Admin pages of tenants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin.base import count_of
from accounts.admin.trailed import TrailedAdmin
from accounts.models import Domain, Organization, OrganizationUsage, User

_USERS_GO = (
    "give each another organization, with an address that it may have there, on its page, or delete it with its mail "
    "by user-cli delete or DELETE /api/v1/users/{username}."
)
_DOMAINS_GO = "delete each on its page, when no mailbox has its address in it any more."


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

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Say what must go first and how; its days of usage go with it, though nobody deletes one alone."""
        if held := _held(objs):
            return [], {}, set(), held
        shown, counts, needed, protected = super().get_deleted_objects(objs, request)
        return shown, counts, needed - {OrganizationUsage._meta.verbose_name}, protected

    @admin.display(description="users", ordering="user_number")
    def user_count(self, organization: Any) -> int:
        return int(organization.user_number)

    @admin.display(description="domains", ordering="domain_number")
    def domain_count(self, organization: Any) -> int:
        return int(organization.domain_number)


def _held(organizations: Iterable[Organization]) -> list[SafeString]:
    """Return a line for what stands in the way of a deletion, with a link to it and what can be done."""
    return [
        line
        for organization in organizations
        for line in (
            *_line(organization, "user", User.objects.filter(organization=organization).count(), _USERS_GO),
            *_line(organization, "domain", Domain.objects.filter(organization=organization).count(), _DOMAINS_GO),
        )
    ]


def _line(organization: Organization, noun: str, number: int, words: str) -> list[SafeString]:
    if not number:
        return []
    address = reverse(f"admin:accounts_{noun}_changelist", query={"organization__id__exact": organization.pk})
    counted = f"{number} {noun}{'' if number == 1 else 's'}"
    line = '<a href="{}" class="text-link">{}</a> of {}: {}'
    return [format_html(line, address, counted, organization.name, words)]
