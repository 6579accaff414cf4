"""A tenant: what its members own nobody else sees."""

from __future__ import annotations

from django.db import models


class Organization(models.Model):
    """One row is one tenant; users, domains and keys belong to exactly one."""

    name = models.CharField(max_length=200, unique=True, help_text="Shown to its members and on invoices.")
    is_active = models.BooleanField(default=True, help_text="While off, its users and keys cannot send.")
    stripe_customer_id = models.CharField(
        max_length=255, unique=True, null=True, blank=True, help_text="cus_…, made at the first checkout."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
