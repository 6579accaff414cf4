"""API keys and their daily count; R5 tells its readers to query these two tables by name."""

from __future__ import annotations

import uuid

from django.db import models


class ApiKey(models.Model):
    """One row is one key: shown once when made, then known by its prefix and a hash of the rest."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, help_text="What the key is for.")
    prefix = models.CharField(max_length=32, unique=True, editable=False, help_text="The key's visible start.")
    key_hash = models.CharField(max_length=64, editable=False)
    user = models.ForeignKey(
        "accounts.User", models.CASCADE, related_name="api_keys", help_text="Mail sent with the key is this user's."
    )
    daily_limit = models.PositiveIntegerField(default=15, help_text="Messages a day (UTC).")
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "api_keys"
        ordering = ["-created_at"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class DailyUsage(models.Model):
    """One row counts what one key sent on one day (UTC); only `accounts.keys.take` writes it."""

    api_key = models.ForeignKey(ApiKey, models.CASCADE, related_name="usage")
    date = models.DateField()
    count = models.PositiveIntegerField(default=0)

    class Meta:
        db_table = "daily_usage"
        ordering = ["-date"]
        verbose_name_plural = "daily usage"
        constraints = [models.UniqueConstraint(fields=["api_key", "date"], name="one_usage_row_per_day")]

    def __str__(self) -> str:
        return f"{self.api_key_id} {self.date}: {self.count}"
