"""Admin page of smarthosts. A password can be set and never read; it is sealed for its host and user name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.admin.base import badge
from accounts.admin.trailed import TrailedAdmin
from queue.hops import InvalidHop, literal, parse_hop
from queue.models import SmartHost

if TYPE_CHECKING:
    _Form = forms.ModelForm[SmartHost]
    _PasswordInput = forms.PasswordInput
else:
    from unfold.widgets import UnfoldAdminPasswordWidget as _PasswordInput

    _Form = forms.ModelForm


class SmartHostForm(_Form):
    password = forms.CharField(
        required=False,
        strip=False,
        max_length=500,
        widget=_PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Left empty, the one that is kept stays. It is never shown.",
    )

    def clean_host(self) -> str:
        text = str(self.cleaned_data["host"])
        try:
            host, port = parse_hop(text, 0)
        except InvalidHop as error:
            raise ValidationError(f"Not a host: {error}.") from None
        if port:
            raise ValidationError("The port has a field of its own.")
        if host == settings.SMTP_HOSTNAME.lower():
            raise ValidationError("That is this host itself: its mail would loop.")
        return literal(host) or host

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        username, password = data.get("username", ""), data.get("password", "")
        if password and not username:
            self.add_error("username", "A password needs a user name.")
        if username and data.get("tls") == SmartHost.Tls.NEVER:
            self.add_error("tls", "A password never goes in clear: choose TLS, or leave the user name empty.")
        if username and not password and not self._keeps_password(data):
            words = "Enter the password: the one that is kept is for another host or user name."
            self.add_error("password", words if self.instance.sealed_password else "A user name needs a password.")
        return data

    def _keeps_password(self, data: dict[str, Any]) -> bool:
        was = self.initial.get("host", ""), self.initial.get("username", "")
        return bool(self.instance.sealed_password) and was == (data.get("host"), data.get("username"))

    def save(self, commit: bool = True) -> SmartHost:
        smart_host = self.instance
        if self.cleaned_data["password"] or not self.cleaned_data["username"]:
            smart_host.set_password(self.cleaned_data["password"])
        return super().save(commit)


class ScopeFilter(admin.SimpleListFilter):
    title = "for"
    parameter_name = "scope"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("domain", "a recipient domain"), ("organization", "an organization"), ("none", "chosen routes alone")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "domain":
                return queryset.exclude(domain="")
            case "organization":
                return queryset.filter(organization__isnull=False)
            case "none":
                return queryset.filter(domain="", organization__isnull=True)
        return queryset


@admin.register(SmartHost)
class SmartHostAdmin(TrailedAdmin):
    trail_kind = "smarthost"
    form = SmartHostForm
    list_display = ["__str__", "scope", "tls_label", "username", "is_active", "updated_at"]
    list_filter = [ScopeFilter, "tls", "is_active"]
    list_select_related = ["organization"]
    search_fields = ["host", "domain", "organization__name", "username"]
    autocomplete_fields = ["organization"]
    readonly_fields = ["created_at", "updated_at"]
    fieldsets = [
        ("For whom", {"fields": ["domain", "organization", "is_active"],
                      "description": "One of the two. Without either, it serves mail that is sent that way by hand. "
                                     "Workers take a change over within a few seconds."}),
        ("Which way", {"fields": ["host", "port", "tls", "username", "password"]}),
        ("Record", {"fields": ["created_at", "updated_at"]}),
    ]  # fmt: skip

    def trail_words(self, obj: Any) -> str:
        scope = self.scope(obj)
        return f"{scope[0].upper()}{scope[1:]}, TLS {obj.tls}."

    @admin.display(description="for", ordering="domain")
    def scope(self, smart_host: SmartHost) -> str:
        if smart_host.domain:
            return f"mail to {smart_host.domain}"
        return f"mail of {smart_host.organization}" if smart_host.organization else "chosen routes alone"

    @badge("TLS", {"required": "success", "implicit": "success", "opportunistic": "warning", "never": "danger"})
    def tls_label(self, smart_host: SmartHost) -> tuple[str, str]:
        return smart_host.tls, smart_host.get_tls_display()
