"""What makes a repeated request the same request: the Idempotency-Key of `send`."""

from __future__ import annotations

from django.db import models


class IdempotencyKey(models.Model):
    """One row is one key that one user sent, and the id that its message has, or will have.

    It is written before the message. A row that says nothing of what was queued, and whose message is not there,
    belongs to a request that is under way, or that broke off: after a while (`claimed_at`) the next request with the
    key takes it over.
    """

    user_id = models.BigIntegerField()
    key = models.CharField(max_length=255)
    body_digest = models.CharField(max_length=64, help_text="SHA-256 of the request in one form, in hex.")
    message_id = models.CharField(max_length=30, help_text="The id of the message, of a batch the first one's.")
    queued = models.JSONField(
        null=True, help_text="Which messages of the request were queued, by number; empty until it was carried out."
    )
    claim = models.CharField(max_length=32, help_text="Which request works on it.")
    claimed_at = models.DateTimeField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user_id", "key"], name="one_row_per_idempotency_key")]
        indexes = [models.Index(fields=["created_at"], name="idempotency_by_age")]

    def __str__(self) -> str:
        return f"{self.user_id}: {self.key}"
