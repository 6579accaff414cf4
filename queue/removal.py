"""Removing the record of one message before its time: what `prune` does to old ones, asked for by a person."""

from __future__ import annotations

from collections.abc import Collection

from django.db import transaction
from django.db.models import Count, F

from accounts.models import TrailEntry, User
from mailflow import content, removed
from mailflow.models import Event, FiledMessage, Message, Metadata, Tag
from mailflow.storage import database
from queue.models import Attempt, Entry


class StillOpen(Exception):
    """Somebody is still to get it; the text says so."""


def remove_rows(message_ids: Collection[str]) -> None:
    """Delete all rows of these messages but their content, in the caller's transaction."""
    _keep_counts(message_ids)
    removed.note_messages(message_ids)
    Attempt.objects.filter(entry__message_id__in=message_ids).delete()
    Entry.objects.filter(message_id__in=message_ids).delete()
    Event.objects.filter(message_id__in=message_ids).exclude(message_id="").delete()  # as its partial index has it
    Tag.objects.filter(message_id__in=message_ids).delete()
    Metadata.objects.filter(pk__in=message_ids).delete()
    Message.objects.filter(pk__in=message_ids).delete()


def _keep_counts(message_ids: Collection[str]) -> None:
    """Add what goes to its senders' counts, which tell of all that they ever sent."""
    sent = Message.objects.filter(pk__in=message_ids, user_id__isnull=False).order_by("user_id")
    for user_id, number in sent.values_list("user_id").annotate(number=Count("pk")):
        User.objects.filter(pk=user_id).update(pruned_sent_count=F("pruned_sent_count") + number)


def remove_record(message: Message, *, actor: str) -> None:
    """Delete a message that has ended, with its history; raises `StillOpen`.

    Its octets go too, unless they are what a mailbox shows (`mailflow.storage.database`). The trail keeps who did it.
    """
    with transaction.atomic():
        locked = Message.objects.select_for_update().get(pk=message.pk)
        if Entry.objects.filter(message=locked, status__in=Entry.OPEN).exists():
            raise StillOpen("Somebody is still to get the message: take it out of the queue first.")
        subject = locked.subject[:100]
        remove_rows([locked.pk])
        if not FiledMessage.objects.filter(message_id=message.pk, storage=database.NAME).exists():
            content.delete([message.pk])
        TrailEntry.objects.create(
            kind="message.deleted", actor=actor, subject=message.pk, detail=f"The record of {subject!r} was deleted."
        )
