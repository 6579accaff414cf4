"""API keys and their daily count; R5 tells its readers to query these two tables by name."""

from __future__ import annotations

import uuid

from django.core.exceptions import ValidationError
from django.db import models

from accounts.models.fields import validate_address, validate_domain

MAX_SENDERS = 100


class Scope(models.TextChoices):
    """What a key may be used for; its user's own rights are the other limit."""

    SEND = "send", "Send mail"
    READ = "read", "Read what its user may see"
    ADMIN = "admin", "Everything its user may do"


DEFAULT_SCOPES = (Scope.SEND.value, Scope.READ.value)


def default_scopes() -> list[str]:
    return list(DEFAULT_SCOPES)


def validate_scopes(value: object) -> None:
    if not isinstance(value, list) or not value or not all(item in Scope.values for item in value):
        raise ValidationError(f"A list of at least one of {', '.join(Scope.values)} is needed.")


def validate_sender_domains(value: object) -> None:
    for item in _texts(value):
        validate_domain(item)


def validate_sender_addresses(value: object) -> None:
    for item in _texts(value):
        validate_address(item)


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValidationError("A list of texts is needed; an empty one for no such limit.")
    if len(value) > MAX_SENDERS:
        raise ValidationError(f"At most {MAX_SENDERS} of them.")
    return value


class ApiKey(models.Model):
    """One row is one key: shown once when made, then known by its prefix and a hash of the whole.

    Rotated, it gets a new text, and the one before works until `previous_expires_at`: the same key, one daily count.
    Switched off (`is_active`) it can be switched on again; revoked (`revoked_at`) it cannot.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, help_text="What the key is for.")
    prefix = models.CharField(max_length=32, unique=True, editable=False, help_text="The key's visible start.")
    key_hash = models.CharField(max_length=64, editable=False)
    user = models.ForeignKey(
        "accounts.User", models.CASCADE, related_name="api_keys", help_text="Mail sent with the key is this user's."
    )
    daily_limit = models.PositiveIntegerField(default=15, help_text="Messages a day (UTC).")
    scopes = models.JSONField(
        default=default_scopes, validators=[validate_scopes], help_text="What it may be used for: send, read, admin."
    )
    allowed_domains = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_sender_domains],
        help_text="Domains that it may send from; with no domain and no address here, all that its user may.",
    )
    allowed_addresses = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_sender_addresses],
        help_text="Addresses that it may send from, beside those domains.",
    )
    is_active = models.BooleanField(default=True, help_text="While off, it opens nothing.")
    expires_at = models.DateTimeField(null=True, blank=True, help_text="From then on it opens nothing; empty: never.")
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="To the minute or so.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    previous_prefix = models.CharField(max_length=32, unique=True, null=True, blank=True, editable=False)
    previous_hash = models.CharField(max_length=64, blank=True, editable=False)
    previous_expires_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Until then the text before the last rotation works too."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "api_keys"
        ordering = ["-created_at"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def is_test(self) -> bool:
        """Whether mail sent with it goes to the simulated internet alone (`sk_test_`)."""
        return self.prefix.startswith("sk_test_")


class DailyUsage(models.Model):
    """One row counts what one key sent on one day (UTC); only `accounts.keys.take` writes it."""

    api_key = models.ForeignKey(ApiKey, models.CASCADE, related_name="usage")
    date = models.DateField()
    count = models.PositiveIntegerField(default=0)

    class Meta:
        db_table = "daily_usage"
        ordering = ["-date"]
        verbose_name_plural = "daily usage"
        constraints = [models.UniqueConstraint(fields=["api_key", "date"], name="one_usage_row_per_day")]

    def __str__(self) -> str:
        return f"{self.api_key_id} {self.date}: {self.count}"
