"""Act on the queue in the admin: choose by a filter or in the list, see the count and a sample, confirm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.contrib.admin.sites import AdminSite
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from queue import actions, control, selection
from queue.control import Action, InvalidOrder
from queue.control.orders import WORDS
from queue.models import Entry, QueueAction
from queue.moments import MOMENT_WORDS
from queue.selection import InvalidSelection, Selection
from queue.selection_fields import FIELDS

if TYPE_CHECKING:
    UnfoldAdminTextInputWidget, UnfoldAdminSelectWidget = forms.TextInput, forms.Select
    UnfoldBooleanSwitchWidget = forms.CheckboxInput
else:
    from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

SAMPLE = 10
ORIGIN = "from"  # the page that asked, to return to; its value is the condition that names it
_PAGES = {"message": "admin:mailflow_message_change", "id": "admin:queue_entry_change"}
_MAX_FILTER = 100_000  # characters of JSON
_TITLES = {
    Action.HOLD: "Hold",
    Action.RELEASE: "Release",
    Action.RETRY: "Retry",
    Action.REROUTE: "Reroute",
    Action.EXPIRE: "Change the expiry",
    Action.FAIL: "Fail",
    Action.DELETE: "Delete",
}
_ENDING = {Action.FAIL, Action.DELETE}


def title_of(action: Action) -> str:
    return _TITLES[action]


class FilterForm(forms.Form):
    """Every condition that a selection may have, and what to do then."""

    action = forms.ChoiceField(
        choices=[(action.value, WORDS[action].rstrip(".")) for action in Action], widget=UnfoldAdminSelectWidget
    )

    def __init__(self, data: Mapping[str, Any] | None = None, initial: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, initial=dict(initial or {}))
        for field in FIELDS.values():
            self.fields[field.name] = _flag(field.help) if field.is_flag else _line(field.help, str(field.example))
        self.fields["all"] = forms.ChoiceField(
            choices=[("", "Only what the conditions mean"), ("true", "Every entry of the queue")],
            required=False, widget=UnfoldAdminSelectWidget, help_text="Where no condition is given.",
        )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        given = {name: value for name, value in self.cleaned_data.items() if value and name != "action"}
        try:
            self.chosen = selection.parse(given, timezone.now(), needs_one=True)
        except InvalidSelection as error:
            for name, sentence in error.errors.items():
                self.add_error(name if name in self.fields else None, sentence)
        return self.cleaned_data


class OrderForm(forms.Form):
    """The parameters of one action."""

    def __init__(self, action: Action, actor: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data)
        self.action, self.actor = action, actor
        time = f"{_sentence(MOMENT_WORDS)}."
        match action:
            case Action.RETRY:
                self.fields["at"] = _line(f"{time} Empty: now.", "now")
            case Action.REROUTE:
                self.fields["route"] = _line(
                    "A host or host:port. Empty: by the rules again.", "relay.example.com:2525"
                )
            case Action.EXPIRE:
                self.fields["expires_at"] = _line(time, "2d")
                self.fields["max_attempts"] = _line("A whole number.", "10")
            case Action.FAIL:
                self.fields["dsn"] = forms.BooleanField(
                    label="Report to the sender", required=False, initial=True, widget=UnfoldBooleanSwitchWidget,
                    help_text="Off: nobody is told.",
                )  # fmt: skip
            case _:
                pass
        told = " The sender reads it in the report." if action is Action.FAIL else ""
        self.fields["reason"] = _line(f"For the events and the trail.{told}", "why")

    def clean(self) -> dict[str, Any]:
        try:
            self.order = control.parse_order(self.action.value, self.cleaned_data, actor=self.actor, now=timezone.now())
        except InvalidOrder as error:
            for name, sentence in error.errors.items():
                self.add_error(name if name in self.fields else None, sentence)
        return self.cleaned_data


def act_view(request: HttpRequest, site: AdminSite, may_act: bool) -> HttpResponse:
    """First the filter, then what it means and the parameters, then the answer."""
    if not may_act:
        raise PermissionDenied
    if request.method == "POST":
        return _carry_out(request, site)
    wants_answer = "action" in request.GET and "edit" not in request.GET
    form = FilterForm(request.GET if wants_answer else None, initial={name: request.GET[name] for name in request.GET})
    if wants_answer and form.is_valid():
        back = _origin(request, form.chosen) or f"?{_edited(request)}"
        return confirmation(request, site, Action(form.cleaned_data["action"]), form.chosen, back=back)
    context = {**site.each_context(request), "title": "Act on the queue", "opts": Entry._meta, "form": form}
    return TemplateResponse(request, "admin/queue/entry/act.html", context)


def confirmation(
    request: HttpRequest,
    site: AdminSite,
    action: Action,
    chosen: Selection,
    *,
    back: str,
    form: OrderForm | None = None,
    ended: int = 0,
) -> HttpResponse:
    """Show how many open entries are meant, some of them, and what else there is to say; nothing is done yet."""
    entries = chosen.open_entries()
    count = selection.count(entries)
    context = {
        **site.each_context(request),
        "title": title_of(action),
        "opts": Entry._meta,
        "action": action.value,
        "question": f"{title_of(action)} of" if action is Action.EXPIRE else title_of(action),
        "words": _sentence(WORDS[action].partition(": ")[2]),
        "is_ending": action in _ENDING,
        "count": count,
        "ended": ended,
        "described": chosen.words,
        "sample": entries.select_related("message").order_by("-message_id", "-id")[:SAMPLE],
        "filter": json.dumps(dict(chosen.wanted) or {selection.ALL: True}),
        "form": form or OrderForm(action, ""),
        "back": back,
        "back_address": f"{reverse('admin:queue_entry_act')}{back}" if _is_edited(back) else _place(back),
        "is_large": count.is_more or count.number > actions.AT_ONCE,
    }
    return TemplateResponse(request, "admin/queue/entry/confirm.html", context)


def _carry_out(request: HttpRequest, site: AdminSite) -> HttpResponse:
    back = request.POST.get("back", "")
    try:
        action = Action(request.POST.get("action", ""))
        given = json.loads(request.POST.get("filter", "")[:_MAX_FILTER])
        chosen = selection.parse(given if isinstance(given, dict) else {}, timezone.now(), needs_one=True)
    except (ValueError, InvalidSelection):
        messages.error(request, "The form was not complete; nothing was done.")
        return HttpResponseRedirect(reverse("admin:queue_entry_act"))
    form = OrderForm(action, request.user.get_username(), request.POST)
    if not form.is_valid():
        return confirmation(request, site, action, chosen, back=back, form=form)
    address = request.META.get("REMOTE_ADDR", "")
    done = actions.perform(form.order, chosen, door="admin", client_address=address)
    if done.finished_at is None:
        return HttpResponseRedirect(reverse("admin:queue_queueaction_change", args=[done.pk]))
    _tell(request, done)
    return HttpResponseRedirect(_place(back))


def _tell(request: HttpRequest, done: QueueAction) -> None:
    order, tally = actions.order_of(done), actions.tally_of(done)
    words = f"{_sentence(order.words)}: {tally.words}."
    messages.add_message(request, messages.SUCCESS if tally.done else messages.WARNING, words)


def _place(back: str) -> str:
    """Return the page that asked, or the list as it was shown.

    Only a name of ours, an id and a query come from the form, so nobody is led elsewhere.
    """
    page, _, name = back.partition(":")
    if page in _PAGES and name and "/" not in name:
        return reverse(_PAGES[page], args=[quote(name)])
    query = back.partition("?")[2] if "?" in back and not _is_edited(back) else ""
    return reverse("admin:queue_entry_changelist") + (f"?{query}" if query else "")


def _origin(request: HttpRequest, chosen: Selection) -> str:
    """Return the page of one message or entry, where its button led here and nothing else is meant than it."""
    page = request.GET.get(ORIGIN, "")
    values = chosen.wanted.get(page, []) if page in _PAGES else []
    return f"{page}:{values[0]}" if len(values) == len(chosen.wanted) == 1 else ""


def _is_edited(back: str) -> bool:
    return "edit=" in back


def _edited(request: HttpRequest) -> str:
    query = request.GET.copy()
    query["edit"] = "1"
    return query.urlencode()


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"


def _line(help_text: str, example: str) -> forms.CharField:
    widget = UnfoldAdminTextInputWidget(attrs={"placeholder": example, "autocomplete": "off"})
    return forms.CharField(required=False, max_length=2000, widget=widget, help_text=help_text)


def _flag(help_text: str) -> forms.ChoiceField:
    choices = [("", "either"), ("true", "yes"), ("false", "no")]
    return forms.ChoiceField(choices=choices, required=False, widget=UnfoldAdminSelectWidget, help_text=help_text)
