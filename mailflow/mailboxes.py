"""Filing into mailboxes: UIDs, modseq, used space (RFC 9051 §2.3.1.1, RFC 7162 §3.1), and reading what was filed.

Locks are taken in one order everywhere: users by id, then mailboxes by id. On SQLite the transaction is the lock.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from django.db import connection, transaction
from django.utils import timezone

from accounts.models import User
from mailflow.locking import lock, marks
from mailflow.models import FiledMessage, Mailbox
from mailflow.smtp.reply import Reply
from mailflow.spool.insert import bulk_insert
from mailflow.storage import registry
from mailflow.storage.base import CopyMissing
from mailflow.storage.database import read_delivered

INBOX = "INBOX"
STANDARD_MAILBOXES = (INBOX, "Sent", "Drafts", "Junk", "Trash")
FAR_OVER_PERCENT = 110

_FILED_FIELDS = (
    "mailbox_id", "uid", "modseq", "message_id", "entry_id", "recipient", "flags", "internal_date", "size_octets",
    "digest", "storage", "storage_key",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewFiling:
    """A copy that is already in its storage and gets its place in a mailbox."""

    user_id: int
    message_id: str
    entry_id: int | None  # None: no queue entry stands behind it, so nothing tells a repetition
    recipient: str
    internal_date: dt.datetime
    size_octets: int
    digest: str
    storage: str
    storage_key: str
    folder: str = INBOX
    flags: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Filed:
    """Where a copy lies; `repeated`: it lay there before this call."""

    filing: NewFiling
    mailbox_id: int
    uid: int
    repeated: bool = False


class QuotaVerdict(enum.StrEnum):
    OK = "ok"
    OVER = "over"
    FAR_OVER = "far_over"


QUOTA_REPLIES: Final = {
    QuotaVerdict.OVER: Reply(452, "2.2", "The mailbox is full"),
    QuotaVerdict.FAR_OVER: Reply(552, "2.2", "The mailbox is full"),
}


def quota_verdict(used_octets: int, incoming_octets: int, quota_octets: int) -> QuotaVerdict:
    """Judge whether a message fits; pure. A quota of 0 is no limit (contract §2)."""
    wanted = used_octets + incoming_octets
    if quota_octets <= 0 or wanted <= quota_octets:
        return QuotaVerdict.OK
    if wanted * 100 > quota_octets * FAR_OVER_PERCENT:
        return QuotaVerdict.FAR_OVER
    return QuotaVerdict.OVER


def ensure_mailboxes(user_ids: Iterable[int], extra: Iterable[tuple[int, str]] = ()) -> None:
    """Create the standard mailboxes, and `extra` ones as (user, name), where they are missing. Race-safe."""
    uid_validity = int(timezone.now().timestamp())
    wanted = {(user_id, name): None for user_id in user_ids for name in STANDARD_MAILBOXES}
    wanted.update(dict.fromkeys(extra))
    Mailbox.objects.bulk_create(
        [Mailbox(user_id=user_id, name=name, uid_validity=uid_validity) for user_id, name in wanted],
        ignore_conflicts=True,
    )


def file_copies(copies: Sequence[NewFiling]) -> list[Filed | None]:
    """File the copies in the caller's transaction; the number of queries does not grow with their number.

    Answers in the order given; None where the account is gone. A queue entry that was filed before is found, not filed
    again, and counts nothing, so a repeated delivery is harmless.
    """
    if not copies:
        return []
    if not transaction.get_connection().in_atomic_block:
        raise transaction.TransactionManagementError("file_copies needs the caller's transaction")
    users = _lock_users({copy.user_id for copy in copies})
    fileable = [copy for copy in copies if copy.user_id in users]
    boxes = _lock_mailboxes({(copy.user_id, copy.folder) for copy in fileable})
    # asked under the locks: a rival that files the same entries has committed, or waits for us
    before = _filed_before(fileable)
    answers: list[Filed | None] = []
    added: list[Filed] = []
    for copy in copies:
        known = before.get(copy.entry_id) if copy.entry_id is not None else None
        if known is not None:
            answers.append(Filed(copy, *known, repeated=True))
        elif copy.user_id not in users:
            answers.append(None)
        else:
            box = boxes[copy.user_id, copy.folder]
            filed = Filed(copy, box.pk, box.uid_next)
            box.uid_next += 1
            answers.append(filed)
            added.append(filed)
            if copy.entry_id is not None:
                before[copy.entry_id] = (filed.mailbox_id, filed.uid)  # the same entry twice in one batch
    if added:
        _write(added, {box.pk: box for box in boxes.values()})
    return answers


def read_copy(filed: FiledMessage) -> bytes:
    """Return the octets from the storage that has them, or from the spool; raise `CopyMissing` where neither does."""
    try:
        return registry.by_name(filed.storage).read(filed.storage_key)
    except (CopyMissing, registry.UnknownStorage):
        return read_delivered(filed.message_id)


def discard_copies(copies: Sequence[NewFiling]) -> None:
    """Remove copies that found no mailbox from their storage; the caller's transaction has ended."""
    for name in {copy.storage for copy in copies}:
        registry.by_name(name).delete_many([copy.storage_key for copy in copies if copy.storage == name])


def verify(filed: FiledMessage, octets: bytes) -> bool:
    """Whether these are, bit for bit, the octets that were filed."""
    return len(octets) == filed.size_octets and hashlib.sha256(octets).hexdigest() == filed.digest


def _lock_users(user_ids: set[int]) -> set[int]:
    ids = sorted(user_ids)
    return {pk for (pk,) in lock(User, ("id",), f"id IN {marks(ids)}", ids)}


@dataclass(slots=True)
class _Box:
    """A mailbox's row, locked, with its marks as they become."""

    pk: int
    user_id: int
    name: str
    uid_next: int
    highest_modseq: int


def _lock_mailboxes(wanted: set[tuple[int, str]]) -> dict[tuple[int, str], _Box]:
    if not wanted:
        return {}
    found = _select_mailboxes(wanted)
    missing = wanted - found.keys()
    if missing:
        ensure_mailboxes(sorted({user_id for user_id, _ in missing}), sorted(missing))
        found = _select_mailboxes(wanted)
    return found


def _select_mailboxes(wanted: set[tuple[int, str]]) -> dict[tuple[int, str], _Box]:
    user_ids, names = sorted({user_id for user_id, _ in wanted}), sorted({name for _, name in wanted})
    condition = f"user_id IN {marks(user_ids)} AND name IN {marks(names)}"
    columns = ("id", "user_id", "name", "uid_next", "highest_modseq")
    boxes = [_Box(*row) for row in lock(Mailbox, columns, condition, [*user_ids, *names])]
    return {(box.user_id, box.name): box for box in boxes if (box.user_id, box.name) in wanted}


def _filed_before(copies: Sequence[NewFiling]) -> dict[int | None, tuple[int, int]]:
    entry_ids = [copy.entry_id for copy in copies if copy.entry_id is not None]
    if not entry_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            _named("SELECT entry_id, mailbox_id, uid FROM {filed} WHERE entry_id IN ") + marks(entry_ids), entry_ids
        )
        return {entry_id: (mailbox_id, uid) for entry_id, mailbox_id, uid in cursor.fetchall()}


def _write(added: Sequence[Filed], boxes: dict[int, _Box]) -> None:
    """Write the rows, then the mailboxes' new marks (one modseq for the batch) and the users' used space."""
    touched = [boxes[pk] for pk in sorted({filed.mailbox_id for filed in added})]
    for box in touched:
        box.highest_modseq += 1
    rows = [_row(filed, boxes[filed.mailbox_id].highest_modseq) for filed in added]
    bulk_insert(FiledMessage, _FILED_FIELDS, rows)
    octets: Counter[int] = Counter()
    messages: Counter[int] = Counter()
    for filed in added:
        octets[filed.filing.user_id] += filed.filing.size_octets
        messages[filed.filing.user_id] += 1
    with connection.cursor() as cursor:
        cursor.executemany(
            _named("UPDATE {mailbox} SET uid_next = %s, highest_modseq = %s WHERE id = %s"),
            [(box.uid_next, box.highest_modseq, box.pk) for box in touched],
        )
        cursor.executemany(
            _named(
                "UPDATE {user} SET used_octets = used_octets + %s, received_count = received_count + %s WHERE id = %s"
            ),
            [(octets[user_id], messages[user_id], user_id) for user_id in sorted(messages)],
        )


@lru_cache(maxsize=4)
def _named(statement: str) -> str:
    tables = {"filed": FiledMessage, "mailbox": Mailbox, "user": User}
    return statement.format(**{name: connection.ops.quote_name(model._meta.db_table) for name, model in tables.items()})


def _row(filed: Filed, modseq: int) -> tuple[object, ...]:
    copy = filed.filing
    return (
        filed.mailbox_id, filed.uid, modseq, copy.message_id, copy.entry_id, copy.recipient, list(copy.flags),
        copy.internal_date, copy.size_octets, copy.digest, copy.storage, copy.storage_key,
    )  # fmt: skip
