"""Admin page of the sandbox: what its clock says and what waits by it, time to pass, and how its addresses behave."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from accounts.admin.base import Admin
from queue.models import SandboxClock
from queue.simulation import advance, clock, spans
from queue.simulation.advance import Advance
from queue.simulation.personas import DOMAIN, PERSONAS

SPANS = ("10m", "1h", "4h", "1d", "5d")
SECONDS = 15.0  # of the person's; what is not done then goes on with another push of the button


@admin.register(SandboxClock)
class SandboxClockAdmin(Admin):
    """One page in the place of list and form: there is one clock."""

    def get_urls(self) -> list[URLPattern]:
        return [
            path("", self.admin_site.admin_view(self.clock_view), name="queue_sandboxclock_changelist"),
            path("advance/", self.admin_site.admin_view(self.advance_view), name="queue_sandboxclock_advance"),
            path("reset/", self.admin_site.admin_view(self.reset_view), name="queue_sandboxclock_reset"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def clock_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        ahead, now = clock.ahead(), clock.now()
        return self._page(
            request,
            "clock",
            "Sandbox",
            now=now,
            ahead=spans.words(ahead) if ahead else "",
            waiting=advance.waiting(now + advance.FAR).count(),
            first_due=advance.first_due(now),
            spans=SPANS,
            personas=PERSONAS.values(),
            domain=DOMAIN,
            may_change=self.has_change_permission(request),
        )

    def advance_view(self, request: HttpRequest) -> HttpResponse:
        """Ask first, telling what would become due; on the answer let the time pass."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        text = request.POST.get("span", "").strip()
        try:
            span = spans.parse(text)
        except ValueError as error:
            self.message_user(request, f"{error}.", messages.ERROR)
            return _back()
        if request.POST.get("confirmed") == "yes":
            self._pass_time(request, span)
            return _back()
        now = clock.now()
        waiting, due = advance.waiting(now + advance.FAR).count(), advance.waiting(now + span).count()
        return self._page(
            request, "confirm", "Let time pass", action="advance", span=text, until=now + span, waiting=waiting, due=due
        )

    def _pass_time(self, request: HttpRequest, span: dt.timedelta) -> None:
        run = Advance(clock.now() + span, actor=request.user.get_username(), seconds=SECONDS)
        summary = run.run()
        passed = spans.words(summary.ended_at - summary.started_at)
        if summary.is_complete:
            self.message_user(request, f"{passed} passed: {summary.tally.words()}.", messages.SUCCESS)
        else:
            words = f"After {SECONDS:g} s {passed} had passed: {summary.tally.words()}. Push again for the rest."
            self.message_user(request, words, messages.WARNING)

    def reset_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        if request.POST.get("confirmed") == "yes":
            count = clock.reset(actor=request.user.get_username())
            words = f"The sandbox is back in real time; {count} waiting entr{'y' if count == 1 else 'ies'} came along."
            self.message_user(request, words, messages.SUCCESS)
            return _back()
        ahead, now = clock.ahead(), clock.now()
        waiting = advance.waiting(now + advance.FAR).count()
        title = "Back to real time"
        return self._page(request, "confirm", title, action="reset", waiting=waiting, ahead=spans.words(ahead))

    def _page(self, request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
        context |= {**self.admin_site.each_context(request), "title": title, "opts": self.opts}
        return TemplateResponse(request, f"admin/queue/sandboxclock/{template}.html", context)


def _back() -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:queue_sandboxclock_changelist"))
