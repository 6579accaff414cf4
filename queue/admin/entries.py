"""Admin pages of the queue: the list with its actions, and the queue domain by domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.admin.base import List, ReadOnlyAdmin, badge, link, shorten
from queue import overview, selection
from queue.admin import acting, buttons
from queue.admin.entry_filters import FILTERS, selection_of
from queue.control import Action
from queue.models import Attempt, Entry
from queue.selection_fields import FIELDS
from queue.states import state_of
from queue.waiting import around, waiting_for

if TYPE_CHECKING:
    _Inline = admin.TabularInline[Any, Any]
else:
    from unfold.admin import TabularInline as _Inline

SHORT = 5000  # open entries that are sorted in no time
ENTRY_COLOURS = {
    "pending": "info",
    "retry": "warning",
    "held": "warning",
    "scheduled": "info",
    "delivered": "success",
    "bounced": "danger",
    "failed": "danger",
}


class AttemptInline(_Inline):
    model = Attempt
    fields = [
        "number",
        "outcome",
        "transport",
        "next_hop",
        "tls",
        "tls_policy",
        "is_verified",
        "code",
        "reply",
        "started_at",
        "ended_at",
        "worker",
    ]
    ordering = ["number"]
    extra = 0
    can_delete = False
    verbose_name_plural = "attempts"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _asking(action: Action) -> Any:
    """Make the list's action of that name: it shows what is meant and asks; `acting` does it."""

    @admin.action(description=acting.title_of(action), permissions=["control"])
    def ask(self: EntryAdmin, request: HttpRequest, queryset: QuerySet[Entry]) -> HttpResponse | None:
        return self.ask(action, request, queryset)

    ask.__name__ = action.value
    return ask


class _Entries(List):
    """A page of entries, each with what is known of its destination: read once for all of them."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        about = around(self.result_list, timezone.now())
        for entry in self.result_list:
            entry.about = about


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    list_display = ["recipient", "status_label", "message_link", "tries", "next_attempt", "short_reply"]
    list_filter = FILTERS
    list_select_related = ["message"]
    search_fields = ["recipient"]  # `get_search_results` says what is searched
    search_help_text = "Message id, address or domain, which are found at once; or words in recipient, subject or reply"
    actions = [_asking(action) for action in Action]
    inlines = [AttemptInline]
    change_form_template = "admin/queue/entry/change_form.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[List]:
        return _Entries

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("domains/", view(self.domains_view), name="queue_entry_domains"),
            path("act/", view(self.act_view), name="queue_entry_act"),
            *super().get_urls(),
        ]

    def has_control_permission(self, request: HttpRequest) -> bool:
        """Acting on the queue needs the model's change permission, though nobody edits a row by hand."""
        return request.user.has_perm("queue.change_entry")

    def get_ordering(self, request: HttpRequest) -> list[Any] | tuple[Any, ...]:
        """The newest first. An index has them so, but among all entries: a short queue is sorted instead."""
        is_short = getattr(request, "queue_is_short", None)
        if is_short is None:  # Django asks for the order twice
            is_short = Entry.objects.filter(Entry.IS_OPEN).order_by().values("pk")[: SHORT + 1].count() <= SHORT
            request.queue_is_short = is_short  # type: ignore[attr-defined]
        return [Coalesce("message_id", Value("")).desc(), "-pk"] if is_short else super().get_ordering(request)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Entry], search_term: str
    ) -> tuple[QuerySet[Entry], bool]:
        term = search_term.strip()
        return (queryset.filter(FIELDS["search"].condition(term)) if term else queryset), False

    def ask(self, action: Action, request: HttpRequest, queryset: QuerySet[Entry]) -> HttpResponse | None:
        """Show what the action would be done to: the ticked entries, or all that the list shows."""
        if request.POST.get("select_across") == "1":
            chosen = selection_of(request)
        else:
            ids = [int(pk) for pk in request.POST.getlist(ACTION_CHECKBOX_NAME) if pk.isascii() and pk.isdigit()]
            chosen = selection.of_entries(ids[:1000])
        if chosen is None:
            words = (
                "Nothing was done: what the list shows has ended, or is no selection that can be acted on as a whole."
            )
            self.message_user(request, f"{words} Tick the rows that are meant.", messages.WARNING)
            return None
        back = f"?{request.GET.urlencode()}" if request.GET else ""
        return acting.confirmation(request, self.admin_site, action, chosen, back=back)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        entry = self.get_object(request, unquote(object_id))
        if entry is not None and self.has_view_permission(request, entry):
            now = timezone.now()
            state = state_of(entry)
            extra_context = {
                **(extra_context or {}),
                "state": state,
                "state_colour": ENTRY_COLOURS.get(state.name, "info"),
                "waits_for": waiting_for(entry, now, around([entry], now)),
                "buttons": buttons.of_entry(entry, now) if self.has_control_permission(request) else [],
            }
        return super().change_view(request, object_id, form_url, extra_context)

    def act_view(self, request: HttpRequest) -> HttpResponse:
        return acting.act_view(request, self.admin_site, self.has_control_permission(request))

    def domains_view(self, request: HttpRequest) -> HttpResponse:
        """The queue domain by domain; counted every ten seconds at most."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        found = overview.recent()
        context = {
            **self.admin_site.each_context(request),
            "title": "Queue by domain",
            "opts": self.opts,
            "overview": found,
            "most": max((figures.waiting for figures in found.domains), default=1),
            "may_act": self.has_control_permission(request),
        }
        return TemplateResponse(request, "admin/queue/entry/domains.html", context)

    @badge("status", ENTRY_COLOURS, ordering="status")
    def status_label(self, entry: Entry) -> tuple[str, str]:
        return state_of(entry)

    @admin.display(description="message", ordering="message_id")
    def message_link(self, entry: Entry) -> SafeString:
        text = shorten(entry.message.subject, 32) or entry.message_id
        return link("mailflow_message_change", entry.message_id, text=text)

    @admin.display(description="attempts", ordering="attempts")
    def tries(self, entry: Entry) -> str:
        return f"{entry.attempts} of {entry.max_attempts}"

    @admin.display(description="next attempt", ordering="next_attempt_at")
    def next_attempt(self, entry: Entry) -> SafeString | str:
        about = getattr(entry, "about", None) or around([entry], timezone.now())
        words = waiting_for(entry, timezone.now(), about)
        if not words:
            return ""
        at = date_format(entry.next_attempt_at, "DATETIME_FORMAT") if entry.next_attempt_at else "none"
        simulated = ", simulated time" if about.ahead and entry.is_sandbox and not entry.lease else ""
        way = format_html("<br><small>goes by {}</small>", entry.route) if entry.route else ""
        return format_html("{}{}<br><small>waits for {}</small>{}", at, simulated, words, way)

    @admin.display(description="last reply")
    def short_reply(self, entry: Entry) -> str:
        return shorten(entry.last_reply, 60)
