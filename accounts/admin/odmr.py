"""Admin pages of ODMR secrets: a new one is made on the domains' page and shown once, in the answer itself."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers

from accounts import odmr
from accounts.admin.base import Admin, ReadOnlyAdmin, badge, by
from accounts.models import Domain, OdmrSecret

TEMPLATE = "admin/accounts/odmr_secret.html"
MAX_AT_ONCE = 20


def new_secrets(page: Admin, request: HttpRequest, domains: QuerySet[Domain]) -> HttpResponse | None:
    """Ask first; on the answer make the secrets and show them. They go into no message, which a cookie would keep."""
    chosen = list(domains.select_related("odmr_secret")[: MAX_AT_ONCE + 1])
    if len(chosen) > MAX_AT_ONCE:
        page.message_user(request, f"At most {MAX_AT_ONCE} domains at once.", messages.ERROR)
        return None
    context = {
        **page.admin_site.each_context(request),
        "title": "New ODMR secret",
        "opts": page.opts,
        "action": "new_odmr_secret",
        "checkbox_name": ACTION_CHECKBOX_NAME,
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "domains": chosen,
        "replaced": sum(hasattr(domain, "odmr_secret") for domain in chosen),
    }
    if request.POST.get("confirmed") == "yes":
        context["made"] = [(domain, odmr.make(domain, **by(request))) for domain in chosen]
    answer = TemplateResponse(request, TEMPLATE, context)
    add_never_cache_headers(answer)
    return answer


@admin.register(OdmrSecret)
class OdmrSecretAdmin(ReadOnlyAdmin):
    list_display = ["domain", "delivery_label", "created_at", "last_used_at"]
    list_select_related = ["domain"]
    search_fields = ["domain__name"]
    fields = ["domain", "created_at", "last_used_at"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """To delete one is to revoke it; what is deleted with its domain needs no word of its own."""
        return request.user.has_perm("accounts.delete_odmrsecret")

    def delete_model(self, request: HttpRequest, obj: OdmrSecret) -> None:
        odmr.revoke(obj.domain, **by(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[OdmrSecret]) -> None:
        for secret in queryset.select_related("domain"):
            self.delete_model(request, secret)

    @badge("delivery", {"dial_up": "info", "local": "warning"}, ordering="domain__delivery")
    def delivery_label(self, secret: OdmrSecret) -> tuple[str, str]:
        """A secret of a domain whose mail does not wait opens nothing: that is worth a look."""
        return secret.domain.delivery, "to its own host" if secret.domain.is_dial_up else "here: nothing to fetch"
