"""That a domain was told how sessions with it fared on a day (RFC 8460 §5)."""

from __future__ import annotations

from django.db import models

from accounts.models.fields import DomainNameField


class TlsReport(models.Model):
    """One row is one domain and day that is done with: a report was sent, or the domain wants none."""

    day = models.DateField()
    policy_domain = DomainNameField()
    sent_to = models.CharField(max_length=1000, blank=True, help_text="Empty: the domain asks for no report by mail.")
    message_id = models.CharField(max_length=30, blank=True)
    made_at = models.DateTimeField()

    class Meta:
        ordering = ["-day", "policy_domain"]
        verbose_name = "TLS report"
        constraints = [models.UniqueConstraint(fields=["day", "policy_domain"], name="tls_report_once")]

    def __str__(self) -> str:
        return f"{self.day} {self.policy_domain}"
