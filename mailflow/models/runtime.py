"""What staff decided while the system ran: values that go before the environment's, and requests to start anew."""

from __future__ import annotations

from django.db import models


class RuntimeSetting(models.Model):
    """One row is one value that was set; without a row the environment's value holds.

    Written by `mailflow.runtime` alone, which checks the value and leaves a trail. A row that does not fit (any more)
    is passed over by its readers.
    """

    class Service(models.TextChoices):
        SMTP = "smtp", "SMTP"
        IMAP = "imap", "IMAP"

    service = models.CharField(max_length=10, choices=Service)
    name = models.CharField(max_length=30)
    value = models.JSONField(help_text="A number, or true or false.")
    set_by = models.CharField(max_length=254, help_text="User, or user and key.")
    set_at = models.DateTimeField()

    class Meta:
        ordering = ["service", "name"]
        constraints = [models.UniqueConstraint(fields=["service", "name"], name="runtime_setting_once")]

    def __str__(self) -> str:
        return f"{self.service} {self.name}={self.value}"


class RestartRequest(models.Model):
    """One row is the latest request to start one kind of process anew; each request has the next generation.

    A process compares generations with the one that it found at its own start, never times: a clock that jumps starts
    nothing and holds up nothing.
    """

    class Service(models.TextChoices):
        SMTP = "smtp", "SMTP"
        WORKER = "worker", "Worker"

    service = models.CharField(primary_key=True, max_length=10, choices=Service)
    generation = models.BigIntegerField(default=0)
    requested_by = models.CharField(max_length=254)
    requested_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.service} no. {self.generation}"
