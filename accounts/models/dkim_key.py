"""A key that signs a domain's mail (RFC 6376, RFC 8463)."""

from __future__ import annotations

from django.db import models

from accounts import key_pairs


class DkimKey(models.Model):
    """One row is one selector of a domain: made active, or prepared first; then retired. Rows are not deleted by hand.

    Of each algorithm one key at most is active, and one prepared. A retired key is kept for its record, which must stay
    published while mail that it signed may still be verified; its private part is erased. `accounts.dkim` writes here.
    """

    class Algorithm(models.TextChoices):
        RSA = key_pairs.RSA, "RSA"
        ED25519 = key_pairs.ED25519, "Ed25519"

    class State(models.TextChoices):
        PREPARED = "prepared", "Prepared"
        ACTIVE = "active", "Active"
        RETIRED = "retired", "Retired"

    domain = models.ForeignKey("accounts.Domain", models.CASCADE, related_name="dkim_keys")
    selector = models.CharField(max_length=63, help_text="One label; the record is at selector._domainkey.domain.")
    algorithm = models.CharField(max_length=20, choices=Algorithm)
    state = models.CharField(
        max_length=10, choices=State, help_text="Prepared keys wait for their record; only active ones sign."
    )
    sealed_private_key = models.TextField(
        blank=True, editable=False, help_text="PKCS #8 under accounts.sealed; empty once the key is retired."
    )
    public_key = models.TextField(editable=False, help_text="In base64, as the record has it.")
    created_at = models.DateTimeField(auto_now_add=True)
    activated_at = models.DateTimeField(null=True, blank=True, help_text="Since when it signs.")
    retired_at = models.DateTimeField(null=True, blank=True, help_text="Since when it signs no more.")

    class Meta:
        ordering = ["domain", "-id"]
        verbose_name = "DKIM key"
        constraints = [
            models.UniqueConstraint(fields=["domain", "selector"], name="one_dkim_key_per_selector"),
            models.UniqueConstraint(
                fields=["domain", "algorithm"], name="one_active_dkim_key", condition=models.Q(state="active")
            ),
            models.UniqueConstraint(
                fields=["domain", "algorithm"], name="one_prepared_dkim_key", condition=models.Q(state="prepared")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.selector}._domainkey.{self.domain.name}"

    @property
    def place(self) -> str:
        """Where its private part is at home (`accounts.sealed`): moved to another row it cannot be opened."""
        return f"dkim:{self.domain.name}:{self.selector}"
