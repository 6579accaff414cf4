"""A message that we took responsibility for."""

from __future__ import annotations

from django.db import models


class Message(models.Model):
    """One row is one accepted message with its envelope; its octets are in `ContentChunk`, its recipients in the queue.

    Written once by the group commit (`mailflow.spool`), together with its content, queue entries and first event. Later
    only `status`, `error_message` and `finished_at` change, by the relay leg.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        PROCESSING = "processing", "Processing"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Failed"
        BOUNCED = "bounced", "Bounced"
        REJECTED = "rejected", "Rejected"

    class Source(models.TextChoices):
        RECEPTION = "reception", "SMTP reception"
        SUBMISSION = "submission", "SMTP submission"
        HTTP = "http", "HTTP send"
        FORWARD = "forward", "Forwarded"
        DSN = "dsn", "Delivery status notification"

    id = models.CharField(
        primary_key=True, max_length=30, help_text="msg_…; the same in API, logs and Received header."
    )
    created_at = models.DateTimeField(help_text="When it was accepted.")
    source = models.CharField(max_length=10, choices=Source)
    status = models.CharField(max_length=10, choices=Status, default=Status.PROCESSING)
    reverse_path = models.CharField(max_length=320, blank=True, help_text="Envelope sender; empty is the null path.")
    recipients = models.JSONField(help_text="Envelope recipients, in the order given.")
    recipient_count = models.PositiveIntegerField()
    subject = models.TextField(blank=True)
    header_from = models.TextField(blank=True)
    internet_message_id = models.CharField(max_length=998, blank=True, help_text="The header's own Message-ID.")
    size_octets = models.BigIntegerField(help_text="Whole message with our trace headers.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the whole message, in hex.")
    body_type = models.CharField(max_length=12, blank=True, help_text="7BIT, 8BITMIME or BINARYMIME as declared.")
    is_smtputf8 = models.BooleanField(default=False, help_text="Declared SMTPUTF8 (RFC 6531 §3.4).")
    requires_tls = models.BooleanField(
        default=False, help_text="Demanded with REQUIRETLS: verified TLS all the way, or back to the sender (RFC 8689)."
    )
    envelope_id = models.CharField(max_length=100, blank=True, help_text="ENVID (RFC 3461 §4.4).")
    dsn_return = models.CharField(max_length=4, blank=True, help_text="RET: FULL or HDRS (RFC 3461 §4.3).")
    user_id = models.BigIntegerField(null=True, blank=True, help_text="The account that sent it, where one did.")
    organization_id = models.BigIntegerField(null=True, blank=True, help_text="Whose message it is.")
    api_key_id = models.UUIDField(null=True, blank=True)
    client_address = models.CharField(max_length=45, blank=True)
    helo = models.CharField(max_length=255, blank=True)
    protocol = models.CharField(max_length=12, help_text="As in the Received header (RFC 3848): ESMTPSA, HTTP …")
    trace_id = models.CharField(max_length=32)
    thread_id = models.CharField(
        max_length=30, blank=True, help_text="thr_…, shared by all messages that answer the same first one."
    )
    is_reply = models.BooleanField(default=False, help_text="It names a message that it answers (RFC 5322 §3.6.4).")
    error_message = models.TextField(blank=True, help_text="Why the worst recipient failed.")
    finished_at = models.DateTimeField(null=True, blank=True, help_text="When its last recipient ended.")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["organization_id", "id"],
                name="message_by_organization",
                condition=models.Q(organization_id__isnull=False),
            ),
            models.Index(fields=["user_id", "id"], name="message_by_user", condition=models.Q(user_id__isnull=False)),
            models.Index(fields=["status", "id"], name="message_by_status"),
            # Only replies: most mail answers nothing, and pays nothing for it.
            models.Index(fields=["thread_id", "id"], name="reply_by_thread", condition=models.Q(is_reply=True)),
            # What ended without success, which the queue goes on listing for some days; counted in the index alone.
            models.Index(
                fields=["finished_at", "status"],
                name="message_unsuccessful",
                condition=models.Q(finished_at__isnull=False) & ~models.Q(status="delivered"),
            ),
            models.Index(
                fields=["finished_at"], name="message_finished", condition=models.Q(finished_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return self.id
