"""Admin page of DKIM keys with the records to publish, and the actions on a domain's keys; no private key is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from accounts import dkim
from accounts.admin.base import Admin, ReadOnlyAdmin, badge, by, link
from accounts.models import DkimKey, Domain

MAX_AT_ONCE = 100  # domains in one action: making keys takes processor time
_SHOWN = 10
_STATE_COLOURS = {"active": "success", "prepared": "info", "retired": "warning"}
_WHOLE = "font-family: monospace; overflow-wrap: anywhere; user-select: all"  # one click selects it all


def may_change_keys(request: HttpRequest) -> bool:
    return request.user.has_perm("accounts.change_dkimkey")


def confirm(
    page: Admin, request: HttpRequest, *, action: str, title: str, question: str, button: str, items: Sequence[Model]
) -> HttpResponse:
    """Ask before an action is carried out; the answer comes back with `confirmed`."""
    context = {
        **page.admin_site.each_context(request),
        "title": title,
        "opts": page.opts,
        "action": action,
        "question": question,
        "button": button,
        "sample": items[:_SHOWN],
        "more": max(0, len(items) - _SHOWN),
        "checkbox_name": ACTION_CHECKBOX_NAME,
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "select_across": request.POST.get("select_across", "0"),
    }
    return TemplateResponse(request, "admin/accounts/confirm.html", context)


@admin.register(DkimKey)
class DkimKeyAdmin(ReadOnlyAdmin):
    """Keys are made and rotated on the page of domains; here they are looked at and retired."""

    list_display = ["selector", "domain_link", "algorithm_name", "state_label", "created_at", "record_hint"]
    list_filter = ["state", "algorithm"]
    list_select_related = ["domain"]
    search_fields = ["selector", "domain__name"]
    ordering = ["-pk"]
    actions = ["retire"]
    fieldsets = [
        (None, {"fields": ["domain", "selector", "algorithm", "state"]}),
        (
            "The record to publish",
            {
                "fields": ["record_hint", "record_name", "record_type", "record_value", "zone_line"],
                "description": "One click selects a whole value. Where a form takes no more than 255 characters at "
                "once, enter the pieces of the last line one after another.",
            },
        ),
        ("Dates", {"fields": ["created_at", "activated_at", "retired_at"]}),
    ]

    def has_keys_permission(self, request: HttpRequest) -> bool:
        return may_change_keys(request)

    @admin.action(description="Retire", permissions=["keys"])
    def retire(self, request: HttpRequest, queryset: QuerySet[DkimKey]) -> HttpResponse | None:
        keys = list(queryset.exclude(state=DkimKey.State.RETIRED).select_related("domain"))
        if request.POST.get("confirmed") == "yes":
            count = sum(dkim.retire(key, **by(request)) for key in keys)
            words = f"{count} {_noun(count)} retired."
            self.message_user(request, words, messages.SUCCESS if count else messages.WARNING)
            return None
        return confirm(
            self,
            request,
            action="retire",
            title="Retire DKIM keys",
            question=f"Retire {len(keys)} {_noun(len(keys))}? The private part is erased and cannot be brought back. "
            "Mail of a domain that has no active key left goes out unsigned.",
            button="Retire",
            items=keys,
        )

    @admin.display(description="domain", ordering="domain__name")
    def domain_link(self, key: DkimKey) -> SafeString:
        return link("accounts_domain_change", key.domain_id, text=key.domain.name)

    @admin.display(description="algorithm", ordering="algorithm")
    def algorithm_name(self, key: DkimKey) -> str:
        return key.get_algorithm_display()

    @badge("state", _STATE_COLOURS, ordering="state")
    def state_label(self, key: DkimKey) -> tuple[str, str]:
        return key.state, key.get_state_display()

    @admin.display(description="the record")
    def record_hint(self, key: DkimKey) -> str:
        if key.state == DkimKey.State.PREPARED:
            return "Publish it now, and rotate once DNS has it."
        until = dkim.published_until(key)
        if until is None:
            return "Must be published."
        if not dkim.is_to_be_published(key, timezone.now()):
            return "May be removed."
        return f"Keep it published until {date_format(until, 'DATE_FORMAT')}."

    @admin.display(description="name")
    def record_name(self, key: DkimKey) -> SafeString:
        return format_html('<code style="{}">{}</code>', _WHOLE, dkim.record_of(key).name)

    @admin.display(description="type")
    def record_type(self, key: DkimKey) -> str:
        return "TXT"

    @admin.display(description="value")
    def record_value(self, key: DkimKey) -> SafeString:
        return format_html('<code style="{}">{}</code>', _WHOLE, dkim.record_of(key).value)

    @admin.display(description="as a line of a zone file")
    def zone_line(self, key: DkimKey) -> SafeString:
        return format_html('<code style="{}">{}</code>', _WHOLE, dkim.record_of(key).zone_line)


class DkimActions(Admin):
    """What the page of domains shows of keys and does with them. Each domain is changed in a transaction of its own."""

    @admin.display(description="DKIM keys")
    def dkim_key_list(self, domain: Domain) -> SafeString | str:
        if domain.pk is None:
            return "They are made with the domain."
        keys = domain.dkim_keys.select_related("domain").order_by("-created_at", "-algorithm")
        lines = [
            (link("accounts_dkimkey_change", key.pk, text=key.selector), key.get_algorithm_display(), key.state)
            for key in keys
        ]
        return format_html_join(mark_safe("<br>"), "{} · {}, {}", lines) or "None: choose “Make missing DKIM keys”."

    def has_keys_permission(self, request: HttpRequest) -> bool:
        return may_change_keys(request)

    @admin.action(description="Make missing DKIM keys", permissions=["keys"])
    def make_keys(self, request: HttpRequest, queryset: QuerySet[Domain]) -> HttpResponse | None:
        ask = "Make the DKIM keys that {} lack{}? They sign from then on; publish their records."
        return self._with_keys(request, queryset, "make_keys", "Make missing DKIM keys", ask, "Make", dkim.ensure_keys)

    @admin.action(description="Prepare new DKIM keys", permissions=["keys"])
    def prepare_keys(self, request: HttpRequest, queryset: QuerySet[Domain]) -> HttpResponse | None:
        ask = "Make successors of the DKIM keys of {}? Publish their records; nothing else changes until you rotate."
        return self._with_keys(request, queryset, "prepare_keys", "Prepare new DKIM keys", ask, "Prepare", dkim.prepare)

    @admin.action(description="Rotate DKIM keys", permissions=["keys"])
    def rotate_keys(self, request: HttpRequest, queryset: QuerySet[Domain]) -> HttpResponse | None:
        ask = (
            "Rotate the DKIM keys of {}? Prepared keys sign from then on, or new ones where none are prepared: until "
            "their records are published, signatures cannot be verified. The private parts of the old keys are erased."
        )
        return self._with_keys(request, queryset, "rotate_keys", "Rotate DKIM keys", ask, "Rotate", dkim.rotate)

    def _with_keys(
        self,
        request: HttpRequest,
        queryset: QuerySet[Domain],
        action: str,
        title: str,
        ask: str,
        button: str,
        act: Callable[..., Sequence[DkimKey]],
    ) -> HttpResponse | None:
        domains = list(queryset.order_by("name")[: MAX_AT_ONCE + 1])
        if len(domains) > MAX_AT_ONCE:
            words = f"At most {MAX_AT_ONCE} domains at once. For all of them: manage.py dkimkey create --all."
            self.message_user(request, words, messages.ERROR)
            return None
        if request.POST.get("confirmed") != "yes":
            number = len(domains)
            question = ask.format(f"{number} domain{'' if number == 1 else 's'}", "s" if number == 1 else "")
            return confirm(self, request, action=action, title=title, question=question, button=button, items=domains)
        self._act(request, domains, act)
        return None

    def _act(self, request: HttpRequest, domains: Iterable[Domain], act: Callable[..., Sequence[DkimKey]]) -> None:
        changed: list[DkimKey] = []
        for domain in domains:
            try:
                changed += act(domain, **by(request))
            except dkim.CannotSign as error:
                self.message_user(request, str(error), messages.ERROR)
        tell_of_records(request, changed)


def tell_of_records(request: HttpRequest, keys: Sequence[DkimKey]) -> None:
    """Say which records are to be published now, with links to them."""
    if not keys:
        messages.warning(request, "Nothing was missing: no key was made.")
        return
    links = [link("accounts_dkimkey_change", key.pk, text=str(key)) for key in keys[:_SHOWN]]
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    words = format_html(("{}, " * len(links)).removesuffix(", ") + "{}", *links, more)
    messages.success(request, format_html("Publish the records of {} {}: {}.", len(keys), _noun(len(keys)), words))


def _noun(count: int) -> str:
    return "DKIM key" if count == 1 else "DKIM keys"
