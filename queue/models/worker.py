"""A process that delivers, as it tells of itself every few seconds."""

from __future__ import annotations

from django.db import models


class Worker(models.Model):
    """One row is one running engine; it goes at a clean end, and some time after one that was not.

    `deliveries`: at most 50 that run, the oldest first, as `{"destination", "message_id", "recipients", "since"}`, the
    last in ISO 8601.
    """

    name = models.CharField(primary_key=True, max_length=40)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    mark = models.CharField(max_length=120, blank=True, default="", help_text="By which its machine knows its process.")
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField(help_text="When it last told of itself.")
    leased_until = models.DateTimeField(help_text="Until then what it holds of destinations is its own.")
    in_flight = models.PositiveIntegerField(default=0, help_text="Entries that it has under lease.")
    running = models.PositiveIntegerField(default=0, help_text="Deliveries that run.")
    waiting = models.PositiveIntegerField(default=0, help_text="Entries that wait in it for their turn.")
    rung = models.PositiveIntegerField(default=0, help_text="Entries that it was rung for and has not claimed yet.")
    deliveries = models.JSONField(default=list)
    recalls = models.PositiveIntegerField(
        default=0, help_text="How often it was asked to give back what people have changed (`queue.recall`)."
    )
    recalls_answered = models.PositiveIntegerField(
        default=0, help_text="Of these questions, up to which it has done so."
    )

    class Meta:
        ordering = ["started_at"]

    def __str__(self) -> str:
        return self.name
