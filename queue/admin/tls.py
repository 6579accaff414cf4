"""Admin pages of what is known of other hosts' TLS: the policies of their domains, and how sessions fared by them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts.admin.base import ReadOnlyAdmin, badge, link, shorten
from queue.models import MtaStsPolicy, TlsFigure, TlsReport


@admin.register(MtaStsPolicy)
class MtaStsPolicyAdmin(ReadOnlyAdmin):
    list_display = ["domain", "mode_label", "hosts", "fetched_at", "expires_at", "short_error"]
    list_filter = ["mode"]
    search_fields = ["domain"]

    @badge("mode", {"enforce": "success", "testing": "warning", "none": "info"}, ordering="mode")
    def mode_label(self, policy: MtaStsPolicy) -> tuple[str, str]:
        return policy.mode, policy.get_mode_display()

    @admin.display(description="MX patterns")
    def hosts(self, policy: MtaStsPolicy) -> str:
        return shorten(", ".join(policy.mx), 60)

    @admin.display(description="last error")
    def short_error(self, policy: MtaStsPolicy) -> str:
        return shorten(policy.last_error, 60)


class SinceDay(admin.SimpleListFilter):
    """By the day, which is what a figure is for."""

    title = "time"
    parameter_name = "since"
    _DAYS = {"today": 0, "7d": 6, "30d": 29}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("today", "Today"), ("7d", "Last 7 days"), ("30d", "Last 30 days")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        days = self._DAYS.get(self.value() or "")
        if days is None:
            return queryset
        return queryset.filter(day__gte=timezone.now().date() - dt.timedelta(days=days))


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("good", "As the policy asks"), ("failed", "Failed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "good":
                return queryset.filter(result="")
            case "failed":
                return queryset.exclude(result="")
        return queryset


@admin.register(TlsFigure)
class TlsFigureAdmin(ReadOnlyAdmin):
    list_display = ["day", "policy_domain", "policy_label", "mx_host", "result_label", "reason", "count"]
    list_filter = [SinceDay, OutcomeFilter, "policy_type"]
    search_fields = ["policy_domain", "mx_host", "result"]
    search_help_text = "Domain, host or result type"

    @badge("policy", {"tlsa": "success", "sts": "success", "no-policy-found": "info"}, ordering="policy_type")
    def policy_label(self, figure: TlsFigure) -> tuple[str, str]:
        return figure.policy_type, figure.get_policy_type_display()

    @badge("result", {"good": "success", "failed": "danger"}, ordering="result")
    def result_label(self, figure: TlsFigure) -> tuple[str, str]:
        return ("failed", figure.result) if figure.result else ("good", "as the policy asks")


@admin.register(TlsReport)
class TlsReportAdmin(ReadOnlyAdmin):
    list_display = ["day", "policy_domain", "sent_label", "sent_to", "message_link", "made_at"]
    list_filter = [SinceDay]
    search_fields = ["policy_domain", "sent_to"]

    @badge("report", {"sent": "success", "unwanted": "info"})
    def sent_label(self, report: TlsReport) -> tuple[str, str]:
        return ("sent", "sent") if report.sent_to else ("unwanted", "not asked for")

    @admin.display(description="message")
    def message_link(self, report: TlsReport) -> SafeString | str:
        if not report.message_id:
            return ""
        return link("mailflow_message_change", report.message_id, text=report.message_id)
