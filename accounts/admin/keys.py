"""Admin pages of API keys and their daily count; a key's text is shown once, in the message after it is made."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils.html import format_html

from accounts import keys
from accounts.admin.base import Admin, ReadOnlyAdmin
from accounts.models import ApiKey, DailyUsage

if TYPE_CHECKING:
    _Form = forms.ModelForm[ApiKey]
    UnfoldBooleanWidget = forms.CheckboxInput
else:
    from unfold.widgets import UnfoldBooleanWidget

    _Form = forms.ModelForm


class NewKeyForm(_Form):
    """What is asked for when a key is made."""

    is_test = forms.BooleanField(
        required=False,
        label="test key",
        widget=UnfoldBooleanWidget,
        help_text="Begins with sk_test_ instead of sk_live_.",
    )


@admin.register(ApiKey)
class ApiKeyAdmin(Admin):
    list_display = ["name", "visible_start", "user", "sent_today", "daily_limit", "is_active", "created_at"]
    list_filter = ["is_active"]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username", "user__email"]
    autocomplete_fields = ["user"]
    fields = ["name", "user", "daily_limit", "is_active", "id", "visible_start", "created_at"]
    readonly_fields = ["id", "visible_start", "created_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        today = DailyUsage.objects.filter(api_key=OuterRef("pk"), date=dt.datetime.now(dt.UTC).date())
        sent = Coalesce(Subquery(today.values("count")[:1]), 0)
        counted: QuerySet[Any] = super().get_queryset(request).annotate(today=sent)
        return counted

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["name", "user", "daily_limit", "is_test"] if obj is None else self.fields

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs["form"] = NewKeyForm
        return super().get_form(request, obj, change, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        made, text = keys.create(
            obj.name,
            obj.user,
            daily_limit=obj.daily_limit,
            test=form.cleaned_data["is_test"],
            actor=request.user.get_username(),
        )
        obj.pk = made.pk
        obj.refresh_from_db()
        words = "The key is <strong>{}</strong>. Copy it now: it is not kept and cannot be shown again."
        messages.warning(request, format_html(words, text))

    @admin.display(description="begins with", ordering="prefix")
    def visible_start(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

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
