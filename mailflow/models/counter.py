"""Figures of the whole system that outlive the process that counts, and live ones that do not."""

from __future__ import annotations

from django.db import models


class Counter(models.Model):
    """One row is one figure of the whole system; processes add to it about once a second (`mailflow.counters`)."""

    name = models.CharField(primary_key=True, max_length=60)
    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


class Gauge(models.Model):
    """One row is a live figure of one process, such as its open connections.

    Its process renews it every few seconds; a row that is not fresh is of a process that is no more: it counts nothing.
    """

    pk = models.CompositePrimaryKey("name", "process")
    name = models.CharField(max_length=60)
    process = models.CharField(max_length=100, help_text="Host, process id and start of the process.")
    value = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name}@{self.process}={self.value}"
