"""What a domain asked of those who send it mail, as it was last fetched (RFC 8461 §3)."""

from __future__ import annotations

from django.db import models

from accounts.models.fields import DomainNameField


class MtaStsPolicy(models.Model):
    """One row is one recipient domain's policy. It holds until `expires_at`, whether or not it can be fetched again.

    That is the point of keeping it: neither a restart nor who blocks the domain's web server makes us forget it.
    """

    class Mode(models.TextChoices):
        ENFORCE = "enforce", "Enforce"
        TESTING = "testing", "Testing"
        NONE = "none", "None"

    domain = DomainNameField(unique=True)
    policy_id = models.CharField("policy id", max_length=32, help_text="The id of the TXT record that it was found by.")
    mode = models.CharField(max_length=10, choices=Mode)
    mx = models.JSONField("MX patterns", default=list)
    max_age = models.PositiveIntegerField(help_text="Seconds that it holds from when it was fetched.")
    fetched_at = models.DateTimeField(db_index=True)
    expires_at = models.DateTimeField()
    refresh_at = models.DateTimeField(db_index=True, help_text="When it is to be fetched again.")
    last_error = models.CharField(
        max_length=300, blank=True, help_text="Why it could not be fetched the last time; empty where it could."
    )

    class Meta:
        ordering = ["domain"]
        verbose_name = "MTA-STS policy"
        verbose_name_plural = "MTA-STS policies"

    def __str__(self) -> str:
        return f"{self.domain}: {self.mode}"
