"""The trail of accounts: what staff, users and keys did that is no event of a message."""

from __future__ import annotations

from django.db import models


class TrailEntry(models.Model):
    """One row is one act or one refusal (a key made, a login failed); rows are never changed."""

    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    kind = models.CharField(max_length=50, db_index=True, help_text="Such as api_key.created or auth.failed.")
    actor = models.CharField(max_length=254, blank=True, help_text="Who acted: user, key or command.")
    subject = models.CharField(max_length=254, blank=True, help_text="What it was done to.")
    client_address = models.CharField(max_length=45, blank=True)
    detail = models.TextField(blank=True, help_text="The reason, in words.")

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "trail entries"

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}".strip()
