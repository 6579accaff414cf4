"""One try to pass one entry on."""

from __future__ import annotations

from django.db import models

from mailflow.models.fields import RowIdField


class Attempt(models.Model):
    """One row is one ended attempt: where it went and what came back. Rows are never changed."""

    class Outcome(models.TextChoices):
        DELIVERED = "delivered", "Delivered"
        DEFERRED = "deferred", "Deferred"
        FAILED = "failed", "Failed for good"

    id = RowIdField(primary_key=True)
    entry = models.ForeignKey("queue.Entry", models.CASCADE, related_name="tries", db_index=False)
    number = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    outcome = models.CharField(max_length=10, choices=Outcome)
    transport = models.CharField(max_length=10, help_text="local, smtp, odmr or sandbox.")
    next_hop = models.CharField(max_length=300, blank=True, help_text="Host name, address and port, or the mailbox.")
    tls = models.CharField(
        max_length=60, blank=True, help_text="Protocol and cipher; empty where the line was in clear."
    )
    tls_policy = models.CharField(
        "TLS policy", max_length=20, blank=True, help_text="The rule that TLS was to obey, such as mta-sts or dane."
    )
    is_verified = models.BooleanField(
        default=False, help_text="Whether the next hop proved to be who it should be, by its certificate."
    )
    code = models.PositiveSmallIntegerField(null=True, blank=True, help_text="The reply code that decided.")
    enhanced_code = models.CharField(max_length=12, blank=True)
    reply = models.TextField(blank=True, help_text="The peer's words, or ours where it had none.")
    worker = models.CharField(max_length=40, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["entry", "number"], name="attempt_by_entry")]

    def __str__(self) -> str:
        return f"{self.entry_id} #{self.number}: {self.outcome}"
