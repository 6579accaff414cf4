"""Admin page of destinations: what each may get, what it has taught, who uses it, and what waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import connection
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts import trail
from accounts.admin.base import Admin, CappedPaginator, List, badge, by, shorten
from accounts.names import InvalidName, parse_domain
from queue.models import Destination, Entry
from queue.pacing import ledger, standing
from queue.pacing.standing import Standing, spoken

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[Destination]
else:
    _ModelForm = forms.ModelForm

LIMITS = ("max_connections", "per_minute", "note")
LEARNED = (
    "state", "connections", "workers", "waiting_count", "learned", "failures", "paused_until", "failure",
    "failed_at", "answered_at", "used_at",
)  # fmt: skip
MAX_COUNTED = 1000  # entries of one destination; a list must open beside a million of them


class ByCondition(admin.SimpleListFilter):
    """Destinations that get less than their limit, or nothing."""

    title = "condition"
    parameter_name = "condition"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("paused", "Paused"), ("slowed", "Slowed down"), ("limited", "With limits of its own")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Destination]) -> QuerySet[Destination]:
        match self.value():
            case "paused":
                return queryset.filter(paused_until__gt=timezone.now())
            case "slowed":
                return queryset.filter(learned__isnull=False)
            case "limited":
                return queryset.filter(Q(max_connections__isnull=False) | Q(per_minute__isnull=False))
        return queryset


class DestinationForm(_ModelForm):
    """A domain is written in the one form under which mail for it is looked up."""

    def clean_domain(self) -> str:
        domain: str = self.cleaned_data["domain"]
        if domain.startswith("["):  # an address literal, as mail is sent to it
            return domain.lower()
        try:
            return parse_domain(domain)
        except InvalidName as error:
            raise forms.ValidationError(f"This is no domain: {error}.") from None


class _Destinations(List):
    """A page of destinations, each with its standing and what waits for it: read once for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        found, waiting = standing.of_rows(self.result_list, timezone.now()), waiting_counts(self.result_list)
        for row in self.result_list:
            row.standing, row.waiting = found[row.domain], waiting[row.domain]


@admin.register(Destination)
class DestinationAdmin(Admin):
    """Limits are edited; the rest is learned, and forgotten by the action."""

    form = DestinationForm
    paginator = CappedPaginator
    list_display = ["domain", "condition", "connections", "rate", "waiting_count", "last_sign", "used_at"]
    list_filter = [ByCondition]
    search_fields = ["domain", "note", "failure"]
    search_help_text = "Domain, note or words of the last failure"
    fields = ["domain", *LIMITS, *LEARNED]
    actions = ["resume"]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[List]:
        return _Destinations

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*LEARNED, "domain"] if obj else [*LEARNED]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.standing = standing.of_rows([row], timezone.now())[row.domain]
            row.waiting = waiting_counts([row])[row.domain]
        return row

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write the limits alone, for workers write the rest meanwhile; leave a line in the trail."""
        if change:
            limits = {name: getattr(obj, name) for name in LIMITS}
            Destination.objects.filter(pk=obj.pk).update(**limits)
        else:
            obj.used_at = timezone.now()
            obj.save()
        told = [f"{name}: {getattr(obj, name)}" for name in form.changed_data]
        leave_trail(request, "destination.changed", obj.domain, "; ".join(told) or "Nothing changed.")

    @admin.action(description="Resume now, and forget what was learned", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Destination]) -> HttpResponse | None:
        """Ask first, telling the count and what they suffer from."""
        domains = list(queryset.values_list("domain", flat=True))
        if request.POST.get("confirmed") == "yes":
            count = ledger.reset(domains)
            for domain in domains:
                leave_trail(request, "destination.resumed", domain, "The pause and what was learned are forgotten.")
            words = f"{count} destination{'s' if count != 1 else ''} resumed; workers begin within some seconds."
            self.message_user(request, words, messages.SUCCESS)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Resume destinations",
            "opts": self.opts,
            "count": len(domains),
            "sample": queryset[:10],
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
        }
        return TemplateResponse(request, "admin/queue/destination/confirm.html", context)

    @badge("condition", {"open": "success", "slowed": "warning", "paused": "danger"})
    def condition(self, row: Any) -> tuple[str, str]:
        found: Standing | None = getattr(row, "standing", None)
        if found is None:
            return "open", "Open"
        now = timezone.now()
        if not found.capacity and row.paused_until is not None:
            return "paused", f"Paused until {spoken(row.paused_until, now)}"
        return ("slowed", "Slowed down") if found.capacity < found.cap else ("open", "Open")

    @admin.display(description="condition")
    def state(self, row: Any) -> str:
        """The same in words: the page of one row shows no label."""
        return self.condition(row)[1]

    @admin.display(description="connections")
    def connections(self, row: Any) -> str:
        found: Standing | None = getattr(row, "standing", None)
        if found is None:
            return "–"
        less = f" (limit {found.cap})" if found.capacity != found.cap else ""
        return f"{found.in_use} of {found.capacity} in use{less}"

    @admin.display(description="in use by")
    def workers(self, row: Any) -> SafeString | str:
        found: Standing | None = getattr(row, "standing", None)
        uses = found.uses if found else []
        lines = format_html_join(
            "", "<li>{}: {} of {} that it holds</li>", ((u.worker, u.in_use, u.held) for u in uses)
        )
        return format_html("<ul>{}</ul>", lines) if uses else "no worker"

    @admin.display(description="a minute", ordering="per_minute")
    def rate(self, row: Any) -> str:
        found: Standing | None = getattr(row, "standing", None)
        if row.per_minute is None:
            return "no limit"
        now = timezone.now()
        is_reached = found is not None and found.next_at is not None and found.next_at > now
        return f"{row.per_minute}" + (f"; next at {spoken(found.next_at, now)}" if is_reached and found else "")  # type: ignore[arg-type]

    @admin.display(description="waiting")
    def waiting_count(self, row: Any) -> str:
        count = getattr(row, "waiting", 0)
        return f"{MAX_COUNTED} or more" if count >= MAX_COUNTED else str(count)

    @admin.display(description="last sign against it", ordering="failed_at")
    def last_sign(self, row: Destination) -> str:
        if row.failed_at is None:
            return ""
        return f"{spoken(row.failed_at, timezone.now())}: {shorten(row.failure, 80)}"


def waiting_counts(rows: Sequence[Destination]) -> Mapping[str, int]:
    """Count the open entries of each, up to `MAX_COUNTED`, with one query."""
    if not rows:
        return {}
    table = connection.ops.quote_name(Entry._meta.db_table)
    one = (
        f"(SELECT count(*) FROM (SELECT 1 FROM {table} WHERE domain = %s AND next_attempt_at IS NOT NULL"  # noqa: S608
        f" LIMIT {MAX_COUNTED}) AS counted)"
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join([one] * len(rows)), [row.domain for row in rows])
        counts = cursor.fetchone()
    return {row.domain: count for row, count in zip(rows, counts, strict=True)}


def leave_trail(request: HttpRequest, kind: str, subject: str, detail: str) -> None:
    trail.leave([trail.entry(kind, subject, detail, by(request))])
