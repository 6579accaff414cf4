"""An address that forwards."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models

from accounts.models.fields import LocalPartField, validate_address
from accounts.names import fold

CATCH_ALL = "*"
MAX_TARGETS = 100


def validate_targets(value: object) -> None:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValidationError('A list of addresses is needed, such as ["a@example.com"].')
    if len(value) > MAX_TARGETS:
        raise ValidationError(f"At most {MAX_TARGETS} targets.")
    for item in value:
        validate_address(item)


class Alias(models.Model):
    """One row forwards one local part of a domain, or with `*` every local part that nothing else takes."""

    class Announcement(models.TextChoices):
        """What a sending server hears of the forwarding (RFC 5321 §3.4)."""

        SILENT = "silent", "Forward, and say nothing of it"
        TOLD = "told", "Forward, and tell the sender the target (251)"
        MOVED = "moved", "Refuse, and tell the sender the target (551)"

    domain = models.ForeignKey("accounts.Domain", models.CASCADE, related_name="aliases")
    local_part = LocalPartField(help_text="Kept in lower case; * is the catch-all.")
    targets = models.JSONField(validators=[validate_targets], help_text="Addresses that the mail is forwarded to.")
    announcement = models.CharField(
        max_length=10,
        choices=Announcement,
        default=Announcement.SILENT,
        help_text="All but the first discloses the target to whoever writes to the alias, and needs exactly one.",
    )
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["domain", "local_part"]
        verbose_name_plural = "aliases"
        constraints = [models.UniqueConstraint(fields=["domain", "local_part"], name="one_alias_per_local_part")]

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain.name}"

    def clean(self) -> None:
        self.local_part = fold(self.local_part)
        if self.announcement != self.Announcement.SILENT and isinstance(self.targets, list) and len(self.targets) != 1:
            raise ValidationError({"announcement": "A sender can be told of one target only; this alias has others."})
