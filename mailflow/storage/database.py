"""Copies in the database, each message once: the spool's chunks are the copy (contract §4, `database`).

All mailboxes that got a message share one key, so nobody may remove the octets alone. Who needs them is told by rows:

- a `Message` row: the message is on its way, or kept for its page and its source until `prune` removes the row;
- a `FiledMessage` row of this backend: the message lies in a mailbox.

The last of them to go takes the octets along: `delete` where the `Message` row went first, `prune` where it goes last.
So whoever removes a copy deletes its `FiledMessage` row *before* calling `delete`; a call with the row in place does
nothing. Where two mailboxes drop their copies in the same instant each may take the other's row for alive, and the
octets stay: `prune` must also look for chunks that no row needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Exists, OuterRef

from mailflow import content
from mailflow.message.trace import return_path_line
from mailflow.models import ContentChunk, FiledMessage, Message
from mailflow.storage.base import Copy

NAME = "database"
_PREFIX = "db:"


def key_of(message_id: str) -> str:
    return _PREFIX + message_id


def read_delivered(message_id: str) -> bytes:
    """Return the spool's octets under the Return-Path of the final delivery (RFC 5321 §4.4); raise `CopyMissing`.

    The line is the same in every mailbox, so it is told from the envelope and not stored with each copy.
    """
    octets = content.read(message_id)
    reverse_path = Message.objects.filter(pk=message_id).values_list("reverse_path", flat=True).first()
    return octets if reverse_path is None else return_path_line(reverse_path) + octets


class DatabaseStorage:
    """Where the spool has not written the chunks already, `put` is durable with the caller's commit."""

    name = NAME

    def put(self, copy: Copy) -> str:
        """Make sure that the octets are there; one query for a message out of the spool."""
        if not copy.is_spooled and not ContentChunk.objects.filter(message_id=copy.message_id).exists():
            ContentChunk.objects.bulk_create(
                (
                    ContentChunk(message_id=copy.message_id, ordinal=ordinal, octets=octets)
                    for ordinal, octets in enumerate(content.split(copy.content))
                ),
                ignore_conflicts=True,
            )
        return key_of(copy.message_id)

    def read(self, key: str) -> bytes:
        return read_delivered(key.removeprefix(_PREFIX))

    def delete(self, key: str) -> None:
        self.delete_many([key])

    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove the octets that no row needs any more (see above), judged and done in one statement."""
        ContentChunk.objects.filter(
            ~Exists(Message.objects.filter(pk=OuterRef("message_id"))),
            ~Exists(FiledMessage.objects.filter(message_id=OuterRef("message_id"), storage=self.name)),
            message_id__in={key.removeprefix(_PREFIX) for key in keys},
        ).delete()
