"""The Idempotency-Key of `send`: the same request twice is one message, at once too, and after a crash between both.

A key is bound to the id of its message before there is one. The request was carried out if the message is there, so a
crash between both is no matter; what was queued is noted with the key besides, for messages may be removed before it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from django.utils import timezone

from mailflow.ids import MESSAGE_ID_LENGTH, new_message_id
from mailflow.models import IdempotencyKey, Message

MAX_KEY = 255
KEPT = dt.timedelta(hours=48)
BROKEN_OFF = dt.timedelta(seconds=90)  # longer than a request can take
WAIT_SECONDS = 10.0  # for a request with the same key that is under way
_POLL_SECONDS = 0.05


class OtherBody(Exception):
    """The key was used with another request."""


class UnderWay(Exception):
    """A request with the key is being worked on, and was not done in time."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """`message_id` is what the message is to have, or has: `is_done` says which.

    `queued`: of a request that was carried out, the numbers (from 0) of the messages that are known to be queued.
    """

    row_id: int
    message_id: str
    is_done: bool
    queued: Collection[int] = ()


def is_valid(key: str) -> bool:
    return 0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()


def digest(request: Any) -> str:
    """Return what tells one request from another: of plain JSON values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def numbered(message_id: str, number: int) -> str:
    """Return the id of the message `number` (from 0) of a batch whose first one has `message_id`."""
    if number == 0:
        return message_id
    kept = message_id[: MESSAGE_ID_LENGTH - 14]  # the prefix and the time; what is random follows from the first
    return kept + hashlib.sha256(f"{message_id}/{number}".encode()).hexdigest()[:14]


def reserve(user_id: int, key: str, body_digest: str, is_done: Callable[[str], bool] | None = None) -> Reservation:
    """Bind the key to a message id, or find what it is bound to; raises `OtherBody` or `UnderWay`.

    Of several at once one goes on, and the others wait for its message. `is_done` says by the id whether the request
    was carried out; without it, by the message. Call it outside of a transaction.
    """
    done = is_done or _exists
    claim = uuid.uuid4().hex
    now = timezone.now()
    fresh = IdempotencyKey(
        user_id=user_id, key=key, body_digest=body_digest, message_id=new_message_id(), claim=claim, claimed_at=now,
        created_at=now,
    )  # fmt: skip
    ends_at = time.monotonic() + WAIT_SECONDS
    while True:
        IdempotencyKey.objects.bulk_create([fresh], ignore_conflicts=True)
        row = IdempotencyKey.objects.filter(user_id=user_id, key=key).first()
        if row is None:  # its request was refused meanwhile
            continue
        if row.claim == claim:
            return Reservation(row.pk, row.message_id, is_done=False)
        if row.body_digest != body_digest:
            raise OtherBody
        if row.queued is not None:
            return Reservation(row.pk, row.message_id, is_done=True, queued=row.queued)
        if done(row.message_id):
            return Reservation(row.pk, row.message_id, is_done=True)
        if row.claimed_at <= timezone.now() - BROKEN_OFF and _take_over(row, claim):
            return Reservation(row.pk, row.message_id, is_done=False)
        if time.monotonic() >= ends_at:
            raise UnderWay
        time.sleep(_POLL_SECONDS)


def finish(reservation: Reservation, queued: Collection[int]) -> None:
    """Note which messages were queued: a repetition finds that even when they are removed."""
    numbers = sorted({*reservation.queued, *queued})
    IdempotencyKey.objects.filter(pk=reservation.row_id).update(queued=numbers)


def give_up(reservation: Reservation) -> None:
    """Free the key, since nothing came of the request: the next one is looked at anew, and gets another message id.

    It stays bound where the message is there all the same, stored by another request that had taken the key over.
    """
    if not _exists(reservation.message_id):
        IdempotencyKey.objects.filter(pk=reservation.row_id, queued__isnull=True).delete()


def release(reservation: Reservation) -> None:
    """Let the next request with the key go on at once: this one broke off, and whether its message is stored is open.

    If it is, that request finds it; if it comes to be stored only then, the id keeps it from being stored twice.
    """
    long_ago = timezone.now() - 2 * BROKEN_OFF
    IdempotencyKey.objects.filter(pk=reservation.row_id).update(claimed_at=long_ago)


def accepted(message_ids: Collection[str]) -> set[str]:
    """Return those of the ids that messages bear."""
    return set(Message.objects.filter(pk__in=message_ids).values_list("pk", flat=True))


def _exists(message_id: str) -> bool:
    return Message.objects.filter(pk=message_id).exists()


def _take_over(row: IdempotencyKey, claim: str) -> bool:
    rows = IdempotencyKey.objects.filter(pk=row.pk, claim=row.claim)
    return bool(rows.update(claim=claim, claimed_at=timezone.now()))
