"""A message without a sender that could not be delivered, until the postmaster has been told."""

from __future__ import annotations

from django.db import models

from mailflow.models.fields import RowIdField


class DoubleBounce(models.Model):
    """One row is one message from the null path that failed; `queue.double_bounces` collects them into summaries."""

    id = RowIdField(primary_key=True)
    message_id = models.CharField(max_length=30, unique=True)
    words = models.TextField(help_text="Which recipients, and what was said of them.")
    created_at = models.DateTimeField()
    told_at = models.DateTimeField(null=True, blank=True, help_text="When the postmaster was written to.")

    class Meta:
        indexes = [
            models.Index(fields=["id"], name="double_bounce_untold", condition=models.Q(told_at__isnull=True)),
            models.Index(fields=["told_at"], name="double_bounce_told", condition=models.Q(told_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.message_id
