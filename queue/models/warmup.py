"""How a new sending domain of ours comes into use."""

from __future__ import annotations

from django.db import models

from queue.pacing import plan


def default_steps() -> list[int]:
    return list(plan.DEFAULT_STEPS)


class WarmupPlan(models.Model):
    """One row is the plan of one domain: so many messages to other hosts on each day since the start, then no limit.

    `granted` counts the messages of the day `granted_on` that workers have begun, or hold and may begin.
    """

    domain = models.OneToOneField("accounts.Domain", models.CASCADE, related_name="warmup_plan")
    started_on = models.DateField(help_text="The first day of the plan; days are UTC's.")
    steps = models.JSONField(default=default_steps, help_text="Messages on each day, from the first.")
    is_active = models.BooleanField(default=True, help_text="While off, the domain sends without a limit.")
    granted = models.PositiveIntegerField(default=0)
    granted_on = models.DateField(null=True)

    class Meta:
        ordering = ["domain__name"]
        verbose_name = "warm-up plan"

    def __str__(self) -> str:
        return f"warm-up of {self.domain}"
