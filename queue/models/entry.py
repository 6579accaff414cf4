"""One recipient of one message on its way."""

from __future__ import annotations

from django.db import models

from mailflow.models.fields import RowIdField


class Entry(models.Model):
    """One row is one recipient of one accepted message: the queue itself (docs/adr/0002).

    `next_attempt_at` is the one thing that says whether and when somebody may take it: a time for a waiting entry, the
    end of the lease while a worker has it, NULL once it has ended. So a worker that dies gives it back by doing
    nothing. States: pending → (retry →)* delivered | bounced | failed.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        RETRY = "retry", "Waiting to retry"
        DELIVERED = "delivered", "Delivered"
        BOUNCED = "bounced", "Bounced"
        FAILED = "failed", "Failed"

    OPEN = (Status.PENDING, Status.RETRY)

    id = RowIdField(primary_key=True)
    message = models.ForeignKey("mailflow.Message", models.CASCADE, related_name="entries", db_index=False)
    recipient = models.CharField(max_length=320, help_text="The forward path's address.")
    domain = models.CharField(max_length=255, help_text="Its domain, in lower case.")
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    created_at = models.DateTimeField()
    next_attempt_at = models.DateTimeField(null=True, help_text="When it may be taken next; empty once it has ended.")
    expires_at = models.DateTimeField(help_text="No attempt begins after this.")
    attempts = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField()
    lease = models.CharField(max_length=40, blank=True, help_text="The worker that has it now; empty while it waits.")
    last_reply = models.TextField(blank=True, help_text="What the last attempt ended with.")
    finished_at = models.DateTimeField(null=True, blank=True)
    notify = models.CharField(max_length=28, blank=True, help_text="NOTIFY (RFC 3461 §4.1); empty: as without it.")
    original_recipient = models.CharField(max_length=500, blank=True, help_text="ORCPT (RFC 3461 §4.2), decoded.")

    deliver_by_at = models.DateTimeField(null=True, blank=True, help_text="The DELIVERBY deadline (RFC 2852).")
    deliver_by_mode = models.CharField(
        max_length=2, blank=True, help_text="R: bounce at the deadline; N: tell the sender then; a T asks for a trace."
    )

    retry_at = models.DateTimeField(
        null=True, blank=True, help_text="When the next attempt is due, where the entry is looked at before that."
    )
    delay_told_at = models.DateTimeField(
        null=True, blank=True, help_text="When its sender was to be told of the delay, which happens once."
    )

    class Meta:
        ordering = ["-id"]
        verbose_name = "queue entry"
        verbose_name_plural = "queue entries"
        indexes = [
            models.Index(
                fields=["next_attempt_at"], name="entry_due", condition=models.Q(next_attempt_at__isnull=False)
            ),
            models.Index(fields=["message", "id"], name="entry_by_message"),
            models.Index(fields=["status", "id"], name="entry_by_status", condition=~models.Q(status="delivered")),
        ]

    def __str__(self) -> str:
        return f"{self.message_id} → {self.recipient}"
