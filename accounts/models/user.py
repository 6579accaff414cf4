"""A person or program with a mailbox and a password."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models, transaction
from django.utils import timezone

from accounts.models.fields import AddressField
from accounts.webhooks import outbox
from accounts.webhooks.names import USER_CREATED


class User(AbstractUser):
    """One row is one account; its `email` is the address of its mailbox where the domain is one of ours."""

    email = AddressField("address", unique=True, help_text="The mailbox address; the user may send from it.")
    organization = models.ForeignKey(
        "accounts.Organization",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="users",
        help_text="Empty only for staff of the platform.",
    )
    is_organization_admin = models.BooleanField(
        default=False, help_text="May manage the organization's users and domains."
    )
    quota_mb = models.PositiveIntegerField(
        "quota (MB)", default=1000, help_text="Room for kept mail, in MiB; 0 means no limit."
    )
    used_octets = models.BigIntegerField(default=0, editable=False, help_text="Octets of kept mail, counted at filing.")

    received_count = models.BigIntegerField(default=0, editable=False, help_text="Messages filed so far.")
    pruned_sent_count = models.BigIntegerField(
        default=0, editable=False, help_text="Messages sent whose records have gone; those kept are counted."
    )
    deleted_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Set: the account is gone, its data is being removed."
    )

    objects: ClassVar[UserManager[Self]] = UserManager()

    class Meta:
        ordering = ["username"]
        indexes = [
            models.Index(fields=["organization", "username"], name="user_by_organization"),
            models.Index(fields=["deleted_at"], name="user_deleted", condition=models.Q(deleted_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.username

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; a new account is told of in the same transaction, whoever makes it (API, admin, command)."""
        if not (self._state.adding and outbox.wanted(USER_CREATED)):
            super().save(*args, **kwargs)
            return
        with transaction.atomic():
            super().save(*args, **kwargs)
            outbox.add([outbox.Notice(USER_CREATED, timezone.now(), self._data_for)])

    def _data_for(self, organization_id: int | None) -> outbox.Data | None:
        if organization_id not in (None, self.organization_id):
            return None
        return {
            "user_id": self.pk,
            "username": self.username,
            "email": self.email,
            "organization_id": self.organization_id,
        }
