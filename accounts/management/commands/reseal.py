"""`manage.py reseal`: seal all secrets anew with the newest of ENCRYPTION_KEYS."""

from __future__ import annotations

from django.core.management.base import CommandError

from accounts import resealing
from accounts.command import PlainCommand
from accounts.models import TrailEntry
from accounts.resealing import SealedColumn, Step

EXAMPLES = """\
Example:
  manage.py reseal

To replace a key that seals the secrets:
  1. put a new one in front of the old one:  ENCRYPTION_KEYS=NEW,OLD   (openssl rand -base64 32)
  2. restart all processes
  3. manage.py reseal
  4. take the old one out, and restart again

It may be interrupted and started again: it goes on with what is left."""


class Command(PlainCommand):
    help = "Seal all secrets in the database (DKIM keys, ODMR secrets) anew with the newest of ENCRYPTION_KEYS."
    examples = EXAMPLES

    def handle(self, *_args: object, **_options: object) -> None:
        lost = [step.place for column in resealing.COLUMNS for step in self._reseal(column) if step.trouble]
        if lost:
            raise CommandError(
                f"{len(lost)} cannot be opened: put the older keys behind the newest in ENCRYPTION_KEYS."
            )
        self.stdout.write("Done: the newest key alone opens everything.")

    def _reseal(self, column: SealedColumn) -> list[Step]:
        """Go through one column, tell how far it is, and return all its steps."""
        total, steps = resealing.count(column), []
        for step in resealing.reseal(column):
            steps.append(step)
            if step.trouble:
                self.stderr.write(f"{step.place}: {step.trouble}")
            if len(steps) % resealing.BATCH == 0:
                self.stdout.write(f"{column.title}: {len(steps)} of {total} …")
        resealed = sum(step.is_resealed for step in steps)
        self.stdout.write(f"{column.title}: {len(steps)} looked at, {resealed} sealed anew.")
        if resealed:
            detail = f"{resealed} {column.title} with the newest key."
            TrailEntry.objects.create(kind="secrets.resealed", actor="reseal", subject=column.title, detail=detail)
        return steps
