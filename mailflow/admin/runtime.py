"""The admin's page of what acts on running processes: every value, where it comes from, a field to set it; restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.forms.boundfield import BoundField
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from accounts.admin.base import Admin
from mailflow import runtime
from mailflow.models import RestartRequest, RuntimeSetting
from mailflow.runtime import Effective, InvalidConfig
from mailflow.runtime_fields import SMTP

if TYPE_CHECKING:
    UnfoldAdminTextInputWidget, UnfoldAdminSelectWidget = forms.TextInput, forms.Select
else:
    from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

TEMPLATE = "admin/mailflow/runtimesetting/config.html"
CONFIRM_TEMPLATE = "admin/mailflow/runtimesetting/confirm.html"
_CLOSING = (
    "Take no new mail?",
    "Every client hears 421 by SMTP and 503 by HTTP until it is switched on again. The queue is kept and worked on.",
)
_RESTARTING = (
    "Each of its processes ends what it is doing, takes nothing new, and is started again by whoever keeps it alive."
    " Clients that come in between must try again."
)
_SWITCH = {"": "as by default (on)", "true": "on", "false": "off"}


@dataclass(frozen=True, slots=True)
class Row:
    """One value as the page tells it."""

    effective: Effective
    field: BoundField
    is_own: bool  # set for this field itself, not for the one that it follows

    @property
    def shown(self) -> str:
        value = self.effective.value
        return ("on" if value else "off") if isinstance(value, bool) else f"{value:g}"


class ConfigForm(forms.Form):
    """A field for each value of one service; an empty one leaves it to the environment.

    Each brings along what it showed, so that only what this person has changed is written: nobody's change of a minute
    ago is undone by a page that was opened before it.
    """

    def __init__(self, service: str, values: Mapping[Any, Any], data: Mapping[str, Any] | None) -> None:
        super().__init__(data, prefix=service)
        self.service = service
        self._values = values
        for name, one in runtime.effective(service, values).items():
            own = values.get((service, name))
            initial = "" if own is None else str(own.value).lower()
            self.fields[name] = _input(one, initial)

    @property
    def title(self) -> str:
        return str(RuntimeSetting.Service(self.service).label)

    def rows(self) -> Iterator[Row]:
        for name, one in runtime.effective(self.service, self._values).items():
            yield Row(one, self[name], (self.service, name) in self._values)

    def clean(self) -> dict[str, Any]:
        given = {name: _parsed(self.cleaned_data[name]) for name in self.changed_data if name in self.cleaned_data}
        try:
            self.values = runtime.checked([self.service], given)
        except InvalidConfig as error:
            for name, sentence in error.errors.items():
                self.add_error(name, sentence)
        return self.cleaned_data


def _input(one: Effective, initial: str) -> forms.Field:
    common: dict[str, Any] = {
        "required": False,
        "initial": initial,
        "label": one.field.name,
        "help_text": f"{one.field.words} {one.field.allowed.capitalize()}.",
        "show_hidden_initial": True,
    }
    if one.field.kind is bool:
        return forms.ChoiceField(choices=list(_SWITCH.items()), widget=UnfoldAdminSelectWidget, **common)
    placeholder = {"placeholder": f"{one.value:g}", "autocomplete": "off"}
    return forms.CharField(max_length=30, widget=UnfoldAdminTextInputWidget(attrs=placeholder), **common)


def _parsed(text: str) -> object:
    """Return what JSON would have given: a number, a truth value, None for nothing; other words stay as they are."""
    words = {"": None, "true": True, "false": False}
    if text in words:
        return words[text]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


@admin.register(RuntimeSetting)
class RuntimeSettingAdmin(Admin):
    """One page in the place of list and form: a row exists only for what was set, the page shows all."""

    def get_urls(self) -> list[URLPattern]:
        return [
            path("", self.admin_site.admin_view(self.config_view), name="mailflow_runtimesetting_changelist"),
            path("restart/", self.admin_site.admin_view(self.restart_view), name="mailflow_runtimesetting_restart"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def config_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        values = runtime.read()
        posted = request.POST if request.method == "POST" else None
        config_forms = [ConfigForm(service, values, posted) for service in runtime.SERVICES]
        if posted is not None:
            if not self.has_change_permission(request):
                raise PermissionDenied
            if all([form.is_valid() for form in config_forms]):  # noqa: C419  (each must tell its errors)
                if _closes(config_forms) and not _is_confirmed(request):
                    return self._ask(request, "Switch off", *_CLOSING)
                return self._save(request, config_forms)
        context = {
            **self.admin_site.each_context(request),
            "title": "Runtime settings",
            "opts": self.opts,
            "config_forms": config_forms,
            "may_change": self.has_change_permission(request),
            "restarts": _restarts(),
        }
        return TemplateResponse(request, TEMPLATE, context)

    def _save(self, request: HttpRequest, config_forms: list[ConfigForm]) -> HttpResponse:
        wanted = {key: value for form in config_forms for key, value in form.values.items()}
        runtime.change(wanted, **_by(request))
        words = "Set. Every process follows within two seconds." if wanted else "Nothing was changed."
        self.message_user(request, words, messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:mailflow_runtimesetting_changelist"))

    def restart_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        service = request.POST.get("service")
        if service in runtime.RESTARTABLE:
            name = RestartRequest.Service(service).label
            if not _is_confirmed(request):
                return self._ask(request, "Restart", f"Restart: {name}?", _RESTARTING)
            runtime.request_restart(service, **_by(request))
            self.message_user(request, f"{name}: it ends what it is doing, and is started again.", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:mailflow_runtimesetting_changelist"))

    def _ask(self, request: HttpRequest, title: str, question: str, words: str) -> HttpResponse:
        sent = [(name, value) for name, values in request.POST.lists() for value in values]
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "question": question,
            "words": words,
            "address": request.path,
            "sent": [(name, value) for name, value in sent if name != "csrfmiddlewaretoken"],
        }
        return TemplateResponse(request, CONFIRM_TEMPLATE, context)


def _is_confirmed(request: HttpRequest) -> bool:
    return request.POST.get("confirmed") == "yes"


def _closes(config_forms: list[ConfigForm]) -> bool:
    """Whether it would end the reception of mail."""
    wanted = {key: value for form in config_forms for key, value in form.values.items()}
    return wanted.get((SMTP, "enabled")) is False


def _by(request: HttpRequest) -> dict[str, str]:
    return {"actor": request.user.get_username(), "client_address": request.META.get("REMOTE_ADDR", "")}


def _restarts() -> list[dict[str, Any]]:
    latest = {request.service: request for request in RestartRequest.objects.all()}
    return [
        {"service": service.value, "name": service.label, "latest": latest.get(service.value)}
        for service in RestartRequest.Service
    ]
