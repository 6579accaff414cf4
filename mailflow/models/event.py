"""What happened, and why: the one account from which replies, timeline and reports are told."""

from __future__ import annotations

from django.db import models


class Event(models.Model):
    """One row is one step of a message, or one refusal that no message came of; rows are never changed.

    `decisions` holds the list of decision values that led there, in order: each with `stage`, `rule`, `outcome`, `saw`,
    `reason` (see `mailflow.policy.decision`).
    """

    class Kind(models.TextChoices):
        ACCEPTED = "accepted", "Accepted"
        REFUSED = "refused", "Refused"
        DELIVERED = "delivered", "Delivered"
        DEFERRED = "deferred", "Deferred"
        BOUNCED = "bounced", "Bounced"
        FAILED = "failed", "Failed"
        FORWARDED = "forwarded", "Forwarded"
        DSN_SENT = "dsn_sent", "DSN sent"
        DSN_WITHHELD = "dsn_withheld", "No DSN sent"
        RETRY_REQUESTED = "retry_requested", "Retry requested"
        DELETED = "deleted", "Removed from the queue"
        AUTH_FAILED = "auth_failed", "Authentication failed"
        CAPTURED = "captured", "Captured by the sandbox"

    id = models.BigIntegerField(primary_key=True)
    created_at = models.DateTimeField()
    kind = models.CharField(max_length=20, choices=Kind)
    message_id = models.CharField(max_length=30, blank=True, help_text="Empty where no message came of it.")
    entry_id = models.BigIntegerField(null=True, blank=True, help_text="The queue entry, for one recipient's step.")
    recipient = models.CharField(max_length=320, blank=True)
    summary = models.TextField(help_text="What happened and why, in words.")
    reply = models.TextField(blank=True, help_text="The SMTP or HTTP reply given or received.")
    decisions = models.JSONField(default=list)
    client_address = models.CharField(max_length=45, blank=True)
    actor = models.CharField(max_length=254, blank=True, help_text="Who asked for it: user, key, worker.")
    trace_id = models.CharField(max_length=32, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["message_id", "id"], name="event_by_message", condition=~models.Q(message_id="")),
            models.Index(fields=["kind", "id"], name="event_by_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.kind}: {self.summary}"
