"""Admin pages of the suppression list: look, enter, change, remove, import from CSV with a preview, export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts.admin.base import Admin, badge, link, shorten
from accounts.models import Organization
from mailflow.admin.filters import SinceByRowId
from mailflow.models import Message
from queue import suppression_files, suppression_list
from queue.models import Suppression
from queue.suppression_files import Plan, Scope, Unreadable
from queue.suppression_list import Actor

if TYPE_CHECKING:
    UnfoldAdminFileFieldWidget = forms.FileInput
    UnfoldAdminSelectWidget, UnfoldBooleanWidget = forms.Select, forms.CheckboxInput
else:
    from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminSelectWidget, UnfoldBooleanWidget

IMPORT_TEMPLATE = "admin/queue/suppression/import.html"
REMOVE_TEMPLATE = "admin/queue/suppression/confirm_remove.html"
REASON_COLOURS = {
    "hard_bounce": "danger",
    "soft_bounces": "warning",
    "complaint": "danger",
    "manual": "info",
    "unsubscribe": "info",
}
_KEPT_SECONDS = 3600  # a preview, until it is confirmed


class StateFilter(admin.SimpleListFilter):
    """Whether a row is in force."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "In force"), ("expired", "Expired")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        active = suppression_list.in_force(timezone.now())
        if self.value() == "active":
            return queryset.filter(active)
        return queryset.exclude(active) if self.value() == "expired" else queryset


class ScopeFilter(admin.SimpleListFilter):
    """How far a row reaches."""

    title = "scope"
    parameter_name = "scope"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("system", "Whole system"), ("organization", "Organization"), ("domain", "Sending domain")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "system":
                return queryset.filter(organization__isnull=True)
            case "organization":
                return queryset.filter(organization__isnull=False, sending_domain="")
            case "domain":
                return queryset.exclude(sending_domain="")
            case _:
                return queryset


class SinceCreated(SinceByRowId):
    """Rows get their ids when they are made; one that was imported may have begun earlier."""

    title = "entered"


class ImportForm(forms.Form):
    """What is asked for: the file and whose list it is."""

    file = forms.FileField(
        widget=UnfoldAdminFileFieldWidget,
        help_text="CSV in UTF-8. With a first line that names columns: address, reason, sending_domain, words, "
        "expires_at, organization. Without one, the first column has the addresses.",
    )
    organization = forms.ModelChoiceField(
        Organization.objects.order_by("name"),
        required=False,
        empty_label="The whole system",
        widget=UnfoldAdminSelectWidget,
        help_text="For whom the addresses are kept back, where the file names no organization itself.",
    )
    reason = forms.ChoiceField(
        choices=Suppression.Reason.choices,
        initial=Suppression.Reason.MANUAL,
        widget=UnfoldAdminSelectWidget,
        help_text="For lines that name none.",
    )


class ConfirmForm(forms.Form):
    """The file and the choices of the first step, signed, so that nothing is kept in between."""

    payload = forms.CharField(widget=forms.HiddenInput)
    skip_invalid = forms.BooleanField(required=False, widget=UnfoldBooleanWidget)


@admin.register(Suppression)
class SuppressionAdmin(Admin):
    list_display = [
        "address", "reason_label", "scope", "short_words", "message_link", "created_at", "until", "hits", "last_hit_at",
    ]  # fmt: skip
    list_filter = ["reason", StateFilter, ScopeFilter, SinceCreated]
    list_select_related = ["organization"]
    search_fields = ["address", "words", "source_message_id", "organization__name", "sending_domain"]
    search_help_text = "Address, words, source message, organization or sending domain"
    autocomplete_fields = ["organization"]
    fields = [
        "address", "organization", "sending_domain", "reason", "words", "expires_at", "source_message_id",
        "created_by", "created_at", "hits", "last_hit_at",
    ]  # fmt: skip
    readonly_fields = ["source_message_id", "created_by", "created_at", "hits", "last_hit_at"]
    actions = ["remove"]
    list_before_template = "admin/queue/suppression/before_list.html"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj is not None else [name for name in self.fields if name not in self.readonly_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        scope = [] if obj is None else ["address", "organization", "sending_domain"]
        return [*self.readonly_fields, *scope]

    def get_actions(self, request: HttpRequest) -> Any:
        """One way to remove, which leaves a line of the trail."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        own = [
            path("import/", view(self.import_view), name="queue_suppression_import"),
            path("export/", view(self.export_view), name="queue_suppression_export"),
        ]
        return [*own, *super().get_urls()]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.created_by = request.user.get_username()
        super().save_model(request, obj, form, change)
        suppression_list.saved([obj], _actor(request), "changed" if change else "added")

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        suppression_list.remove(Suppression.objects.filter(pk=obj.pk), _actor(request))

    @admin.action(description="Remove from the list", permissions=["delete"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Suppression]) -> HttpResponse | None:
        count = queryset.count()
        if request.POST.get("confirmed") == "yes":
            removed = suppression_list.remove(queryset, _actor(request))
            words = (
                f"{removed} row{'' if removed == 1 else 's'} removed: mail goes there again from the next attempt on."
            )
            self.message_user(request, words, messages.SUCCESS)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Remove from the suppression list",
            "opts": self.opts,
            "action": "remove",
            "count": count,
            "sample": queryset.select_related("organization")[:10],
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
        }
        return TemplateResponse(request, REMOVE_TEMPLATE, context)

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a file; show what it would do; do it. Nothing is written before the last step."""
        if not (self.has_add_permission(request) and self.has_change_permission(request)):
            raise PermissionDenied
        if request.method == "POST" and "payload" in request.POST:
            return self._import_confirmed(request)
        form = ImportForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            return self._preview(request, form)
        return self._import_page(request, form=form)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """The rows that the list shows, by its filters and search, as a file."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            shown = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return HttpResponseRedirect(reverse("admin:queue_suppression_changelist"))
        ids = Suppression.objects.filter(pk__in=shown.order_by().values("pk"))
        headers = {"Content-Disposition": f'attachment; filename="suppressions-{timezone.now():%Y-%m-%d}.csv"'}
        return StreamingHttpResponse(
            suppression_files.write(ids), content_type="text/csv; charset=utf-8", headers=headers
        )

    def _preview(self, request: HttpRequest, form: ImportForm) -> HttpResponse:
        upload, organization = form.cleaned_data["file"], form.cleaned_data["organization"]
        octets = upload.read(settings.SUPPRESSION_IMPORT_SIZE + 1)
        if len(octets) > settings.SUPPRESSION_IMPORT_SIZE:
            form.add_error("file", f"The file is larger than {settings.SUPPRESSION_IMPORT_SIZE} octets.")
            return self._import_page(request, form=form)
        owner = organization.pk if organization is not None else None
        reason = form.cleaned_data["reason"]
        try:
            plan = suppression_files.read(octets, _scope(owner, reason), now=timezone.now())
        except Unreadable as error:
            form.add_error("file", str(error))
            return self._import_page(request, form=form)
        kept = {"text": octets.decode("utf-8-sig"), "organization": owner, "reason": reason, "name": upload.name}
        return self._preview_page(request, signing.dumps(kept, salt=_salt(request), compress=True), kept, plan)

    def _preview_page(self, request: HttpRequest, payload: str, kept: dict[str, Any], plan: Plan) -> HttpResponse:
        return self._import_page(
            request,
            plan=plan,
            counts=suppression_files.apply(plan, _actor(request), dry_run=True),
            confirm=ConfirmForm({"payload": payload}),
            name=kept["name"],
            whose=Organization.objects.filter(pk=kept["organization"]).first(),
        )

    def _import_confirmed(self, request: HttpRequest) -> HttpResponse:
        payload = request.POST["payload"]
        try:
            kept = signing.loads(payload, salt=_salt(request), max_age=_KEPT_SECONDS)
            scope = _scope(kept["organization"], kept["reason"])
            plan: Plan = suppression_files.read(kept["text"].encode(), scope, now=timezone.now())
        except (signing.BadSignature, Unreadable):
            self.message_user(request, "The preview is too old: choose the file again.", messages.WARNING)
            return HttpResponseRedirect(reverse("admin:queue_suppression_import"))
        if plan.problem_count and not request.POST.get("skip_invalid"):
            lines = "1 line" if plan.problem_count == 1 else f"{plan.problem_count} lines"
            words = f"Nothing was entered yet: {lines} cannot be used. Tick below to leave them out."
            self.message_user(request, words, messages.WARNING)
            return self._preview_page(request, payload, kept, plan)
        counts = suppression_files.apply(plan, _actor(request))
        words = f"{counts.added} added, {counts.updated} changed, {counts.unchanged} as they were."
        self.message_user(request, words, messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:queue_suppression_changelist"))

    def _import_page(self, request: HttpRequest, **context: Any) -> HttpResponse:
        page = {**self.admin_site.each_context(request), "title": "Import a suppression list", "opts": self.opts}
        return TemplateResponse(request, IMPORT_TEMPLATE, {**page, **context})

    @badge("reason", REASON_COLOURS, ordering="reason")
    def reason_label(self, row: Suppression) -> tuple[str, str]:
        return row.reason, row.get_reason_display()

    @admin.display(description="mail of", ordering="organization__name")
    def scope(self, row: Suppression) -> str:
        if row.organization is None:
            return "everybody"
        return f"{row.organization.name}: {row.sending_domain}" if row.sending_domain else row.organization.name

    @admin.display(description="words")
    def short_words(self, row: Suppression) -> str:
        return shorten(row.words, 60)

    @admin.display(description="source message")
    def message_link(self, row: Suppression) -> SafeString | str:
        if not row.source_message_id:
            return ""
        return link(
            f"{Message._meta.app_label}_message_change", row.source_message_id, text=shorten(row.source_message_id, 14)
        )

    @badge("until", {"expired": "info", "until": "warning", "always": "danger"}, ordering="expires_at")
    def until(self, row: Suppression) -> tuple[str, str]:
        if row.expires_at is None:
            return "always", "no end"
        expired = not row.is_in_force(timezone.now())
        return ("expired", "expired") if expired else ("until", f"{row.expires_at:%Y-%m-%d %H:%M}")


def _scope(organization_id: int | None, reason: str) -> Scope:
    return Scope(organization_id, is_fixed=False, reason=reason)


def _salt(request: HttpRequest) -> str:
    return f"suppressions.import.{request.user.pk}"


def _actor(request: HttpRequest) -> Actor:
    return Actor(request.user.get_username(), str(request.META.get("REMOTE_ADDR", "")))
