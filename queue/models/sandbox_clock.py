"""How far the sandbox's clock is ahead of the real one."""

from __future__ import annotations

import datetime as dt

from django.db import models


class SandboxClock(models.Model):
    """One row at most, number 1; without it the sandbox lives in real time (docs/adr/0017).

    Only `queue.simulation.clock` writes it. It moves sandbox entries alone: leases, tokens and limits keep real time.
    """

    ROW = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ROW)
    ahead = models.DurationField(default=dt.timedelta(0), help_text="What is added to the real time.")
    changed_at = models.DateTimeField(help_text="When it was moved last, in real time.")
    changed_by = models.CharField(max_length=150, blank=True)

    class Meta:
        verbose_name = "sandbox clock"
        verbose_name_plural = "sandbox clock"

    def __str__(self) -> str:
        return f"{self.ahead} ahead"
