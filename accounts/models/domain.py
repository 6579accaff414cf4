"""A domain of ours: mail for it is taken, unless it only sends, and its users may send from it."""

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
    accepts_mail = models.BooleanField(
        default=True, help_text="Off for a domain that only sends: its recipients are refused with 556 (RFC 7504)."
    )
    is_trusted = models.BooleanField(default=False, help_text="Set by staff: usable without a DNS check.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        indexes = [models.Index(fields=["organization", "name"], name="domain_by_organization")]

    def __str__(self) -> str:
        return self.name

    @property
    def takes_mail(self) -> bool:
        return self.is_usable and self.accepts_mail

    @property
    def is_usable(self) -> bool:
        """Whether the domain is one of ours, to send from: active, and verified or vouched for by staff (contract §2).

        Mail for it is taken unless `accepts_mail` is off.
        """
        return self.is_active and (self.is_trusted or self.status == self.Status.VERIFIED)
