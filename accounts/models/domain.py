"""A domain whose mail we take."""

from __future__ import annotations

from django.db import models

from accounts.models.fields import DomainNameField


class Domain(models.Model):
    """One row is one domain: created `pending`, then `verified` or `failed` by looking at its DNS."""

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        VERIFIED = "verified", "Verified"
        FAILED = "failed", "Failed"

    name = DomainNameField(unique=True, help_text="As A-labels, such as example.com.")
    organization = models.ForeignKey("accounts.Organization", models.PROTECT, related_name="domains")
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    is_active = models.BooleanField(default=True, help_text="While off, mail for the domain is refused.")
    is_trusted = models.BooleanField(default=False, help_text="Set by staff: usable without a DNS check.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        indexes = [models.Index(fields=["organization", "name"], name="domain_by_organization")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_usable(self) -> bool:
        """Whether mail for the domain is taken: active, and verified or vouched for by staff (contract §2)."""
        return self.is_active and (self.is_trusted or self.status == self.Status.VERIFIED)
