"""A domain of ours: mail for it is taken, unless it only sends, and its users may send from it.

Its mail is delivered here, or waits for a host of its own that is not always there (RFC 2645, RFC 1985).
"""

from __future__ import annotations

import secrets

from django.db import models
from django.db.models import Q
from django.utils import timezone

from accounts.models.fields import DomainNameField, validate_next_hop


def new_token() -> str:
    """Return what the owner of a domain publishes to show that it is theirs: 128 random bits."""
    return secrets.token_hex(16)


class Domain(models.Model):
    """One row is one domain: created `pending`, then `verified` or `failed` by looking at its DNS.

    What was verified once stays usable: a check that fails later sets `status` and warns, and stops no mail
    (docs/adr/0019).
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        VERIFIED = "verified", "Verified"
        FAILED = "failed", "Failed"

    class Delivery(models.TextChoices):
        """Where mail for the domain goes."""

        LOCAL = "local", "Into mailboxes and aliases here"
        DIAL_UP = "dial_up", "To its own host, when that asks for it (ATRN, ETRN)"

    name = DomainNameField(unique=True, help_text="As A-labels, such as example.com.")
    organization = models.ForeignKey("accounts.Organization", models.PROTECT, related_name="domains")
    status = models.CharField(max_length=10, choices=Status, default=Status.PENDING)
    is_active = models.BooleanField(default=True, help_text="While off, mail for the domain is refused.")
    accepts_mail = models.BooleanField(
        default=True, help_text="Off for a domain that only sends: its recipients are refused with 556 (RFC 7504)."
    )
    delivery = models.CharField(
        max_length=10,
        choices=Delivery,
        default=Delivery.LOCAL,
        help_text="To its own host: mail for any address of the domain is taken and waits until the host comes for it.",
    )
    next_hop = models.CharField(
        "host for ETRN",
        max_length=300,
        blank=True,
        validators=[validate_next_hop],
        help_text="Where ETRN sends what waits: host or host:port, such as mail.example.com:25. Empty: by its MX.",
    )
    is_trusted = models.BooleanField(default=False, help_text="Set by staff: usable without a DNS check.")
    verification_token = models.CharField(
        max_length=64, default=new_token, editable=False, help_text="Published in DNS, it shows whose the domain is."
    )
    verified_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When all its records were first found; usable from then on."
    )
    last_checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    next_check_at = models.DateTimeField(
        default=timezone.now, editable=False, help_text="When its records are looked up again, unasked."
    )
    check_results = models.JSONField(
        default=list, editable=False, help_text="What the last check found, one item for each record."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    # The same as `is_usable`, as a condition.
    USABLE = Q(is_active=True) & (Q(is_trusted=True) | Q(status=Status.VERIFIED) | Q(verified_at__isnull=False))

    class Meta:
        ordering = ["name"]
        indexes = [
            models.Index(fields=["organization", "name"], name="domain_by_organization"),
            models.Index(fields=["next_check_at"], name="domain_by_next_check"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_dial_up(self) -> bool:
        return self.delivery == self.Delivery.DIAL_UP

    @property
    def takes_mail(self) -> bool:
        return self.is_usable and self.accepts_mail

    @property
    def is_usable(self) -> bool:
        """Whether the domain is one of ours, to send from: active, and verified once or vouched for (contract §2).

        Mail for it is taken unless `accepts_mail` is off.
        """
        was_verified = self.status == self.Status.VERIFIED or self.verified_at is not None
        return self.is_active and (self.is_trusted or was_verified)
