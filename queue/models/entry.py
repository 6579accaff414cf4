"""One recipient of one message on its way."""

from __future__ import annotations

from django.db import models

from mailflow.models.fields import RowIdField


class Entry(models.Model):
    """One row is one recipient of one accepted message: the queue itself (docs/adr/0002).

    `next_attempt_at` is the one thing that says whether and when somebody may take it: a time for a waiting entry, the
    end of the lease while a worker has it, NULL once it has ended or while it is held. So a worker that dies gives it
    back by doing nothing. One that `waits_for_host` has the time of its last hour in `retry_at`; without it, or with
    an earlier time, somebody asked for an attempt (`queue.dialup`). States: pending → (retry →)* delivered | bounced |
    failed.
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
    claims = models.PositiveSmallIntegerField(
        db_default=0,
        editable=False,
        help_text="How often a worker has taken it since an attempt last ended; above one, those before were lost.",
    )
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

    scheduled_at = models.DateTimeField(null=True, blank=True, help_text="No attempt before this: the sender's wish.")
    held_at = models.DateTimeField(
        null=True, blank=True, help_text="When a person put it on hold; while it is set nothing is attempted."
    )
    hold_reason = models.CharField(max_length=200, blank=True, help_text="Who holds it and why, in words.")
    route = models.CharField(
        max_length=300, blank=True, help_text="A next hop that a person chose, host or host:port; empty: by the rules."
    )
    is_sandbox = models.BooleanField(
        default=False, help_text="Goes to the simulated internet, and never leaves this machine."
    )
    is_test = models.BooleanField(
        default=False, help_text="Sent with a test key: outside of the demo no mailbox of ours gets it either."
    )
    waits_for_host = models.BooleanField(
        default=False, help_text="Waits until the host of its domain comes for it (ATRN) or asks for it (ETRN)."
    )

    waits_for = models.CharField(
        max_length=200,
        blank=True,
        help_text="Why it was put off without an attempt, in words; empty once it is claimed.",
    )

    # SQLite uses a partial index only where a query says the index's condition in the same words. `IS_OPEN` is true of
    # the rows whose status is one of `OPEN`, `IS_LISTED` of all that the queue may show.
    IS_OPEN = models.Q(finished_at__isnull=True)
    IS_HELD = models.Q(held_at__isnull=False)
    IS_LISTED = ~models.Q(status=Status.DELIVERED)

    class Meta:
        ordering = ["-message_id", "-id"]  # ids of messages are in the order of time too, and indexes have them
        verbose_name = "queue entry"
        verbose_name_plural = "queue entries"
        indexes = [
            # First attempts (pending) and retries are claimed apart, in the order of time or within one domain.
            models.Index(
                fields=["status", "next_attempt_at", "id"],
                name="entry_due",
                condition=models.Q(next_attempt_at__isnull=False),
            ),
            models.Index(
                fields=["domain", "status", "next_attempt_at"],
                name="entry_due_by_domain",
                condition=models.Q(next_attempt_at__isnull=False),
            ),
            models.Index(
                fields=["deliver_by_at"],
                name="entry_deadline",
                condition=models.Q(deliver_by_at__isnull=False, next_attempt_at__isnull=False),
            ),
            models.Index(
                fields=["next_attempt_at"],
                name="entry_due_in_sandbox",
                condition=models.Q(is_sandbox=True, next_attempt_at__isnull=False),
            ),
            models.Index(fields=["message", "id"], name="entry_by_message"),
            models.Index(
                fields=["status", "message", "id"], name="entry_by_state", condition=~models.Q(status="delivered")
            ),
            models.Index(
                fields=["domain", "message", "id"],
                name="entry_open_by_domain",
                condition=models.Q(finished_at__isnull=True),
            ),
            # These three cost a row that is neither held nor scheduled, nor waits for a host, nothing.
            models.Index(
                fields=["message", "id", "domain"],
                name="entry_held",
                condition=models.Q(held_at__isnull=False, finished_at__isnull=True),
            ),
            models.Index(
                fields=["message", "id", "scheduled_at", "attempts"],
                name="entry_scheduled",
                condition=models.Q(scheduled_at__isnull=False, finished_at__isnull=True),
            ),
            models.Index(
                fields=["domain"],
                name="entry_for_host",
                condition=models.Q(waits_for_host=True, finished_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.message_id} → {self.recipient}"
