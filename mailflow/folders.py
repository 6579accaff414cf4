"""Changes to mailboxes: flags, moves, removals, folders (RFC 9051 §2.3.2, §6.3.4 to §6.3.6, RFC 6154 for the roles).

Locks as in `mailboxes`: users by id, then mailboxes by id. Every change gives what it touches a new modification
sequence (RFC 7162 §3.1); a moved message gets a new UID.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import BigIntegerField, Case, Count, F, Q, Sum, TextField, Value, When
from django.db.models.functions import Cast, Greatest

from accounts.models import User
from mailflow import mailboxes
from mailflow.ids import new_row_id
from mailflow.mailboxes import INBOX, STANDARD_MAILBOXES
from mailflow.models import FiledMessage, Mailbox
from mailflow.storage import registry
from mailflow.storage.base import Copy, CopyMissing

SEEN, FLAGGED = "\\Seen", "\\Flagged"
SYSTEM_FLAGS = (SEEN, "\\Answered", FLAGGED, "\\Deleted", "\\Draft")
MAX_FLAGS = 50
MAX_FOLDERS = 500
TRASH = "Trash"
ROLES = {"INBOX": "inbox", "Sent": "sent", "Drafts": "drafts", "Junk": "junk", "Trash": "trash"}
_KEYWORD = re.compile(r"[A-Za-z0-9$_.:+-]{1,64}\Z")
_SEEN_IN_JSON, _FLAGGED_IN_JSON = '"\\\\Seen"', '"\\\\Flagged"'  # as the column's text has it


class InvalidFlag(ValueError):
    """No flag; the text says what is one."""


class InvalidFolder(ValueError):
    """The folder cannot be made, renamed or removed; the text says why."""


class NoSuchFolder(InvalidFolder):
    """The user has no folder of that name."""


@dataclass(frozen=True, slots=True)
class FolderFigures:
    name: str
    role: str | None
    messages: int
    unread: int
    octets: int


def check_flag(flag: str) -> str:
    """Return the flag in its usual spelling; raises `InvalidFlag`."""
    for known in SYSTEM_FLAGS:
        if flag.lower() == known.lower():
            return known
    if not _KEYWORD.match(flag):
        raise InvalidFlag(f"A flag is one of {', '.join(SYSTEM_FLAGS)}, or a word of up to 64 letters and digits.")
    return flag


def check_name(name: str) -> str:
    """Return a folder's name; raises `InvalidFolder`."""
    if name.upper() == INBOX:
        return INBOX
    if not 0 < len(name) <= 255 or not name.isprintable() or name != name.strip():
        raise InvalidFolder("A folder's name has 1 to 255 printable characters, without spaces at its ends.")
    if name.startswith(("/", ".")) or name.endswith("/") or "//" in name or set(name) & set('%*"\\'):
        raise InvalidFolder("A folder's name has parts between single slashes, and none of the signs % * \" and \\.")
    return name


def figures(user_id: int) -> list[FolderFigures]:
    """Return the user's folders with what is in them, the standard ones first; two queries."""
    mailboxes.ensure_mailboxes([user_id])
    unread = Count("filed", filter=~Q(flags_text__contains=_SEEN_IN_JSON))
    rows = (
        Mailbox.objects.filter(user=user_id)
        .annotate(flags_text=Cast("filed__flags", TextField()))
        .values("name")
        .annotate(messages=Count("filed"), unread=unread, octets=Sum("filed__size_octets"))
    )
    found = [
        FolderFigures(row["name"], ROLES.get(row["name"]), row["messages"], row["unread"], row["octets"] or 0)
        for row in rows
    ]
    order = {name: place for place, name in enumerate(STANDARD_MAILBOXES)}
    return sorted(found, key=lambda folder: (order.get(folder.name, len(order)), folder.name))


def unread() -> Q:
    """What filters unread messages, among rows whose flags are annotated as `flags_text`."""
    return ~Q(flags_text__contains=_SEEN_IN_JSON)


def flagged() -> Q:
    """The same for flagged ones."""
    return Q(flags_text__contains=_FLAGGED_IN_JSON)


def change_flags(filed: Collection[FiledMessage], change: Callable[[Sequence[str]], Iterable[str]]) -> None:
    """Give each message the flags that `change` makes of those it has; what stays as it was gets no new modseq."""
    with transaction.atomic():
        boxes = _lock({one.mailbox_id for one in filed})
        rows = FiledMessage.objects.filter(pk__in=[one.pk for one in filed]).select_for_update(no_key=True)
        changed = []
        for row in rows.order_by("pk"):
            flags = list(dict.fromkeys(change(row.flags)))
            if len(flags) > MAX_FLAGS:
                raise InvalidFlag(f"A message has at most {MAX_FLAGS} flags.")
            if flags != row.flags:
                row.flags = flags
                changed.append(row)
        touched = _touch({boxes[row.mailbox_id].pk for row in changed}, boxes)
        for row in changed:
            row.modseq = touched[row.mailbox_id].highest_modseq
        FiledMessage.objects.bulk_update(changed, ["flags", "modseq"])


def move(filed: Collection[FiledMessage], folder: str) -> None:
    """Put one user's messages into the folder, under new UIDs; raises `NoSuchFolder`.

    Each copy is stored anew where the backend keeps that folder, and the old one removed when the rows are committed:
    a crash leaves a copy too many, never one too few.
    """
    filed = [one for one in filed if one.mailbox.name != folder]
    if not filed:
        return
    user = filed[0].mailbox.user
    copies = {one.pk: _stored_again(one, user, folder) for one in filed}
    left: list[tuple[str, str]] = []
    with transaction.atomic():
        target = Mailbox.objects.filter(user=user, name=folder).first()
        if target is None:
            raise NoSuchFolder(f"There is no folder {folder!r}.")
        boxes = _lock({target.pk, *(one.mailbox_id for one in filed)})
        target = boxes[target.pk]
        rows = list(FiledMessage.objects.filter(pk__in=copies).select_for_update(no_key=True).order_by("pk"))
        _touch({row.mailbox_id for row in rows} | {target.pk}, boxes)
        for row in rows:
            key, storage = copies[row.pk]
            if (row.storage, row.storage_key) != (storage, key):
                left.append((row.storage, row.storage_key))
            row.mailbox, row.uid, row.modseq = target, target.uid_next, target.highest_modseq
            row.storage, row.storage_key = storage, key
            target.uid_next += 1
        FiledMessage.objects.bulk_update(rows, ["mailbox", "uid", "modseq", "storage", "storage_key"])
        target.save(update_fields=["uid_next"])
        known = {one.pk: (one.storage, one.storage_key) for one in filed}
        for pk in copies.keys() - {row.pk for row in rows}:  # removed by somebody meanwhile
            key, storage = copies[pk]
            if known[pk] != (storage, key):
                left.append((storage, key))
    _drop(left)


def remove(filed: Collection[FiledMessage]) -> None:
    """Take messages out of their mailboxes for good, and their space off the users' count."""
    left: list[tuple[str, str]] = []
    with transaction.atomic():
        owners = {one.pk: one.mailbox.user_id for one in filed}
        list(User.objects.filter(pk__in=set(owners.values())).order_by("pk").select_for_update(no_key=True))
        boxes = _lock({one.mailbox_id for one in filed})
        rows = list(FiledMessage.objects.filter(pk__in=owners).select_for_update().order_by("pk"))
        _touch({row.mailbox_id for row in rows}, boxes)
        freed: dict[int, int] = {}
        for row in rows:
            freed[owners[row.pk]] = freed.get(owners[row.pk], 0) + row.size_octets
            left.append((row.storage, row.storage_key))
        FiledMessage.objects.filter(pk__in=[row.pk for row in rows]).delete()
        if freed:
            whens = [When(pk=user_id, then=Value(octets)) for user_id, octets in freed.items()]
            off = Case(*whens, default=Value(0), output_field=BigIntegerField())
            User.objects.filter(pk__in=freed).update(used_octets=Greatest(F("used_octets") - off, Value(0)))
    _drop(left)


def create(user_id: int, name: str) -> None:
    """Make a folder; raises `InvalidFolder` where the name is wrong, taken, or one too many."""
    name = check_name(name)
    mailboxes.ensure_mailboxes([user_id])
    with transaction.atomic():
        _lock_owner(user_id)
        theirs = Mailbox.objects.filter(user=user_id)
        if theirs.filter(name=name).exists():
            raise InvalidFolder(f"There is a folder {name!r} already.")
        if theirs.count() >= MAX_FOLDERS:
            raise InvalidFolder(f"At most {MAX_FOLDERS} folders.")
        mailboxes.ensure_mailboxes([], [(user_id, name)])


def rename(user_id: int, name: str, new_name: str) -> None:
    """Rename a folder of the user's own making, with those below it; raises `InvalidFolder`."""
    new_name = check_name(new_name)
    with transaction.atomic():
        _lock_owner(user_id)
        box = _own(user_id, name)
        below = list(Mailbox.objects.filter(user=user_id, name__startswith=f"{name}/").order_by("pk"))
        names = {new_name, *(new_name + one.name[len(name) :] for one in below)}
        if any(len(one) > 255 for one in names):
            raise InvalidFolder("With the new name, that of a folder below it would be too long.")
        if Mailbox.objects.filter(user=user_id, name__in=names).exists() or new_name.startswith(f"{name}/"):
            raise InvalidFolder(f"There is a folder {new_name!r} already, or it would be its own parent.")
        for one in [box, *below]:
            one.name = new_name + one.name[len(name) :]
        Mailbox.objects.bulk_update([box, *below], ["name"])


def delete(user_id: int, name: str) -> None:
    """Remove an empty folder of the user's own making; raises `InvalidFolder`."""
    with transaction.atomic():
        _lock_owner(user_id)
        box = _own(user_id, name)
        if Mailbox.objects.filter(user=user_id, name__startswith=f"{name}/").exists():
            raise InvalidFolder("There are folders below it.")
        if FiledMessage.objects.filter(mailbox=box).exists():
            raise InvalidFolder("It is not empty: move or delete its messages first.")
        box.delete()


def _own(user_id: int, name: str) -> Mailbox:
    if name in STANDARD_MAILBOXES:
        raise InvalidFolder(f"{name} is a standard folder, which stays.")
    box = Mailbox.objects.filter(user=user_id, name=name).select_for_update().first()
    if box is None:
        raise NoSuchFolder(f"There is no folder {name!r}.")
    return box


def _lock_owner(user_id: int) -> None:
    list(User.objects.filter(pk=user_id).select_for_update(no_key=True).values_list("pk"))


def _lock(mailbox_ids: Collection[int]) -> dict[int, Mailbox]:
    rows = Mailbox.objects.filter(pk__in=mailbox_ids).order_by("pk").select_for_update(no_key=True)
    return {box.pk: box for box in rows}


def _touch(mailbox_ids: Collection[int], boxes: dict[int, Mailbox]) -> dict[int, Mailbox]:
    touched = [boxes[pk] for pk in sorted(mailbox_ids)]
    for box in touched:
        box.highest_modseq += 1
    Mailbox.objects.bulk_update(touched, ["highest_modseq"])
    return boxes


def _stored_again(filed: FiledMessage, user: User, folder: str) -> tuple[str, str]:
    """Return the key and the backend of a copy in the new folder; the old one's where its octets cannot be read."""
    try:
        octets = registry.by_name(filed.storage).read(filed.storage_key)
    except (CopyMissing, registry.UnknownStorage):
        return filed.storage_key, filed.storage
    storage = registry.current()
    if storage.name == "database" == filed.storage:
        return filed.storage_key, filed.storage
    copy = Copy(
        str(new_row_id()), filed.message_id, user.email, folder, filed.internal_date, octets, seen=SEEN in filed.flags
    )
    return storage.put(copy), storage.name


def _drop(copies: Collection[tuple[str, str]]) -> None:
    """Remove copies whose rows are gone; what fails stays as a file that no row names."""
    for name, key in copies:
        try:
            registry.by_name(name).delete(key)
        except registry.UnknownStorage:
            continue
