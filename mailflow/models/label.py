"""What senders give their messages to find them by: tags, and data of their own."""

from __future__ import annotations

from django.db import models


class Tag(models.Model):
    """One row gives one message one tag; written with the message, and pruned with it. Without a foreign key, as
    content is: the hot path pays for none.
    """

    pk = models.CompositePrimaryKey("tag", "message_id")
    tag = models.CharField(max_length=64)
    message_id = models.CharField(max_length=30)

    class Meta:
        db_table = "mailflow_tag"
        indexes = [models.Index(fields=["message_id"], name="tag_by_message")]

    def __str__(self) -> str:
        return f"{self.tag}: {self.message_id}"


class Metadata(models.Model):
    """One row keeps one message's metadata: names and values that its sender gave, and nobody else reads."""

    message_id = models.CharField(primary_key=True, max_length=30)
    data = models.JSONField()

    class Meta:
        db_table = "mailflow_metadata"
        verbose_name_plural = "metadata"

    def __str__(self) -> str:
        return self.message_id
