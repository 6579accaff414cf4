"""A host that takes mail on the way out, for one recipient domain or for one organization."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from accounts import sealed
from accounts.models.fields import DomainNameField
from queue.transports.base import Relay
from queue.transports.tls import TlsPolicy


class SmartHost(models.Model):
    """One row is one override of the way that DNS and RELAY_HOST say (`queue.routing`).

    It is for one recipient domain, or for one organization's mail; without either it serves nobody by itself, and
    lends its account to mail that a person sends that way. The password is sealed for this host and user name:
    whoever changes either must know it.
    """

    class Tls(models.TextChoices):
        REQUIRED = TlsPolicy.REQUIRED.value, "STARTTLS, required"
        IMPLICIT = TlsPolicy.IMPLICIT.value, "TLS from the first octet"
        OPPORTUNISTIC = TlsPolicy.OPPORTUNISTIC.value, "STARTTLS where offered, unverified"
        NEVER = TlsPolicy.NEVER.value, "never"

    domain = DomainNameField(
        blank=True, help_text="Recipient domain whose mail goes this way, exactly as written: not its subdomains."
    )
    organization = models.ForeignKey(
        "accounts.Organization",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="smart_hosts",
        help_text="Organization whose outgoing mail goes this way, where its recipient's domain has no way of its own.",
    )
    host = models.CharField(max_length=255, help_text="A name or an address; a private one is fine here.")
    port = models.PositiveIntegerField(
        default=587, validators=[MinValueValidator(1), MaxValueValidator(65535)], help_text="465 for implicit TLS."
    )
    tls = models.CharField(
        "TLS",
        max_length=15,
        choices=Tls,
        default=Tls.REQUIRED,
        help_text="Required and implicit: with a certificate that is valid for the host. No password goes elsewhere.",
    )
    username = models.CharField("user name", max_length=255, blank=True, help_text="Empty: without AUTH.")
    sealed_password = models.TextField(blank=True, editable=False)
    is_active = models.BooleanField(default=True, help_text="While off, mail goes as if this were not here.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["domain", "organization"]
        verbose_name = "smarthost"
        constraints = [
            models.UniqueConstraint(
                fields=["domain"],
                condition=~models.Q(domain=""),
                name="smart_host_of_domain",
                violation_error_message="This domain has a smarthost already.",
            ),
            models.UniqueConstraint(
                fields=["organization"],
                condition=models.Q(organization__isnull=False),
                name="smart_host_of_organization",
                violation_error_message="This organization has a smarthost already.",
            ),
            models.CheckConstraint(
                condition=models.Q(domain="") | models.Q(organization__isnull=True),
                name="smart_host_has_one_scope",
                violation_error_message="Choose a domain or an organization, not both.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def place(self) -> str:
        """Where its password may be opened (`accounts.sealed`)."""
        return f"smarthost:{self.host.lower()}:{self.username}"

    def set_password(self, password: str) -> None:
        self.sealed_password = sealed.seal(password.encode(), self.place) if password else ""

    @property
    def relay(self) -> Relay:
        """The account at this host; raises `sealed.CannotOpen`."""
        password = sealed.open_sealed(self.sealed_password, self.place).decode() if self.sealed_password else ""
        return Relay(f"the smarthost {self}", self.username, password)
