"""What happened, and why: the one account from which replies, timeline and reports are told."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Lower

from mailflow.models.fields import RowIdField

_NO_MESSAGE = models.Q(message_id="")  # their indexes cost nothing where mail is accepted and delivered


class Event(models.Model):
    """One row is one step of a message, or one refusal that no message came of; rows are never changed.

    What refusals of no message (kinds `REFUSALS`) are searched by is indexed for them alone.

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
        HELD = "held", "Put on hold"
        RELEASED = "released", "Released"
        CHANGED = "changed", "Changed in the queue"
        CANCELLED = "cancelled", "Cancelled by its sender"
        SUPPRESSED = "suppressed", "Not sent: suppressed"
        BOUNCE_RECEIVED = "bounce_received", "Bounce received"
        COMPLAINT = "complaint", "Complaint received"
        LISTED = "listed", "Put on the suppression list"

    REFUSALS = (Kind.REFUSED, Kind.AUTH_FAILED)

    id = RowIdField(primary_key=True)
    created_at = models.DateTimeField()
    kind = models.CharField(max_length=20, choices=Kind)
    message_id = models.CharField(max_length=30, blank=True, help_text="Empty where no message came of it.")
    entry_id = models.BigIntegerField(null=True, blank=True, help_text="The queue entry, for one recipient's step.")
    stage = models.CharField(max_length=20, blank=True, help_text="Where it was decided: connection, recipient …")
    rule = models.CharField(max_length=64, blank=True, help_text="The rule that spoke, by its stable name.")
    sender = models.CharField(max_length=320, blank=True, help_text="The reverse path.")
    recipient = models.CharField(max_length=320, blank=True)
    summary = models.TextField(help_text="What happened and why, in words.")
    reply = models.TextField(blank=True, help_text="The SMTP or HTTP reply given or received.")
    decisions = models.JSONField(default=list)
    client_address = models.CharField(max_length=45, blank=True)
    client_key = models.CharField(
        max_length=32, blank=True, help_text="The address as 32 hex digits of IPv6, so that a network is a range."
    )
    organization_id = models.BigIntegerField(
        null=True, blank=True, help_text="Whose recipient or account a refusal concerns, where it is known."
    )
    actor = models.CharField(max_length=254, blank=True, help_text="Who asked for it: user, key, worker.")
    trace_id = models.CharField(max_length=32, blank=True)
    led_to = models.CharField(max_length=30, blank=True, help_text="The message that carries it on, of a forward.")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["message_id", "id"], name="event_by_message", condition=~models.Q(message_id="")),
            models.Index(fields=["kind", "id"], name="event_by_kind"),
            models.Index(fields=["id"], name="refusal_by_id", condition=_NO_MESSAGE),
            models.Index(fields=["rule", "id"], name="refusal_by_rule", condition=_NO_MESSAGE),
            models.Index(Lower("sender"), "id", name="refusal_by_sender", condition=_NO_MESSAGE),
            models.Index(Lower("recipient"), "id", name="refusal_by_recipient", condition=_NO_MESSAGE),
            models.Index(fields=["client_key", "id"], name="refusal_by_client", condition=_NO_MESSAGE),
            models.Index(fields=["trace_id", "id"], name="refusal_by_trace", condition=_NO_MESSAGE),
            models.Index(Lower("actor"), "id", name="refusal_by_actor", condition=_NO_MESSAGE),
            models.Index(fields=["organization_id", "id"], name="refusal_by_organization", condition=_NO_MESSAGE),
        ]

    def __str__(self) -> str:
        return f"{self.kind}: {self.summary}"
