"""Admin pages of API keys and their daily count; a key's text is shown once, after it is made or rotated."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from accounts import keys
from accounts.admin.base import Admin, ReadOnlyAdmin, badge, by
from accounts.admin.lines import LinesField
from accounts.admin.shown_once import show_once
from accounts.models import ApiKey, DailyUsage, Scope
from accounts.models.api_key import MAX_SENDERS
from accounts.names import parse_address, parse_domain

if TYPE_CHECKING:
    _Form = forms.ModelForm[ApiKey]
    UnfoldBooleanWidget = forms.CheckboxInput
    UnfoldAdminCheckboxSelectMultipleWidget = forms.CheckboxSelectMultiple
else:
    from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldBooleanWidget

    _Form = forms.ModelForm

OVERLAP = dt.timedelta(days=1)
CONFIRM = "admin/accounts/apikey/confirm.html"


class KeyForm(_Form):
    """What a key may be used for, in words rather than in JSON."""

    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        initial=ApiKey._meta.get_field("scopes").get_default(),
        help_text="The last is everything that its user may do, the others included.",
    )
    allowed_domains = LinesField(
        parse_domain,
        most=MAX_SENDERS,
        help_text="One a line: it may send from these alone. With no domain and no address: all that its user may.",
    )
    allowed_addresses = LinesField(
        parse_address, most=MAX_SENDERS, help_text="One a line: the key may send from these too."
    )

    def clean_allowed_addresses(self) -> list[str]:
        return keys.kept_addresses(self.cleaned_data["allowed_addresses"])

    def clean_expires_at(self) -> dt.datetime | None:
        """The rule of the API; an end that has passed may stay."""
        at: dt.datetime | None = self.cleaned_data["expires_at"]
        if "expires_at" in self.changed_data and (words := keys.why_no_end(at, timezone.now())):
            raise ValidationError(words)
        return at


class NewKeyForm(KeyForm):
    """What is asked for when a key is made."""

    is_test = forms.BooleanField(
        required=False,
        label="test key",
        widget=UnfoldBooleanWidget,
        help_text="Begins with sk_test_ instead of sk_live_.",
    )


_LIMITS = ["daily_limit", "scopes", "allowed_domains", "allowed_addresses", "expires_at"]


@admin.register(ApiKey)
class ApiKeyAdmin(Admin):
    """Keys are revoked rather than deleted: their record tells of the mail that they sent."""

    form = KeyForm
    list_display = [
        "name", "visible_start", "user", "state_label", "scope_list", "sent_today", "daily_limit", "last_used_at",
        "expires_at",
    ]  # fmt: skip
    list_filter = ["is_active", ("revoked_at", admin.EmptyFieldListFilter)]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username", "user__email"]
    autocomplete_fields = ["user"]
    fields = [
        "name", "user", *_LIMITS, "is_active", "state", "id", "visible_start", "last_used_at",
        "previous_expires_at", "revoked_at", "created_at",
    ]  # fmt: skip
    readonly_fields = [
        "state", "id", "visible_start", "last_used_at", "previous_expires_at", "revoked_at", "created_at",
    ]  # fmt: skip
    actions = ["rotate", "revoke"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        today = DailyUsage.objects.filter(api_key=OuterRef("pk"), date=dt.datetime.now(dt.UTC).date())
        sent = Coalesce(Subquery(today.values("count")[:1]), 0)
        counted: QuerySet[Any] = super().get_queryset(request).annotate(today=sent)
        return counted

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["name", "user", *_LIMITS, "is_test"] if obj is None else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        is_revoked = obj is not None and obj.revoked_at is not None
        return [*self.readonly_fields, "is_active"] if is_revoked else self.readonly_fields

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs["form"] = NewKeyForm
        return super().get_form(request, obj, change, **kwargs)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            changed = {name: form.cleaned_data[name] for name in form.changed_data}
            keys.change(ApiKey.objects.get(pk=obj.pk), changed, **by(request))
            return
        made, text = keys.create(
            obj.name,
            obj.user,
            daily_limit=obj.daily_limit,
            test=form.cleaned_data["is_test"],
            scopes=obj.scopes,
            allowed_domains=obj.allowed_domains,
            allowed_addresses=obj.allowed_addresses,
            expires_at=obj.expires_at,
            **by(request),
        )
        obj.pk = made.pk
        obj.refresh_from_db()
        obj.text_once = text

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        back = reverse("admin:accounts_apikey_change", args=[obj.pk])
        return show_once(self, request, [(obj.name, obj.text_once)], noun="API key", words="", back=back)

    @admin.action(description="Rotate: a new text, the old one works a day longer", permissions=["change"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        alive = queryset.filter(revoked_at__isnull=True)
        if request.POST.get("confirmed") != "yes":
            return self._ask(request, queryset, alive, "rotate")
        fresh = [(key.name, keys.rotate(key, overlap=OVERLAP, **by(request))) for key in alive]
        if not fresh:
            return None
        words = "The text before works a day longer."
        return show_once(self, request, fresh, noun="API key", words=words, back=request.get_full_path())

    @admin.action(description="Revoke for good", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        alive = queryset.filter(revoked_at__isnull=True)
        if request.POST.get("confirmed") != "yes":
            return self._ask(request, queryset, alive, "revoke")
        count = sum(keys.revoke(key, **by(request)) for key in alive)
        messages.success(request, f"{count} key{'' if count == 1 else 's'} revoked.")
        return None

    def _ask(
        self, request: HttpRequest, queryset: QuerySet[ApiKey], alive: QuerySet[ApiKey], action: str
    ) -> HttpResponse:
        """Ask first, telling the count."""
        count = alive.count()
        context = {
            **self.admin_site.each_context(request),
            "title": f"{action.capitalize()} API keys",
            "opts": self.opts,
            "action": action,
            "count": count,
            "revoked_count": queryset.count() - count,
            "sample": alive[:10],
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
        }
        return TemplateResponse(request, CONFIRM, context)

    @admin.display(description="begins with", ordering="prefix")
    def visible_start(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @badge("state", {"on": "success", "off": "warning", "expired": "danger", "revoked": "danger"})
    def state_label(self, key: ApiKey) -> tuple[str, str]:
        if key.revoked_at is not None:
            return "revoked", "Revoked"
        if not key.is_active:
            return "off", "Off"
        return ("on", "On") if keys.is_good(key, timezone.now()) else ("expired", "Expired")

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        return self.state_label(key)[1]

    @admin.display(description="scopes")
    def scope_list(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="sent today", ordering="today")
    def sent_today(self, key: Any) -> int:
        return int(key.today)


@admin.register(DailyUsage)
class DailyUsageAdmin(ReadOnlyAdmin):
    list_display = ["date", "api_key", "count", "limit"]
    list_select_related = ["api_key"]
    search_fields = ["api_key__name", "api_key__prefix"]
    ordering = ["-date", "-pk"]

    @admin.display(description="daily limit")
    def limit(self, usage: DailyUsage) -> int:
        return usage.api_key.daily_limit
