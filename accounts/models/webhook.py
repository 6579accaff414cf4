"""Who is told what happens, by HTTP, and what became of each telling (R4's webhooks)."""

from __future__ import annotations

import uuid

from django.db import models


class WebhookEndpoint(models.Model):
    """One row is one URL that hears of events. `accounts.webhooks.endpoints` writes here.

    One that the system switched off (`disabled_at`) hears nothing until somebody switches it on again.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="webhook_endpoints",
        help_text="It hears of this organization's events; of the whole system's where empty.",
    )
    url = models.CharField("URL", max_length=2000, help_text="Where each event is sent by POST.")
    description = models.CharField(max_length=200, blank=True)
    events = models.JSONField(help_text="What it hears of.")
    sealed_secret = models.TextField(editable=False, help_text="What requests are signed with, under accounts.sealed.")
    sealed_previous_secret = models.TextField(blank=True, editable=False)
    previous_expires_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Until then requests are signed with the secret before, too."
    )
    is_active = models.BooleanField("active", default=True, help_text="While off, nothing is sent or noted for it.")
    is_from_environment = models.BooleanField(
        default=False, editable=False, help_text="Made of SMTP_WEBHOOK_URL, which it follows."
    )
    failing_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="The first failure after the last success."
    )
    last_success_at = models.DateTimeField(null=True, blank=True, editable=False)
    disabled_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When the system switched it off."
    )
    disabled_reason = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_from_environment"],
                name="one_webhook_endpoint_of_the_environment",
                condition=models.Q(is_from_environment=True),
            )
        ]

    def __str__(self) -> str:
        return self.url

    @property
    def place(self) -> str:
        """Where its secrets are at home (`accounts.sealed`)."""
        return f"webhook:{self.pk}"


class WebhookDelivery(models.Model):
    """One row is one event for one endpoint: the outbox, written in the transaction of what it tells.

    `next_attempt_at` alone says whether it may be taken: NULL has ended; while leased it is the end of the lease. There
    is no foreign key in the database: an endpoint that was deleted a moment ago must not fail the commit of a message.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Failed"

    id = models.CharField(primary_key=True, max_length=30, help_text="evt_…, the webhook-id that the receiver sees.")
    endpoint = models.ForeignKey(
        WebhookEndpoint, models.DO_NOTHING, related_name="deliveries", db_constraint=False, db_index=False
    )
    event = models.CharField(max_length=30)
    payload = models.TextField(help_text="The body, the same at every attempt.")
    created_at = models.DateTimeField()
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    attempts = models.PositiveIntegerField(default=0, help_text="Since it was written, or since its last replay.")
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    lease = models.CharField(max_length=60, blank=True)
    last_result = models.CharField(max_length=300, blank=True, help_text="What the last attempt came to, in words.")
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(
                fields=["endpoint", "next_attempt_at"],
                name="webhook_due",
                condition=models.Q(next_attempt_at__isnull=False),
            ),
            models.Index(fields=["endpoint", "status", "id"], name="webhook_by_status"),
            models.Index(fields=["endpoint", "id"], name="webhook_by_endpoint"),
        ]

    def __str__(self) -> str:
        return self.id


class WebhookAttempt(models.Model):
    """One row is one request and its answer; rows are never changed."""

    delivery = models.ForeignKey(WebhookDelivery, models.CASCADE, related_name="attempt_rows")
    started_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField()
    url = models.CharField("URL", max_length=2000)
    request_headers = models.JSONField(help_text="As they were sent, the signatures hidden.")
    response_status = models.PositiveIntegerField(null=True, blank=True, help_text="Empty where there was no answer.")
    response_body = models.TextField(blank=True, help_text="The first 4 KiB of the answer.")
    error = models.TextField(blank=True, help_text="Why it failed, in words; empty is success.")

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.delivery_id}: {self.error or self.response_status}"
