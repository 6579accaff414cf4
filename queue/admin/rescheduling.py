"""The admin's page that sends a scheduled message now or at another time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django import forms
from django.contrib import messages
from django.contrib.admin.sites import AdminSite
from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from mailflow.models import Message
from queue import control
from queue.control import NotScheduled
from queue.models import Entry
from queue.moments import MOMENT_WORDS, InvalidMoment

if TYPE_CHECKING:
    UnfoldAdminTextInputWidget = forms.TextInput
else:
    from unfold.widgets import UnfoldAdminTextInputWidget


class TimeForm(forms.Form):
    """When it is to be sent."""

    at = forms.CharField(
        max_length=100,
        label="Time of sending",
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "2h", "autocomplete": "off"}),
        help_text=f"now; or {MOMENT_WORDS}.",
    )

    def clean(self) -> dict[str, object]:
        try:
            self.time = control.parse_time_to_send(self.cleaned_data.get("at", ""), timezone.now())
        except InvalidMoment as error:
            self.add_error("at", f"{str(error)[:1].upper()}{str(error)[1:]}.")
        return self.cleaned_data


def answer(request: HttpRequest, site: AdminSite, message: Message) -> HttpResponse:
    """Ask for the time; put the message there; return to its page."""
    page = reverse("admin:mailflow_message_change", args=[quote(message.pk)])
    form = TimeForm(request.POST if request.method == "POST" else None, initial={"at": request.GET.get("at", "")})
    if request.method == "POST" and form.is_valid():
        _put(request, message, form)
        return HttpResponseRedirect(page)
    waiting = Entry.objects.filter(Entry.IS_OPEN, message=message, scheduled_at__isnull=False, attempts=0)
    context = {
        **site.each_context(request),
        "title": "Reschedule",
        "own_heading": True,
        "opts": Message._meta,
        "original": message,
        "form": form,
        "scheduled_at": waiting.order_by("scheduled_at").values_list("scheduled_at", flat=True).first(),
        "count": waiting.count(),
        "page": page,
    }
    return TemplateResponse(request, "admin/mailflow/message/reschedule.html", context)


def _put(request: HttpRequest, message: Message, form: TimeForm) -> None:
    actor, address = request.user.get_username(), str(request.META.get("REMOTE_ADDR", ""))
    try:
        count = control.reschedule(message, form.time, actor=actor, now=timezone.now(), client_address=address)
    except NotScheduled as error:
        messages.warning(request, f"It cannot be rescheduled. {error}")
        return
    many = f"{count:,} recipient{'' if count == 1 else 's'}"
    messages.success(request, f"Scheduled for {form.time:%Y-%m-%d %H:%M:%S} UTC, for {many}.")
