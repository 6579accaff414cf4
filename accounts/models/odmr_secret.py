"""What the host of a dial-up domain logs in with to fetch its mail (RFC 2645 §5.1.2)."""

from __future__ import annotations

from django.db import models


def place_of(domain: str) -> str:
    return f"odmr:{domain}"


class OdmrSecret(models.Model):
    """One row is the one secret of a domain; the login name is the domain. Made and read by `accounts.odmr` alone.

    It is no user's password, and opens nothing but the domain's waiting mail.
    """

    domain = models.OneToOneField("accounts.Domain", models.CASCADE, related_name="odmr_secret")
    sealed = models.TextField(
        editable=False, help_text="Encrypted (accounts.sealed); CRAM-MD5 needs the secret itself."
    )
    created_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="When somebody last logged in with it.")

    class Meta:
        ordering = ["domain__name"]
        verbose_name = "ODMR secret"

    @property
    def place(self) -> str:
        """Where the secret is at home, for `accounts.sealed`."""
        return place_of(self.domain.name)

    def __str__(self) -> str:
        return f"ODMR secret of {self.domain}"
