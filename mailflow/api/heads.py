"""The beginnings of many messages at once, for lists."""

from __future__ import annotations

from collections.abc import Collection

from django.db.models import BinaryField
from django.db.models.functions import Substr

from mailflow.api import reading
from mailflow.api.reading import Shown
from mailflow.models import ContentChunk


def shown(message_ids: Collection[str]) -> dict[str, Shown]:
    """Read the first octets of the messages that the spool still holds, by id; one query."""
    chunks = ContentChunk.objects.filter(message_id__in=message_ids, ordinal=0)
    rows = chunks.annotate(head=Substr("octets", 1, reading.HEAD_OCTETS, output_field=BinaryField()))
    return {message_id: reading.read(bytes(head)) for message_id, head in rows.values_list("message_id", "head")}
