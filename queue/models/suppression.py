"""Addresses that get no mail, and the bounces that are counted before one becomes such an address."""

from __future__ import annotations

import datetime as dt

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from accounts.models.fields import AddressField, DomainNameField
from mailflow.ids import new_row_id
from mailflow.models.fields import RowIdField

_ON_IT = "This address is on the list already, with the same scope: change that row."


def new_id() -> int:
    return new_row_id()


class Suppression(models.Model):
    """One row keeps mail from one address: that of an organization, of one of its sending domains, or everybody's.

    Without an organization it holds for the whole system, and is staff's. It is asked before each attempt
    (`queue.suppress`); after `expires_at` it is as if it were not there.
    """

    class Reason(models.TextChoices):
        HARD_BOUNCE = "hard_bounce", "Hard bounce"
        SOFT_BOUNCES = "soft_bounces", "Soft bounces"
        COMPLAINT = "complaint", "Complaint"
        MANUAL = "manual", "Entered by a person"
        UNSUBSCRIBE = "unsubscribe", "Unsubscribed"

    id = RowIdField(primary_key=True, default=new_id, editable=False)
    address = AddressField(max_length=320, help_text="Who gets no mail; kept in lower case.")
    organization = models.ForeignKey(
        "accounts.Organization",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="suppressions",
        help_text="Whose mail is kept from the address; empty: everybody's.",
    )
    sending_domain = DomainNameField(
        blank=True, help_text="Only mail from this domain of the organization; empty: from all of them."
    )
    reason = models.CharField(max_length=12, choices=Reason, default=Reason.MANUAL)
    words = models.TextField(blank=True, help_text="What was said: the remote's answer, or a person's note.")
    source_message_id = models.CharField(max_length=30, blank=True, help_text="The message that led to it.")
    created_by = models.CharField(max_length=254, blank=True, help_text="Who entered it: a user or a command.")
    created_at = models.DateTimeField(default=timezone.now, help_text="Since when it holds.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Until when; empty: until somebody removes it.")
    hits = models.PositiveIntegerField(default=0, help_text="How many recipients it has kept back.")
    last_hit_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["address", "organization", "sending_domain"],
                name="one_suppression_per_scope",
                violation_error_message=_ON_IT,
            ),
            models.UniqueConstraint(
                fields=["address"],
                condition=models.Q(organization__isnull=True),
                name="one_suppression_for_everybody",
                violation_error_message=_ON_IT,
            ),
            models.CheckConstraint(
                condition=models.Q(organization__isnull=False) | models.Q(sending_domain=""),
                name="a_sending_domain_has_an_organization",
            ),
        ]
        indexes = [
            models.Index(fields=["organization", "id"], name="suppression_by_organization"),
            models.Index(
                fields=["expires_at"], name="suppression_expires", condition=models.Q(expires_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return self.address

    def clean(self) -> None:
        if self.sending_domain and self.organization_id is None:
            raise ValidationError({"sending_domain": "A sending domain belongs to an organization: choose that too."})

    def is_in_force(self, now: dt.datetime) -> bool:
        return self.expires_at is None or self.expires_at > now


class SoftBounce(models.Model):
    """One row is one bounce that says nothing final about its recipient; several within a while do (`queue.suppress`).

    One for an entry at most, however many bounces tell of it.
    """

    id = RowIdField(primary_key=True)
    entry_id = models.BigIntegerField(unique=True)
    organization_id = models.BigIntegerField()
    address = models.CharField(max_length=320)
    created_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["address", "organization_id", "created_at"], name="soft_bounce_by_address")]

    def __str__(self) -> str:
        return f"{self.address} {self.created_at:%Y-%m-%d}"
