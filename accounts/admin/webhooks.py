"""Admin pages of webhook endpoints and their deliveries, with each request and its answer; secrets are shown once."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from accounts.admin.base import Admin, ReadOnlyAdmin, SinceFilter, badge, by, link, shorten
from accounts.admin.dkim import confirm
from accounts.admin.shown_once import show_once
from accounts.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from accounts.webhooks import deliveries, endpoints, outbox
from accounts.webhooks.endpoints import InvalidEndpoint, TooManyEndpoints
from accounts.webhooks.names import CHOICES

if TYPE_CHECKING:
    _Form = forms.ModelForm[WebhookEndpoint]
    _Inline = admin.TabularInline[Any, Any]
    UnfoldBooleanWidget = forms.CheckboxInput
    _Choices = forms.CheckboxSelectMultiple
else:
    from unfold.admin import TabularInline as _Inline
    from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget as _Choices

    _Form = forms.ModelForm

T = TypeVar("T")

_STATUS_COLOURS = {"delivered": "success", "pending": "info", "failed": "danger"}
_STATE_COLOURS = {"well": "success", "failing": "warning", "off": "danger", "new": "info"}
_EVENTS_HELP = "What it hears of. Spam and viruses are not looked for yet: of these two nothing is sent so far."
_MONOSPACE = "font-family: monospace; overflow-wrap: anywhere; white-space: pre-wrap"


class EndpointForm(_Form):
    """The fields that people set; the rules are those of the API."""

    events = forms.MultipleChoiceField(choices=CHOICES, widget=_Choices, help_text=_EVENTS_HELP)

    def clean_url(self) -> str:
        return self._checked("url", endpoints.check_url)

    def clean_events(self) -> list[str]:
        return self._checked("events", endpoints.check_events)

    def _checked(self, name: str, check: Callable[[Any], T]) -> T:
        try:
            return check(self.cleaned_data[name])
        except InvalidEndpoint as error:
            raise forms.ValidationError(str(error)) from None


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(Admin):
    form = EndpointForm
    list_display = ["short_url", "owner", "event_names", "state_label", "last_success_at", "delivery_link"]
    list_filter = ["is_active", "is_from_environment"]
    list_select_related = ["organization"]
    search_fields = ["url", "description", "organization__name"]
    search_help_text = "URL, description or organization"
    autocomplete_fields = ["organization"]
    actions = ["send_test", "rotate", "switch_on", "switch_off"]
    readonly_fields = [
        "state", "failing_since", "last_success_at", "disabled_at", "disabled_reason", "previous_expires_at",
        "is_from_environment", "id", "delivery_link", "created_at",
    ]  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = ["organization", "url", "events", "description", "is_active"]
        if obj is None:
            return [(None, {"fields": asked})]
        shown = ["state", "failing_since", "last_success_at", "disabled_at", "disabled_reason", "delivery_link"]
        return [
            (None, {"fields": asked}),
            ("How it fares", {"fields": shown}),
            ("Record", {"fields": ["id", "is_from_environment", "previous_expires_at", "created_at"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return self.readonly_fields
        follows = ["url"] if obj.is_from_environment else []
        return [*self.readonly_fields, "organization", *follows]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            names = [name for name in form.changed_data if name in ("url", "events", "description", "is_active")]
            stored = WebhookEndpoint.objects.get(pk=obj.pk)
            try:
                endpoints.change(stored, {name: form.cleaned_data[name] for name in names}, **by(request))
            except InvalidEndpoint as error:
                messages.error(request, str(error))
            obj.refresh_from_db()
            return
        data = form.cleaned_data
        try:
            made, secret = endpoints.create(
                data["organization"],
                data["url"],
                data["events"],
                description=data["description"],
                is_active=data["is_active"],
                **by(request),
            )
        except TooManyEndpoints as error:
            raise PermissionDenied(str(error)) from None
        obj.pk = made.pk
        obj.refresh_from_db()
        obj.secret_once = secret

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        back = reverse("admin:accounts_webhookendpoint_change", args=[obj.pk])
        return show_once(self, request, [(obj.url, obj.secret_once)], noun="secret", words="", back=back)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        try:
            endpoints.delete(obj, **by(request))
        except InvalidEndpoint as error:
            messages.error(request, str(error))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        for endpoint in queryset.select_related("organization"):
            self.delete_model(request, endpoint)

    @admin.action(description="Send a test event", permissions=["change"])
    def send_test(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> HttpResponse | None:
        chosen = list(queryset.filter(is_active=True))
        if request.POST.get("confirmed") == "yes":
            for endpoint in chosen:
                deliveries.send_test(endpoint)
            self.message_user(request, f"{_count(chosen)} will get a test event: look at the deliveries.")
            return None
        question = (
            f"Send made-up data, as webhook.test, to {_count(chosen)} that {'is' if len(chosen) == 1 else 'are'} on?"
        )
        return self._ask(request, "send_test", "Send a test event", question, "Send", chosen)

    @admin.action(description="Make a new secret", permissions=["change"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> HttpResponse | None:
        chosen = list(queryset)
        if request.POST.get("confirmed") == "yes":
            fresh = []
            for endpoint in chosen:
                try:
                    secret = endpoints.rotate_secret(endpoint, **by(request))
                except InvalidEndpoint as error:
                    messages.error(request, f"{endpoint}: {error}")
                    continue
                fresh.append((endpoint.url, secret))
            if not fresh:
                return None
            words = "For a day, requests are signed with the one before, too."
            return show_once(self, request, fresh, noun="secret", words=words, back=request.get_full_path())
        question = f"Make a new secret for {_count(chosen)}? For a day, requests are signed with the one before, too."
        return self._ask(request, "rotate", "Make a new secret", question, "Make", chosen)

    @admin.action(description="Switch on", permissions=["change"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> HttpResponse | None:
        chosen = list(queryset.filter(is_active=False))
        question = f"Switch {_count(chosen)} on? What was waiting is sent."
        return self._switch(request, chosen, "switch_on", "Switch on", question, is_active=True)

    @admin.action(description="Switch off", permissions=["change"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> HttpResponse | None:
        chosen = list(queryset.filter(is_active=True))
        question = f"Switch {_count(chosen)} off? What happens meanwhile is not noted for them."
        return self._switch(request, chosen, "switch_off", "Switch off", question, is_active=False)

    def _switch(
        self,
        request: HttpRequest,
        chosen: Sequence[WebhookEndpoint],
        action: str,
        title: str,
        question: str,
        *,
        is_active: bool,
    ) -> HttpResponse | None:
        if request.POST.get("confirmed") != "yes":
            return self._ask(request, action, title, question, title, chosen)
        for endpoint in chosen:
            endpoints.change(endpoint, {"is_active": is_active}, **by(request))
        self.message_user(request, f"{_count(chosen)} switched {'on' if is_active else 'off'}.")
        return None

    def _ask(
        self, request: HttpRequest, action: str, title: str, question: str, button: str, items: Sequence[Model]
    ) -> HttpResponse:
        return confirm(self, request, action=action, title=title, question=question, button=button, items=items)

    @admin.display(description="URL", ordering="url")
    def short_url(self, endpoint: WebhookEndpoint) -> str:
        return shorten(endpoint.url, 70)

    @admin.display(description="hears of", ordering="organization__name")
    def owner(self, endpoint: WebhookEndpoint) -> str:
        return str(endpoint.organization) if endpoint.organization else "the whole system"

    @admin.display(description="events")
    def event_names(self, endpoint: WebhookEndpoint) -> str:
        return "all" if len(endpoint.events) == len(CHOICES) else ", ".join(endpoint.events)

    @badge("state", _STATE_COLOURS, ordering="is_active")
    def state_label(self, endpoint: WebhookEndpoint) -> tuple[str, str]:
        if not endpoint.is_active:
            return "off", "Off: it failed for too long" if endpoint.disabled_at else "Off"
        if endpoint.failing_since:
            return "failing", f"Failing for {timesince(endpoint.failing_since)}"
        return ("well", "Well") if endpoint.last_success_at else ("new", "Nothing sent yet")

    @admin.display(description="state")
    def state(self, endpoint: WebhookEndpoint) -> str:
        return self.state_label(endpoint)[1]

    @admin.display(description="deliveries")
    def delivery_link(self, endpoint: WebhookEndpoint) -> SafeString:
        return format_html(
            '<a href="/admin/accounts/webhookdelivery/?endpoint__id__exact={}" class="text-link">Deliveries</a>',
            endpoint.pk,
        )


class AttemptInline(_Inline):
    model = WebhookAttempt
    fields = ["started_at", "duration_ms", "request_text", "response_status", "answer_text", "error"]
    readonly_fields = ["request_text", "answer_text"]
    ordering = ["-id"]
    extra = 0
    can_delete = False
    verbose_name_plural = "requests and their answers, the latest first"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="request")
    def request_text(self, attempt: WebhookAttempt) -> SafeString:
        lines = [f"POST {attempt.url}", *(f"{name}: {value}" for name, value in attempt.request_headers.items())]
        return format_html('<div style="{}">{}</div>', _MONOSPACE, "\n".join(lines))

    @admin.display(description="answer")
    def answer_text(self, attempt: WebhookAttempt) -> SafeString:
        return format_html('<div style="{}">{}</div>', _MONOSPACE, attempt.response_body)


class SinceByDeliveryId(SinceFilter):
    """A delivery's id has its time in it, and so the primary key answers."""

    def since(self, queryset: QuerySet[Any], at: dt.datetime) -> QuerySet[Any]:
        return queryset.filter(pk__gte=outbox.first_id(at))


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    list_display = ["id", "event", "status_label", "endpoint_link", "attempts", "result", "created_at"]
    list_filter = ["status", SinceByDeliveryId]
    list_select_related = ["endpoint"]
    search_fields = ["id", "event", "payload", "endpoint__url"]
    search_help_text = "Delivery id, event, a word of the payload such as a message id, or URL"
    actions = ["replay"]
    inlines = [AttemptInline]
    fieldsets = [
        (None, {"fields": ["id", "event", "status", "endpoint_link", "last_result"]}),
        ("Body", {"fields": ["body"]}),
        ("Times", {"fields": ["created_at", "attempts", "next_attempt_at", "finished_at"]}),
    ]

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup == "endpoint__id__exact" or super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_webhookendpoint")

    @admin.action(description="Send again", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> HttpResponse | None:
        chosen = queryset.filter(endpoint__is_active=True)
        if request.POST.get("confirmed") == "yes":
            ids = list(chosen.values_list("pk", flat=True))
            count = sum(
                deliveries.replay(WebhookDelivery.objects.filter(pk__in=ids[start : start + 500]), timezone.now())
                for start in range(0, len(ids), 500)
            )
            self.message_user(request, f"{count} will be sent again.", messages.SUCCESS if count else messages.WARNING)
            return None
        question = f"Send {chosen.count()} again, under the same ids? Those of endpoints that are off are left out."
        return confirm(
            self,
            request,
            action="replay",
            title="Send again",
            question=question,
            button="Send again",
            items=list(chosen.select_related(None)[:11]),
        )

    @badge("status", _STATUS_COLOURS, ordering="status")
    def status_label(self, delivery: WebhookDelivery) -> tuple[str, str]:
        return delivery.status, delivery.get_status_display()

    @admin.display(description="endpoint")
    def endpoint_link(self, delivery: WebhookDelivery) -> SafeString:
        return link(
            "accounts_webhookendpoint_change", str(delivery.endpoint_id), text=shorten(delivery.endpoint.url, 50)
        )

    @admin.display(description="last result")
    def result(self, delivery: WebhookDelivery) -> str:
        return shorten(delivery.last_result, 70)

    @admin.display(description="as it is sent")
    def body(self, delivery: WebhookDelivery) -> SafeString:
        shown = json.dumps(json.loads(delivery.payload), indent=2, ensure_ascii=False)
        return format_html('<div style="{}">{}</div>', _MONOSPACE, shown)


def _count(chosen: Sequence[WebhookEndpoint]) -> str:
    return f"{len(chosen)} endpoint{'' if len(chosen) == 1 else 's'}"
