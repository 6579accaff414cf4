"""Admin pages of plans, subscriptions and Stripe's events."""

from __future__ import annotations

from django.contrib import admin

from accounts.admin.base import ReadOnlyAdmin, badge
from accounts.admin.trailed import TrailedAdmin
from accounts.models import OrganizationUsage, Plan, StripeEvent, Subscription


@admin.register(Plan)
class PlanAdmin(TrailedAdmin):
    trail_kind = "plan"
    list_display = [
        "name", "stripe_price_id", "max_domains", "max_mailboxes", "max_messages_a_day", "is_default", "is_active",
    ]  # fmt: skip
    search_fields = ["name", "stripe_price_id"]
    readonly_fields = ["created_at"]


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnlyAdmin):
    list_display = [
        "stripe_subscription_id", "organization", "status_label", "stripe_price_id", "current_period_end",
        "cancel_at_period_end", "started_at",
    ]  # fmt: skip
    list_filter = ["status", "cancel_at_period_end"]
    list_select_related = ["organization"]
    search_fields = ["stripe_subscription_id", "stripe_customer_id", "organization__name"]

    @badge("status", {"active": "success", "trialing": "success", "past_due": "warning"}, ordering="status")
    def status_label(self, subscription: Subscription) -> tuple[str, str]:
        return subscription.status, subscription.status or "not told yet"


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "words", "created_at", "received_at"]
    search_fields = ["id", "kind", "words"]


@admin.register(OrganizationUsage)
class OrganizationUsageAdmin(ReadOnlyAdmin):
    list_display = ["organization", "date", "count"]
    list_select_related = ["organization"]
    search_fields = ["organization__name"]
    date_hierarchy = "date"
