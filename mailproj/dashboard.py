"""The admin's first page and its navigation: a few live figures, each from a range of an index."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.conf import settings
from django.db.models import Count
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone

from mailflow import runtime
from mailflow.ids import first_message_id, first_row_id
from mailflow.models import Event, Message
from queue.models import Entry

_DAY = dt.timedelta(days=1)
_LATEST = 8
_REFUSALS = (Event.Kind.REFUSED, Event.Kind.AUTH_FAILED)

# group, then (title, symbol of the theme's icon font, app, model)
_NAVIGATION = [
    ("Mail", [
        ("Messages", "mail", "mailflow", "message"),
        ("Queue", "schedule_send", "queue", "entry"),
        ("Attempts", "outgoing_mail", "queue", "attempt"),
        ("Destinations", "moving", "queue", "destination"),
        ("Warm-up plans", "local_fire_department", "queue", "warmupplan"),
        ("Suppressions", "block", "queue", "suppression"),
        ("Smarthosts", "alt_route", "queue", "smarthost"),
        ("Events", "history", "mailflow", "event"),
        ("Mail templates", "draft", "mailflow", "mailtemplate"),
        ("Sandbox", "science", "queue", "sandboxclock"),
        ("Mailboxes", "inbox", "mailflow", "mailbox"),
        ("Filed messages", "folder_open", "mailflow", "filedmessage"),
    ]),
    ("Accounts", [
        ("Organizations", "apartment", "accounts", "organization"),
        ("Users", "person", "accounts", "user"),
        ("Groups", "group", "auth", "group"),
        ("Domains", "language", "accounts", "domain"),
        ("DKIM keys", "signature", "accounts", "dkimkey"),
        ("Aliases", "alternate_email", "accounts", "alias"),
        ("ODMR secrets", "phone_callback", "accounts", "odmrsecret"),
        ("API keys", "key", "accounts", "apikey"),
        ("Webhook endpoints", "webhook", "accounts", "webhookendpoint"),
    ]),
    ("Billing", [
        ("Plans", "sell", "accounts", "plan"),
        ("Subscriptions", "autorenew", "accounts", "subscription"),
        ("Organization usage", "monitoring", "accounts", "organizationusage"),
        ("Stripe events", "receipt_long", "accounts", "stripeevent"),
    ]),
    ("Records", [
        ("Trail", "footprint", "accounts", "trailentry"),
        ("Daily usage", "bar_chart", "accounts", "dailyusage"),
        ("Webhook deliveries", "outbound", "accounts", "webhookdelivery"),
        ("Counters", "pin", "mailflow", "counter"),
        ("TLS figures", "lock", "queue", "tlsfigure"),
        ("TLS reports", "lab_profile", "queue", "tlsreport"),
        ("MTA-STS policies", "policy", "queue", "mtastspolicy"),
        ("Runtime settings", "tune", "mailflow", "runtimesetting"),
    ]),
]  # fmt: skip


def favicon(request: HttpRequest) -> str:
    return static("mailproj/favicon.svg")


def styles(request: HttpRequest) -> str:
    return static("mailproj/admin.css")


def scripts(request: HttpRequest) -> str:
    return static("mailproj/admin.js")


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the side bar: the pages that this person may look at."""
    home = {"title": "Dashboard", "icon": "dashboard", "link": reverse("admin:index")}
    groups: list[dict[str, Any]] = [{"items": [home]}]
    for title, entries in _NAVIGATION:
        items = [
            {"title": name, "icon": icon, "link": reverse(f"admin:{app}_{model}_changelist")}
            for name, icon, app, model in entries
            if _may_view(request, app, model)
        ]
        if items:
            groups.append({"title": title, "separator": True, "items": items})
    return groups


def shows_queue_entries(request: HttpRequest) -> bool:
    """Whether the tab of the queue's list is the one that is open: the other tabs' addresses begin with its own."""
    return request.path == reverse("admin:queue_entry_changelist")


def may_control_queue(request: HttpRequest) -> bool:
    return request.user.has_perm("queue.change_entry")


def figures(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add to the first page what this person may see."""
    since = timezone.now() - _DAY
    context["title"] = "Dashboard"
    context["sandbox"] = settings.DELIVERY_MODE == "sandbox"
    context["takes_mail"] = runtime.fresh().enabled
    context["may_see_sandbox"] = _may_view(request, "queue", "sandboxclock")
    context["figures"] = []
    if _may_view(request, "mailflow", "message"):
        context["figures"] += _message_figures(since)
        context["latest_messages"] = Message.objects.order_by("-pk")[:_LATEST]
    if _may_view(request, "queue", "entry"):
        context["figures"] += _queue_figures()
    if _may_view(request, "mailflow", "event"):
        context["figures"] += _refusal_figures(since)
        context["latest_refusals"] = Event.objects.filter(kind__in=_REFUSALS).order_by("-pk")[:_LATEST]
    return context


def _message_figures(since: dt.datetime) -> list[dict[str, Any]]:
    recent = Message.objects.filter(pk__gte=first_message_id(since)).order_by()
    counts = dict(recent.values_list("status").annotate(number=Count("pk")))
    address = f"{reverse('admin:mailflow_message_changelist')}?since=24h&status__exact="
    shown = [Message.Status.DELIVERED, Message.Status.PROCESSING, Message.Status.BOUNCED, Message.Status.FAILED]
    return [
        _figure(status.label, counts.get(status.value, 0), "messages, 24 h", address + status.value) for status in shown
    ]


def _queue_figures() -> list[dict[str, Any]]:
    waiting = Entry.objects.filter(Entry.IS_LISTED, status__in=Entry.OPEN).order_by()
    counts = dict(waiting.values_list("status").annotate(number=Count("pk")))
    address = reverse("admin:queue_entry_changelist")
    return [
        _figure("Pending", counts.get("pending", 0), "in the queue", f"{address}?status__exact=pending"),
        _figure("Waiting to retry", counts.get("retry", 0), "in the queue", f"{address}?status__exact=retry"),
    ]


def _refusal_figures(since: dt.datetime) -> list[dict[str, Any]]:
    recent = Event.objects.filter(kind__in=_REFUSALS, pk__gte=first_row_id(since)).order_by()
    counts = dict(recent.values_list("kind").annotate(number=Count("pk")))
    address = reverse("admin:mailflow_event_changelist")
    return [
        _figure(title, counts.get(kind.value, 0), "events, 24 h", f"{address}?since=24h&kind__exact={kind.value}")
        for kind, title in ((Event.Kind.REFUSED, "Refused"), (Event.Kind.AUTH_FAILED, "Failed log-ins"))
    ]


def _figure(title: str, number: int, unit: str, address: str) -> dict[str, Any]:
    return {"title": title, "number": number, "unit": unit, "address": address}


def _may_view(request: HttpRequest, app: str, model: str) -> bool:
    return request.user.has_perm(f"{app}.view_{model}") or request.user.has_perm(f"{app}.change_{model}")
