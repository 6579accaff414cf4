"""IMAP mailboxes and what is filed in them (API word: folder)."""

from __future__ import annotations

from django.db import models


class Mailbox(models.Model):
    """One row is one folder of one user; UIDs are allocated under its row lock (RFC 9051 §2.3.1.1)."""

    user = models.ForeignKey("accounts.User", models.CASCADE, related_name="mailboxes")
    name = models.CharField(max_length=255)
    uid_validity = models.PositiveBigIntegerField()
    uid_next = models.PositiveBigIntegerField(default=1)
    highest_modseq = models.PositiveBigIntegerField(default=1)

    class Meta:
        ordering = ["user", "name"]
        verbose_name_plural = "mailboxes"
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="one_mailbox_per_name")]

    def __str__(self) -> str:
        return f"{self.user_id}/{self.name}"


class FiledMessage(models.Model):
    """One row is one message in one mailbox, under a UID that is never used again.

    Filed at most once for a queue entry: `entry_id` is unique, so a repeated delivery finds the first one's row.
    """

    mailbox = models.ForeignKey(Mailbox, models.CASCADE, related_name="filed")
    uid = models.PositiveBigIntegerField()
    modseq = models.PositiveBigIntegerField()
    message_id = models.CharField(max_length=30, db_index=True, help_text="The message this is a copy of.")
    entry_id = models.BigIntegerField(unique=True, null=True, blank=True)
    recipient = models.CharField(max_length=320, help_text="The address it was delivered for.")
    flags = models.JSONField(default=list, help_text="IMAP flags such as \\Seen.")
    internal_date = models.DateTimeField()
    size_octets = models.BigIntegerField()
    digest = models.CharField(max_length=64, help_text="SHA-256 of the copy as it is read back, in hex.")
    storage = models.CharField(max_length=12, help_text="The backend that holds the copy.")
    storage_key = models.CharField(max_length=500, help_text="Where the backend finds it.")

    class Meta:
        ordering = ["mailbox", "-uid"]
        constraints = [models.UniqueConstraint(fields=["mailbox", "uid"], name="one_message_per_uid")]

    def __str__(self) -> str:
        return f"{self.mailbox_id}/{self.uid}"
