"""One commit of the spool: many messages and events in one transaction, a result for each message (docs/adr/0003)."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.utils import timezone

from accounts import keys
from accounts.billing import plans
from accounts.keys import Charge
from mailflow import events, handoff
from mailflow.errors import Refused, Unavailable
from mailflow.models import Message
from mailflow.smtp.reply import Reply
from mailflow.spool import write
from mailflow.spool.accepted import Accepted, Receipt

logger = structlog.get_logger(__name__)

MAX_BATCH_MESSAGES = 100
MAX_BATCH_OCTETS = 8 << 20
MAX_BATCH_NOTES = 1000
MAX_WAITING_NOTES = 10_000
PAUSE_SECONDS = 1.0  # before events that could not be written are tried again

STORAGE_FULL = Reply(452, "3.1", "Insufficient system storage; try again later")
LIMIT_REACHED = Reply(452, "7.1", "The daily limit is reached")
DAILY_LIMIT, PLAN_LIMIT = "daily_limit", "plan_limit"
_SENT = (Message.Source.SUBMISSION.value, Message.Source.HTTP.value)
NO_STORAGE = Reply(451, "3.0", "Message cannot be stored just now; try again later")


@dataclass(frozen=True, slots=True)
class Item:
    """One message for the next commit; `digest` only where its content was hashed and committed ahead."""

    accepted: Accepted
    digest: str = ""

    @property
    def octets(self) -> int:
        """What its commit has to write."""
        return 0 if self.digest else len(self.accepted.content)

    def encoded(self) -> write.Encoded:
        if self.digest:
            return write.Encoded(self.accepted, self.digest, chunks_stored=True)
        return write.encode(self.accepted)


def how_many(octets: Sequence[int]) -> int:
    """Return how many of the waiting messages, in order, go into one commit, so that it stays short."""
    count = total = 0
    for size in octets[:MAX_BATCH_MESSAGES]:
        total += size
        if count and total > MAX_BATCH_OCTETS:
            break
        count += 1
    return count


@dataclass(slots=True)
class Outcome:
    """A result for each message, in order; `unwritten` are events that wait for a better moment."""

    results: list[Receipt | Exception]
    entry_ids: Sequence[int] = ()
    unwritten: Sequence[events.NewEvent] = ()


def commit(items: Sequence[Item], notes: Sequence[events.NewEvent]) -> Outcome:
    """Commit the messages and the events, and ring for what is committed.

    What fails together because of one message's data is tried one by one.
    """
    outcome = _commit(items, notes)
    if outcome.entry_ids:
        _ring(outcome.entry_ids)
    return outcome


def _commit(items: Sequence[Item], notes: Sequence[events.NewEvent]) -> Outcome:
    try:
        encoded = [item.encoded() for item in items]
        with transaction.atomic():
            results = _charged(items)
            kept = [one for one, result in zip(encoded, results, strict=True) if isinstance(result, Receipt)]
            entry_ids = write.write_accepted(kept, notes)
    except (DataError, IntegrityError, ValueError) as error:
        if len(items) + len(notes) > 1:
            return _one_by_one(items, notes)
        return Outcome([unavailable(error) for _ in items])  # an event that the database cannot take is given up
    except Exception as error:  # noqa: BLE001  (whatever it is: the sessions must be told, the spool must live)
        return Outcome([unavailable(error) for _ in items], unwritten=notes)
    return Outcome(results, entry_ids)


def _charged(items: Sequence[Item]) -> list[Receipt | Exception]:
    """Count the messages that a key's day or a plan's day is charged with, and refuse those beyond the limit.

    The others stand. A refusal leaves its event with whoever hears it: the session, or the request. What a key's limit
    keeps back costs the plan nothing.
    """
    results: list[Receipt | Exception] = [Receipt(item.accepted.message_id) for item in items]
    today = timezone.now().date()
    by_plan = _charge_plans(items, results, today)
    places: defaultdict[Charge, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        if item.accepted.charge is not None and isinstance(results[place], Receipt):
            places[item.accepted.charge].append(place)
    for charge in sorted(places, key=lambda one: (one.api_key_id, one.date)):  # in one order: no two block each other
        theirs = places[charge]
        allowed, count = keys.take(charge, len(theirs))
        for number, place in enumerate(theirs, 1):
            usage = charge.usage(count - allowed + min(number, allowed), allowed=number <= allowed)
            message_id = items[place].accepted.message_id
            results[place] = Receipt(message_id, usage) if usage.allowed else Refused(LIMIT_REACHED, rule=DAILY_LIMIT)
    for organization_id, counted in by_plan.items():
        if kept_back := sum(isinstance(results[place], Refused) for place in counted):
            plans.give_messages_back(organization_id, today, kept_back)
    return results


def _charge_plans(
    items: Sequence[Item], results: list[Receipt | Exception], today: dt.date
) -> dict[int, Sequence[int]]:
    """Count what organizations send against their plans; put the refusals into `results`.

    Returns the places of what was counted, by organization.
    """
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        organization_id = item.accepted.origin.organization_id
        if organization_id is not None and item.accepted.source in _SENT:
            places[organization_id].append(place)
    counted: dict[int, Sequence[int]] = {}
    if not places:
        return counted
    for organization_id, limit in sorted(plans.message_limits.of(places).items()):
        allowed = plans.take_messages(organization_id, limit, today, len(places[organization_id]))
        for place in places[organization_id][allowed:]:
            results[place] = Refused(Reply(452, "7.1", limit.words), rule=PLAN_LIMIT)
        counted[organization_id] = places[organization_id][:allowed]
    return counted


def _one_by_one(items: Sequence[Item], notes: Sequence[events.NewEvent]) -> Outcome:
    found = [*(_commit([item], []) for item in items), *(_commit([], [note]) for note in notes)]
    return Outcome(
        [result for outcome in found for result in outcome.results],
        [entry_id for outcome in found for entry_id in outcome.entry_ids],
        [note for outcome in found for note in outcome.unwritten],
    )


def _ring(entry_ids: Sequence[int]) -> None:
    try:
        handoff.current().ring(entry_ids)
    except Exception:  # a bell that breaks must not end the spool: the sweep finds the entries
        logger.exception("spool.ring_failed")


def unavailable(error: Exception) -> Unavailable:
    """Translate a failed commit: a full disk is 452, all else 451; the next commit gets a fresh connection."""
    cause = f"{type(error).__name__}: {error}"
    logger.error("spool.commit_failed", cause=cause)
    try:
        connection.close()
    except Exception as closing:  # noqa: BLE001  (it is broken already)
        logger.warning("spool.close_failed", cause=str(closing))
    full = isinstance(error, OperationalError) and any(
        words in str(error).lower() for words in ("disk is full", "no space left", "could not extend file")
    )
    return Unavailable(STORAGE_FULL if full else NO_STORAGE, cause)


def dropped(count: int) -> events.NewEvent:
    """Return the event that stands for refusals that were too many to note."""
    return events.NewEvent(kind="refused", summary=f"{count} further refusals were too many to note one by one.")
