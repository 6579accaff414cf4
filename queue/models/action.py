"""One order on a selection of queue entries: what was asked for, by whom, and how far it has come."""

from __future__ import annotations

from django.db import models

from mailflow.models.fields import RowIdField


class QueueAction(models.Model):
    """One row is one action in bulk; it is the action's progress while it runs, and its record afterwards.

    Carried out in the order of entries' ids. Each batch is committed together with `last_entry_id` and the counts, so
    whoever goes on after a crash begins behind the last whole batch. `runner` and `seen_at` are its lease.
    """

    class Status(models.TextChoices):
        WAITING = "waiting", "Waiting for a worker"
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"
        FAILED = "failed", "Failed"

    OPEN = (Status.WAITING, Status.RUNNING)

    id = RowIdField(primary_key=True)
    created_at = models.DateTimeField()
    actor = models.CharField(max_length=254, help_text="Who asked for it.")
    client_address = models.CharField(max_length=45, blank=True)
    door = models.CharField(max_length=10, help_text="Where it was asked for: api, admin or command.")
    action = models.CharField(max_length=10)
    parameters = models.JSONField(default=dict)
    filter = models.JSONField(default=dict, help_text="Which entries; with times in the place of spans.")
    up_to_id = models.BigIntegerField(help_text="Entries that came after it was asked for have a higher id.")
    status = models.CharField(max_length=10, choices=Status, default=Status.WAITING)
    total = models.PositiveIntegerField(null=True, blank=True, help_text="Entries to look at; empty until it begins.")
    looked_at = models.PositiveIntegerField(default=0)
    done = models.PositiveIntegerField(default=0)
    left = models.JSONField(default=dict, help_text="Entries left alone, counted by the reason.")
    last_entry_id = models.BigIntegerField(default=0)
    runner = models.CharField(max_length=60, blank=True)
    seen_at = models.DateTimeField(null=True, blank=True, help_text="When its runner last said that it lives.")
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    is_stop_wanted = models.BooleanField(default=False)
    error = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["id"], name="action_open", condition=models.Q(finished_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.actor}"
