"""A domain that mail goes to, with its limits and what it has taught us; and who uses its connections."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class Destination(models.Model):
    """One row is one recipient domain (docs/adr/0014). Its row is the lock under which workers share its connections.

    Staff set the limits; everything else is learned from deliveries, in batches, in transactions of their own.
    """

    domain = models.CharField(primary_key=True, max_length=255, help_text="As A-labels, such as example.com.")
    max_connections = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="The most connections at once, over all workers. Empty: SMTP_POOL_SIZE.",
    )
    per_minute = models.PositiveIntegerField(
        "messages a minute",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(1_000_000)],
        help_text="The most messages in a minute, over all workers. Empty: no limit.",
    )
    note = models.CharField(max_length=200, blank=True, help_text="Why it has limits of its own; for other people.")

    learned = models.FloatField(
        null=True,
        blank=True,
        help_text="Connections at once that it bears; grows with success. Empty: as many as the limit.",
    )
    failures = models.PositiveIntegerField(default=0, help_text="Pauses in a row, without a delivery between them.")
    paused_until = models.DateTimeField(
        null=True, blank=True, help_text="No attempt before this; what waits for it costs none."
    )
    backed_off_at = models.DateTimeField(null=True, blank=True, help_text="When it last got less.")
    failure = models.CharField(max_length=300, blank=True, help_text="The last sign against it, in its own words.")
    failed_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True, help_text="When it last answered; to about a minute.")

    bucket_level = models.FloatField(default=0, help_text="Messages that may go at once, of those a minute.")
    bucket_at = models.DateTimeField(null=True, blank=True)
    used_at = models.DateTimeField(help_text="When mail last went there; to about an hour.")

    class Meta:
        ordering = ["domain"]
        indexes = [
            models.Index(
                fields=["paused_until"], name="destination_paused", condition=models.Q(paused_until__isnull=False)
            ),
            models.Index(fields=["used_at"], name="destination_used"),
        ]

    def __str__(self) -> str:
        return self.domain


class Slots(models.Model):
    """One row is what one worker holds of one destination's connections; it counts while the worker is alive."""

    domain = models.CharField(max_length=255)
    worker = models.CharField(max_length=40)
    held = models.PositiveIntegerField(help_text="Connections that it may have at once.")
    in_use = models.PositiveIntegerField(help_text="Deliveries that ran a few seconds ago.")
    wanted = models.PositiveIntegerField(help_text="How many it could use.")

    class Meta:
        verbose_name_plural = "slots"
        constraints = [models.UniqueConstraint(fields=["domain", "worker"], name="slots_once")]

    def __str__(self) -> str:
        return f"{self.worker}: {self.held} of {self.domain}"
