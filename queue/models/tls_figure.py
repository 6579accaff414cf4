"""How sessions with a domain's hosts fared on one day, by its TLS policy (RFC 8460 §4)."""

from __future__ import annotations

from django.db import models

from accounts.models.fields import DomainNameField


class TlsFigure(models.Model):
    """One row counts the sessions, or attempts at one, that ended alike. `result` is a result type of §4.3."""

    class PolicyType(models.TextChoices):
        TLSA = "tlsa", "DANE"
        STS = "sts", "MTA-STS"
        NONE = "no-policy-found", "no policy"

    day = models.DateField(help_text="UTC.")
    policy_domain = DomainNameField(help_text="The recipients' domain.")
    policy_type = models.CharField(max_length=16, choices=PolicyType)
    mx_host = models.CharField("host", max_length=255, blank=True)
    result = models.CharField(max_length=40, blank=True, help_text="Empty where TLS was as the policy asks.")
    reason = models.CharField(max_length=120, blank=True)
    receiving_address = models.CharField(max_length=45, blank=True)
    sending_address = models.CharField(max_length=45, blank=True)
    policy = models.JSONField(default=list, help_text="The policy that was applied, line by line.")
    count = models.PositiveBigIntegerField("sessions", default=0)

    class Meta:
        ordering = ["-day", "policy_domain"]
        verbose_name = "TLS figure"
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "day", "policy_domain", "policy_type", "mx_host", "result", "reason", "receiving_address",
                    "sending_address",
                ],
                name="tls_figure_once",
            )
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.day} {self.policy_domain}: {self.count}"
