"""How far somebody has fetched: what `POST fetch` counts from."""

from __future__ import annotations

from django.db import models


class FetchMark(models.Model):
    """One row keeps, for one caller and one mailbox owner, the last filed message that was fetched."""

    caller_id = models.BigIntegerField()
    owner_id = models.BigIntegerField(help_text="0 for all mailboxes at once.")
    last_filed_id = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller_id", "owner_id"], name="one_mark_per_caller_and_owner")]

    def __str__(self) -> str:
        return f"{self.caller_id}/{self.owner_id}: {self.last_filed_id}"
