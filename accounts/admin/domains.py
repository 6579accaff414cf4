"""Admin pages of domains, with the records to publish and what was found of them, and of aliases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString

from accounts import aliases, dkim, domains
from accounts.admin.base import badge, by, count_of, shorten
from accounts.admin.dkim import DkimActions, tell_of_records
from accounts.admin.lines import LinesField
from accounts.admin.odmr import new_secrets
from accounts.admin.trailed import TrailedAdmin
from accounts.billing import plans
from accounts.billing.plans import PlanLimitReached
from accounts.dns_records import records_of
from accounts.models import Alias, DkimKey, Domain
from accounts.models.alias import MAX_TARGETS
from accounts.names import parse_address, parse_domain

if TYPE_CHECKING:
    _AliasForm = forms.ModelForm[Alias]
    _DomainForm = forms.ModelForm[Domain]
else:
    _AliasForm = _DomainForm = forms.ModelForm

RECORDS = "admin/accounts/domain/records.html"
_STATUS_COLOURS = {"verified": "success", "pending": "warning", "failed": "danger", "trusted": ""}
_STAYS = (
    "It is for good. To give a domain to another organization, delete it, without its mailboxes, and add it there: its "
    "aliases and keys go, and its new owner publishes new records."
)


class DomainForm(_DomainForm):
    """A new domain is for an organization whose plan allows one more, and takes no other organization's addresses in.

    The admin saves in the transaction that the form is checked in, so that a plan's limit holds.
    """

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        name, organization = data.get("name"), data.get("organization")
        if self.instance.pk is None and name and organization:
            try:
                domains.check_name(parse_domain(name), organization)
                plans.check_domains(organization)
            except domains.NameTaken as error:
                self.add_error("name", str(error))
            except PlanLimitReached as error:
                self.add_error("organization", str(error))
        return data


@admin.register(Domain)
class DomainAdmin(TrailedAdmin, DkimActions):
    trail_kind = "domain"
    form = DomainForm
    list_display = [
        "name", "organization", "status_label", "is_trusted", "is_active", "takes_mail", "delivery_label",
        "alias_count", "last_checked_at", "created_at",
    ]  # fmt: skip
    list_filter = ["status", "is_active", "accepts_mail", "delivery", "is_trusted"]
    list_select_related = ["organization"]
    search_fields = ["name", "organization__name"]
    autocomplete_fields = ["organization"]
    fieldsets = [
        (
            None,
            {"fields": ["name", "organization", "is_active", "accepts_mail", "is_trusted", "delivery", "next_hop"]},
        ),
        (
            "DNS",
            {"fields": ["state", "dns_records", "dkim_key_list", "verified_at", "last_checked_at", "next_check_at"]},
        ),
        ("Dates", {"fields": ["created_at", "updated_at"]}),
    ]
    readonly_fields = [
        "state", "dns_records", "dkim_key_list", "verified_at", "last_checked_at", "next_check_at", "created_at",
        "updated_at",
    ]  # fmt: skip
    actions = ["make_keys", "prepare_keys", "rotate_keys", "new_odmr_secret"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Name and organization are kept for good: addresses, mail and keys belong to them."""
        return [*super().get_readonly_fields(request, obj), *(["name", "organization"] if obj is not None else [])]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **{"help_texts": {"organization": _STAYS}, **kwargs})

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change:
            return
        try:
            tell_of_records(request, dkim.ensure_keys(obj, **by(request)))
        except dkim.CannotSign as error:
            messages.warning(request, str(error))

    def trail_words(self, obj: Any) -> str:
        return f"For the organization {obj.organization.name}."

    def change_words(self, obj: Any, names: Sequence[str]) -> str:
        words = {True: "on", False: "off"}
        shown = [(name, getattr(obj, name)) for name in names]
        return f"{', '.join(f'{name} is {words.get(value, value) or None} now' for name, value in shown)}."

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Its keys go with it, though nobody deletes one alone."""
        shown, counts, needed, protected = super().get_deleted_objects(objs, request)
        return shown, counts, needed - {DkimKey._meta.verbose_name}, protected

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fieldsets if obj is not None else self.fieldsets[:1]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        number = count_of(Alias.objects.all(), "domain")
        counted: QuerySet[Any] = super().get_queryset(request).annotate(alias_number=number)
        return counted

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One at a time, and none that mailboxes have addresses in."""
        return obj is not None and not domains.mailboxes_in(obj) and super().has_delete_permission(request, obj)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        domains.delete(obj, **by(request))

    def get_urls(self) -> list[URLPattern]:
        verify = self.admin_site.admin_view(self.verify_view)
        return [path("<path:object_id>/verify/", verify, name="accounts_domain_verify"), *super().get_urls()]

    def verify_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Look the records up now; what else stands in the page's form is not saved."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        domain = self.get_object(request, object_id)
        if domain is None or not self.has_change_permission(request, domain):
            raise PermissionDenied
        domains.verify(domain, **by(request))
        is_well = domain.is_trusted or domain.status == Domain.Status.VERIFIED
        words = f"{domain.name} was looked up: {domain.get_status_display().lower()}.{_also(domain)}"
        self.message_user(request, words, messages.SUCCESS if is_well else messages.WARNING)
        return HttpResponseRedirect(reverse("admin:accounts_domain_change", args=[domain.pk]))

    def has_new_secret_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.add_odmrsecret")

    @admin.action(description="New ODMR secret", permissions=["new_secret"])
    def new_odmr_secret(self, request: HttpRequest, queryset: QuerySet[Domain]) -> HttpResponse | None:
        return new_secrets(self, request, queryset)

    @badge("delivery", {"local": "success", "dial_up": "info"}, ordering="delivery")
    def delivery_label(self, domain: Domain) -> tuple[str, str]:
        return domain.delivery, "to its own host" if domain.is_dial_up else "here"

    @badge("status", _STATUS_COLOURS, ordering="status")
    def status_label(self, domain: Domain) -> tuple[str, str]:
        """What DNS says of a trusted domain is no trouble, and not in the colour of trouble."""
        if _needs_no_dns(domain):
            return "trusted", "Trusted, needs no DNS"
        return domain.status, domain.get_status_display()

    @admin.display(description="status")
    def state(self, domain: Domain) -> str:
        return f"{domain.get_status_display()}.{_also(domain)}"

    @admin.display(description="records to publish")
    def dns_records(self, domain: Domain) -> SafeString:
        checked = {(result["purpose"], result["name"]): result for result in domain.check_results}
        rows = [
            {
                "record": record,
                "texts": [record.name, f"{record.preference} {record.value}" if record.preference else record.value],
                "checked": checked.get((record.purpose.value, record.name)),
            }
            for record in records_of(domain)
        ]
        verify = reverse("admin:accounts_domain_verify", args=[domain.pk])
        return render_to_string(RECORDS, {"rows": rows, "verify": verify, "is_trusted": domain.is_trusted})

    @admin.display(description="takes mail", boolean=True)
    def takes_mail(self, domain: Domain) -> bool:
        return domain.takes_mail

    @admin.display(description="aliases", ordering="alias_number")
    def alias_count(self, domain: Any) -> int:
        return int(domain.alias_number)


def _needs_no_dns(domain: Domain) -> bool:
    return domain.is_trusted and domain.status != Domain.Status.VERIFIED


def _also(domain: Domain) -> str:
    return " It is trusted: it works without DNS records." if _needs_no_dns(domain) else ""


def _address(text: str) -> str:
    parse_address(text)
    return text


class AliasForm(_AliasForm):
    """The rules of the API; an alias of a mailbox's address would never get any mail."""

    targets = LinesField(
        _address, most=MAX_TARGETS, required=True, help_text="Addresses that the mail is forwarded to, one a line."
    )

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or self.cleaned_data
        domain, local_part = data.get("domain"), data.get("local_part")
        if not domain or not local_part:
            return data
        try:
            data["local_part"] = aliases.checked_local_part(local_part, domain)
        except aliases.InvalidAlias as error:
            self.add_error("local_part", str(error))
            return data
        names = ("domain", "local_part", "is_active", "targets")
        alias = Alias(**{name: data[name] for name in names if name in data})
        if aliases.is_mailbox(alias):
            self.add_error("local_part", "A mailbox has this address.")
        if "targets" in data and aliases.leads_to_itself(alias):
            self.add_error("targets", "An alias cannot lead to itself.")
        return data


@admin.register(Alias)
class AliasAdmin(TrailedAdmin):
    trail_kind = "alias"
    form = AliasForm
    list_display = ["__str__", "target_list", "announcement_label", "is_active", "created_at"]
    list_filter = ["announcement", "is_active"]
    list_select_related = ["domain"]
    search_fields = ["local_part", "domain__name", "targets"]
    autocomplete_fields = ["domain"]
    readonly_fields = ["created_at"]

    def trail_words(self, obj: Any) -> str:
        return aliases.words(obj)

    def change_words(self, obj: Any, names: Sequence[str]) -> str:
        return aliases.words(obj)

    @admin.display(description="forwards to")
    def target_list(self, alias: Alias) -> str:
        return shorten(", ".join(alias.targets))

    @badge("announcement", {"silent": "info", "told": "success", "moved": "warning"}, ordering="announcement")
    def announcement_label(self, alias: Alias) -> tuple[str, str]:
        return alias.announcement, alias.announcement
