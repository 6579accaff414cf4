"""A person or program with a mailbox and a password."""

from __future__ import annotations

from typing import ClassVar, Self

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models

from accounts.models.fields import AddressField


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
    quota_mb = models.PositiveIntegerField(default=1000, help_text="Room for kept mail, in MiB; 0 means no limit.")
    used_octets = models.BigIntegerField(default=0, editable=False, help_text="Octets of kept mail, counted at filing.")

    objects: ClassVar[UserManager[Self]] = UserManager()

    class Meta:
        ordering = ["username"]
        indexes = [models.Index(fields=["organization", "username"], name="user_by_organization")]

    def __str__(self) -> str:
        return self.username
