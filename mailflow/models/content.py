"""The octets of messages: the spool."""

from __future__ import annotations

from django.db import models


class ContentChunk(models.Model):
    """One row is up to 1 MiB of one message, numbered from 0; the chunks in order are the message, bit for bit.

    Deliberately without a foreign key: chunks of a large message are committed before its `Message` row, and chunks
    whose message never came are removed by `prune`.
    """

    pk = models.CompositePrimaryKey("message_id", "ordinal")
    message_id = models.CharField(max_length=30)
    ordinal = models.PositiveIntegerField()
    octets = models.BinaryField()

    class Meta:
        db_table = "mailflow_content"

    def __str__(self) -> str:
        return f"{self.message_id}#{self.ordinal}"
