"""What an organization pays for, and what it may do for it (contract §5)."""

from __future__ import annotations

from django.db import models


class Plan(models.Model):
    """One row is one plan; the organizations with a paid subscription to its price have it, the default's all others.

    0 is no limit. Where there is no default plan, an organization without a subscription has no limits.
    """

    name = models.CharField(max_length=100, unique=True, help_text="Named in what a limit refuses.")
    stripe_price_id = models.CharField(
        max_length=255, unique=True, null=True, blank=True, help_text="price_…; empty for a plan that is not sold."
    )
    max_domains = models.PositiveIntegerField(default=0, help_text="0: no limit.")
    max_mailboxes = models.PositiveIntegerField(default=0, help_text="0: no limit.")
    max_messages_a_day = models.PositiveIntegerField(default=0, help_text="Sent by its users, UTC days; 0: no limit.")
    is_default = models.BooleanField(default=False, help_text="For organizations without a subscription.")
    is_active = models.BooleanField(default=True, help_text="While off, nobody can subscribe to it anew.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=models.Q(is_default=True), name="one_default_plan")
        ]

    def __str__(self) -> str:
        return self.name


class Subscription(models.Model):
    """One row is one subscription as Stripe told of it last; `organization` is empty until an event says whose it is.

    `told_at` is the time of the newest event that was applied: an older one that comes later changes nothing.
    """

    PAID = ("active", "trialing", "past_due")

    organization = models.ForeignKey(
        "accounts.Organization", models.SET_NULL, null=True, blank=True, related_name="subscriptions"
    )
    stripe_customer_id = models.CharField(max_length=255, blank=True, db_index=True)
    stripe_subscription_id = models.CharField(max_length=255, unique=True)
    stripe_price_id = models.CharField(max_length=255, blank=True)
    status = models.CharField(max_length=30, blank=True, help_text="Stripe's word: active, past_due, canceled …")
    current_period_end = models.DateTimeField(null=True, blank=True)
    cancel_at_period_end = models.BooleanField(default=False)
    started_at = models.DateTimeField(help_text="When Stripe made it.")
    told_at = models.DateTimeField(help_text="The time of the newest event applied.")
    told_rank = models.PositiveSmallIntegerField(default=0, help_text="Which of two events of one second came last.")

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.stripe_subscription_id}: {self.status}"

    @property
    def is_paid(self) -> bool:
        return self.status in self.PAID


class StripeEvent(models.Model):
    """One row is one event of Stripe's that took effect, in the transaction of the effect: none takes it twice."""

    id = models.CharField(primary_key=True, max_length=255)
    kind = models.CharField(max_length=100)
    created_at = models.DateTimeField(help_text="When it happened at Stripe.")
    received_at = models.DateTimeField()
    words = models.TextField(help_text="What came of it.")

    class Meta:
        ordering = ["-received_at"]
        verbose_name = "Stripe event"

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class OrganizationUsage(models.Model):
    """One row counts what one organization sent on one day (UTC), where its plan has a limit."""

    organization = models.ForeignKey("accounts.Organization", models.CASCADE, related_name="usage")
    date = models.DateField()
    count = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["-date"]
        constraints = [models.UniqueConstraint(fields=["organization", "date"], name="one_organization_usage_a_day")]

    def __str__(self) -> str:
        return f"{self.organization_id} {self.date}: {self.count}"
