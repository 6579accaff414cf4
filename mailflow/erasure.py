"""Delete an account with all its data: at once for who looks, in small steps for the disks.

`begin` makes the account vanish in one transaction: nobody logs in, its address is nobody's, name and address are free.
What it leaves is removed by `erase`, in any number of runs and processes: every step may be repeated, and a crash
between two leaves nothing behind that the next run does not find. What the account had sent and is still on its way
goes on; its record goes when it has ended, and the last trace, the row itself, with it.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts.models import TrailEntry, User
from mailflow import removed
from mailflow.errors import Unavailable
from mailflow.models import Event, FiledMessage, Mailbox, Message, Metadata, Tag
from mailflow.storage import database, registry

log = structlog.get_logger(__name__)

BATCH = 200
MAX_RUN_SECONDS = 300.0
_IS_FILED = Exists(FiledMessage.objects.filter(message_id=OuterRef("pk")))
PAUSE = 0.02  # between steps: SQLite's waiting writers poll, and must find the lock free


def begin(user: User, *, actor: str, client: str = "") -> bool:
    """Make the account vanish; return False where somebody else did so before."""
    with transaction.atomic():
        row = User.objects.select_for_update().filter(pk=user.pk, deleted_at__isnull=True).first()
        if row is None:
            return False
        username, address = row.username, row.email
        row.username = f"deleted-{row.pk}-{secrets.token_hex(4)}"
        row.email = f"{row.username}@deleted.invalid"  # RFC 2606: nobody's domain, now and for good
        row.first_name = row.last_name = ""
        row.is_active = row.is_staff = row.is_superuser = row.is_organization_admin = False
        row.organization = None
        row.set_unusable_password()
        row.deleted_at = timezone.now()
        row.save()
        row.api_keys.all().delete()
        TrailEntry.objects.create(
            kind="user.deleted",
            actor=actor[:254],
            subject=username,
            client_address=client,
            detail=f"{address}, with {row.used_octets} octets of mail.",
        )
    return True


def erase(user_id: int, *, seconds: float = MAX_RUN_SECONDS) -> bool:
    """Remove what a deleted account has left, until all is gone or the time is over; return whether all is gone.

    Raises `Unavailable` where a storage refuses; a later run goes on from there.
    """
    ends_at = time.monotonic() + seconds
    while _step(user_id):
        if time.monotonic() > ends_at:
            return False
        time.sleep(PAUSE)
    return not User.objects.filter(pk=user_id).exists()


def erase_all() -> int:
    """Go on with every account that was deleted and has left something; return how many are gone now."""
    gone = 0
    for user_id in list(
        User.objects.filter(deleted_at__isnull=False).order_by("deleted_at").values_list("pk", flat=True)
    ):
        try:
            if erase(user_id):
                gone += 1
                log.info("account_erased", user_id=user_id)
        except Unavailable as trouble:
            log.error("erasure_waits_for_storage", user_id=user_id, cause=trouble.cause)
    return gone


def _step(user_id: int) -> bool:
    """Remove one batch; return whether there may be another."""
    filed = list(FiledMessage.objects.filter(mailbox__user=user_id).order_by("pk")[:BATCH])
    if filed:
        _remove_filed(filed)
        _remove_messages(_only_theirs(user_id, {row.message_id for row in filed}))
        return True
    sent = list(_ended(user_id).filter(~_IS_FILED).values_list("pk", flat=True)[:BATCH])
    if sent:
        _remove_messages(sent)
        return True
    # What lies in somebody else's mailbox is that person's as well: it stays, and knows its sender's account no more.
    lent = list(_ended(user_id).values_list("pk", flat=True)[:BATCH])
    if lent:
        Message.objects.filter(pk__in=lent).update(user_id=None, api_key_id=None)
        return True
    return _finish(user_id)


def _ended(user_id: int) -> QuerySet[Message]:
    return Message.objects.filter(user_id=user_id, finished_at__isnull=False).order_by("pk")


def _remove_filed(filed: Sequence[FiledMessage]) -> None:
    """Remove copies and then rows, so that a crash between leaves a row that the next run finds.

    In the database storage the rows say who needs the octets, so there the rows go first (`mailflow.storage.database`).
    """
    keys: dict[str, list[str]] = defaultdict(list)
    for row in filed:
        keys[row.storage].append(row.storage_key)
    for name in keys.keys() - {database.NAME}:
        try:
            registry.by_name(name).delete_many(keys[name])
        except registry.UnknownStorage:
            log.error("copies_left_in_unknown_storage", storage=name, copies=len(keys[name]))
    FiledMessage.objects.filter(pk__in=[row.pk for row in filed]).delete()
    if database.NAME in keys:
        registry.by_name(database.NAME).delete_many(keys[database.NAME])


def _only_theirs(user_id: int, message_ids: set[str]) -> list[str]:
    """Return those messages that were for nobody else and lie nowhere any more."""
    alone = Message.objects.filter(
        Q(user_id__isnull=True) | Q(user_id=user_id),
        ~_IS_FILED,
        pk__in=message_ids,
        recipient_count=1,
        finished_at__isnull=False,
    )
    return list(alone.values_list("pk", flat=True))


def _remove_messages(message_ids: Sequence[str]) -> None:
    """Remove records with their history and octets; the queue's rows hang on the message and go along."""
    if not message_ids:
        return
    with transaction.atomic():
        removed.note_messages(message_ids)
        Event.objects.filter(message_id__in=message_ids).exclude(message_id="").delete()
        Tag.objects.filter(message_id__in=message_ids).delete()
        Metadata.objects.filter(pk__in=message_ids).delete()
        Message.objects.filter(pk__in=message_ids).delete()
    registry.by_name(database.NAME).delete_many([database.key_of(pk) for pk in message_ids])


def _finish(user_id: int) -> bool:
    """Remove the row itself once nothing hangs on it; return whether something came in meanwhile."""
    with transaction.atomic():
        # Whoever files mail locks the account first: what was filed before is seen here, nothing is filed behind.
        row = User.objects.select_for_update().filter(pk=user_id, deleted_at__isnull=False).first()
        if row is None:
            return False
        if FiledMessage.objects.filter(mailbox__user=row).exists():
            return True
        Mailbox.objects.filter(user=row).delete()
        if not Message.objects.filter(user_id=user_id).exists():
            row.delete()
    return False
