"""Write down how attempts ended: entries, attempts, events, copies, DSNs, message status, in one transaction.

An entry that was woken without an attempt, at a deadline or since its sender is to hear of the delay, is settled too.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import structlog
from django.db import connection, transaction
from django.utils import timezone

from mailflow import content, events, receiver
from mailflow.errors import Refused
from mailflow.ids import new_row_id
from mailflow.locking import lock, marks
from mailflow.mailboxes import discard_copies, file_copies
from mailflow.models import Event, Message
from mailflow.spool.insert import bulk_insert, without_waiting
from mailflow.storage.base import CopyMissing
from queue import bounce_class, message_status, report, returns, suppress, webhook_notices
from queue.claim import Parcel
from queue.dsn_facts import Action
from queue.models import Attempt, Entry
from queue.outcome import Kind, Outcome, deferred, failed
from queue.report import Case
from queue.results import Forward, Result
from queue.schedule import EXPIRY_SET, RESCHEDULED, End
from queue.settled import OPEN_ENDS, Settled, ended_by, event_of, is_news, judged, last_reply_of, put_on_hold, status_of
from queue.simulation import clock, feedback

logger = structlog.get_logger(__name__)


_ATTEMPT_FIELDS = (
    "id", "entry_id", "number", "started_at", "ended_at", "outcome", "transport", "next_hop", "tls", "tls_policy",
    "is_verified", "code", "enhanced_code", "reply", "worker",
)  # fmt: skip
_UPDATE = (
    "UPDATE {table} SET status = %s, next_attempt_at = %s, retry_at = %s, delay_told_at = %s, attempts = %s,"
    " lease = '', claims = 0, last_reply = %s, finished_at = %s, waits_for_host = %s WHERE id = %s"
)


def settle(results: Sequence[Result], *, worker: str) -> list[int]:
    """Commit the results; return the ids of entries that came of it (DSNs, forwards), to be rung.

    A result counts only while its entry is open and this worker's lease on it stands; but a delivery that happened is
    written down even if the lease ran out meanwhile, for that saves a duplicate.
    """
    with transaction.atomic():
        filed = _file(_by_their_clocks(results))
        mine, held = _still_ours(filed, worker)
        forwarded, new_ids = _forward(_recall(mine))
        now = timezone.now()
        settled = [put_on_hold(item) if item.parcel.entry_id in held else item for item in judged(forwarded, now)]
        settled = _with_who_set_their_ends(settled)
        with without_waiting():
            _update_entries(settled, now)
            _insert_attempts(settled, worker)
            events.record(event_of(item, worker) for item in settled if is_news(item))
        _tell_webhooks(settled)
        new_ids += _send_reports(settled, now)
        suppress.count_hits([item.result.hit for item in settled if item.result.hit is not None], now)
        _learn(settled, now)
        returned = returns.obey([item.returned for item in settled if item.returned is not None], now)
        new_ids += _simulated_answers(settled)
        message_status.refresh({item.parcel.message_id for item in settled} | returned)
    return new_ids


def _by_their_clocks(results: Sequence[Result]) -> Sequence[Result]:
    """Put the attempts of sandbox entries at the times that the sandbox's clock showed.

    One that was set back since the claim counts as it is now, and stands until the commit: nothing is set to wait for
    a time that will not come. One that was moved on leaves them where they were.
    """
    if not any(result.parcel.ahead for result in results):
        return results
    ahead = clock.held_ahead()
    return [_shifted(result, min(result.parcel.ahead, ahead)) if result.parcel.ahead else result for result in results]


def _shifted(result: Result, ahead: dt.timedelta) -> Result:
    return replace(
        result,
        parcel=replace(result.parcel, ahead=ahead),
        started_at=result.started_at + ahead,
        ended_at=result.ended_at + ahead,
    )


def _file(results: Sequence[Result]) -> list[Result]:
    """Give copies their UIDs; an account that is gone meanwhile turns the delivery into a failure."""
    filings = [result.filing for result in results if result.filing is not None]
    filed = file_copies(filings)
    homeless = [filing for filing, answer in zip(filings, filed, strict=True) if answer is None]
    if homeless:
        transaction.on_commit(lambda: discard_copies(homeless), robust=True)
    answers = iter(filed)
    return [
        result
        if result.filing is None or next(answers) is not None
        else replace(
            result, outcome=failed("The mailbox does not exist any more.", transport="local", enhanced_code="5.1.1")
        )
        for result in results
    ]


def _still_ours(results: Sequence[Result], worker: str) -> tuple[list[Result], set[int]]:
    """Return the results that count, and the entries that a person put on hold meanwhile."""
    entry_ids = [result.parcel.entry_id for result in results]
    if not entry_ids:
        return [], set()
    statuses = [status.value for status in Entry.OPEN]
    condition = f"id IN {marks(entry_ids)} AND status IN {marks(statuses)}"
    rows = lock(Entry, ("id", "lease", "held_at"), condition, [*entry_ids, *statuses])
    leases = {pk: lease for pk, lease, _ in rows}
    mine = [
        result
        for result in results
        if result.parcel.entry_id in leases
        and (leases[result.parcel.entry_id] == worker or result.outcome.kind is Kind.DELIVERED)
    ]
    return mine, {pk for pk, _, held_at in rows if held_at is not None}


def _recall(results: Sequence[Result]) -> Sequence[Result]:
    """Give the results without an attempt the outcome of the last one, which is what there is to tell."""
    entry_ids = [result.parcel.entry_id for result in results if not result.is_attempt and result.hit is None]
    if not entry_ids:
        return results
    last = {attempt.entry_id: attempt for attempt in Attempt.objects.filter(entry__in=entry_ids).order_by("number")}
    return [
        result
        if result.is_attempt or result.hit is not None or (attempt := last.get(result.parcel.entry_id)) is None
        else replace(result, outcome=_outcome_of(attempt), attempted_at=attempt.ended_at)
        for result in results
    ]


def _outcome_of(attempt: Attempt) -> Outcome:
    return Outcome(
        Kind.DEFERRED,  # the entry is open
        attempt.reply,
        attempt.transport,
        attempt.code,
        attempt.enhanced_code,
        attempt.next_hop,
        attempt.tls,
        tls_policy=attempt.tls_policy,
        is_verified=attempt.is_verified,
    )


def _forward(results: Sequence[Result]) -> tuple[list[Result], list[int]]:
    """Hand forwarded mail in by the front door, in this transaction; what the door refuses is a failure.

    What was the sandbox's stays there.
    """
    settled, new_ids = [], []
    for result in results:
        if result.forward is not None:
            try:
                new_ids += receiver.accept_within([_submission(result.parcel, result.forward)])
            except Refused as refusal:
                words = f"Forwarding was refused: {refusal.reason}."
                result = replace(result, outcome=failed(words, transport="local", enhanced_code="5.4.6"))
            except CopyMissing:  # temporary until proven permanent: an operator may bring it back
                words = "The content of the message cannot be found in the spool."
                result = replace(result, outcome=deferred(words, transport="local", enhanced_code="4.3.0"))
        settled.append(result)
    return settled, new_ids


def _submission(parcel: Parcel, forward: Forward) -> receiver.Submission:
    return receiver.Submission(
        source=Message.Source.FORWARD.value,
        envelope=forward.envelope,
        origin=replace(forward.origin, is_test=report.is_test(parcel)),
        content=forward.top + content.read(parcel.message_id),
        message_id=forward.message_id,
    )


def _with_who_set_their_ends(settled: list[Settled]) -> list[Settled]:
    """Say of those whose time is over who set that, where a person did; one query, where there are any."""
    old = {item.parcel.entry_id: item.parcel.message_id for item in settled if item.step.is_too_old}
    if not old:
        return settled
    rows = Event.objects.filter(message_id__in=set(old.values()), entry_id__in=old, rule__in=[EXPIRY_SET, RESCHEDULED])
    set_by = {
        entry_id: actor if rule == EXPIRY_SET else ""  # its sender's new time has an end of its own
        for entry_id, rule, actor in rows.order_by("pk").values_list("entry_id", "rule", "actor")
    }
    return [
        ended_by(item, actor) if (actor := set_by.get(item.parcel.entry_id)) and item.step.is_too_old else item
        for item in settled
    ]


def _update_entries(settled: Sequence[Settled], now: dt.datetime) -> None:
    adapt = connection.ops.adapt_datetimefield_value
    rows = [
        (
            status_of(item),
            adapt(item.step.next_attempt_at) if item.step.next_attempt_at else None,
            adapt(item.step.retry_at) if item.step.retry_at else None,
            ended_at if item.step.tells_delay else _told_at(item.parcel),
            item.attempts,
            events.clean_text(last_reply_of(item)),
            None if item.step.end in OPEN_ENDS else ended_at,
            item.step.end is End.WAITING,
            item.parcel.entry_id,
        )
        for item in settled
        for ended_at in [adapt(now + item.parcel.ahead)]
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(_UPDATE.format(table=connection.ops.quote_name(Entry._meta.db_table)), rows)


def _told_at(parcel: Parcel) -> str | None:
    return connection.ops.adapt_datetimefield_value(parcel.delay_told_at) if parcel.delay_told_at else None


def _insert_attempts(settled: Sequence[Settled], worker: str) -> None:
    rows = [
        (
            new_row_id(),
            item.parcel.entry_id,
            item.attempts,
            item.result.started_at,
            item.result.ended_at,
            item.outcome.kind.value,
            item.outcome.transport,
            events.clean_text(item.outcome.next_hop, 300),
            item.outcome.tls[:60],
            item.outcome.tls_policy[:20],
            item.outcome.is_verified,
            item.outcome.code,
            item.outcome.enhanced_code[:12],
            events.clean_text(item.outcome.reply),
            worker,
        )
        for item in settled
        if item.result.is_attempt
    ]
    bulk_insert(Attempt, _ATTEMPT_FIELDS, rows)


def _learn(settled: Iterable[Settled], now: dt.datetime) -> None:
    """Put on the suppression list who is gone by the word of another host, and say so on the message."""
    evidence = [
        suppress.Evidence(
            item.parcel.entry_id,
            item.parcel.message_id,
            item.parcel.recipient,
            item.parcel.organization_id,
            bounce_class.weigh(item.outcome.enhanced_code, item.outcome.reply, code=str(item.outcome.code)),
            f"{item.outcome.code} {item.outcome.reply}",
            trace_id=item.parcel.trace_id,
        )
        for item in settled
        if item.step.end is End.BOUNCED and item.result.is_attempt and suppress.learns_from(item.parcel, item.outcome)
    ]
    events.record(
        events.NewEvent(
            kind=Event.Kind.LISTED.value,
            summary=f"{added.told}.",
            rule="suppression.added",
            message_id=added.evidence.message_id,
            entry_id=added.evidence.entry_id,
            recipient=added.evidence.recipient,
            trace_id=added.evidence.trace_id,
        )
        for added in suppress.learn(evidence, now)
    )


def _tell_webhooks(settled: Iterable[Settled]) -> None:
    if webhook_notices.is_wanted():
        webhook_notices.tell([_ended(item) for item in settled if item.step.end not in OPEN_ENDS])


def _ended(item: Settled) -> webhook_notices.Ended:
    words = " ".join(filter(None, [str(item.outcome.code or ""), last_reply_of(item)]))
    reason = "" if item.step.end is End.DELIVERED else events.clean_text(words, 1000) or "Given up."
    return webhook_notices.Ended(item.parcel.message_id, item.parcel.recipient, item.result.ended_at, reason)


def _send_reports(settled: Iterable[Settled], now: dt.datetime) -> list[int]:
    """Send the senders their DSNs, one for each message and action (RFC 3464, RFC 3461 §5.2.8); return the new ids."""
    told: defaultdict[tuple[str, Action], list[Settled]] = defaultdict(list)
    for item in settled:
        if item.notice is not None:
            told[item.parcel.message_id, item.notice].append(item)
    if not told:
        return []
    messages = Message.objects.in_bulk(list({message_id for message_id, _ in told}))
    new_ids: list[int] = []
    for (message_id, action), items in told.items():
        original = content.read_head(message_id)
        at = now + max(item.parcel.ahead for item in items)
        cases = [_case(item, at) for item in items]
        new_ids += report.send(messages[message_id], action, cases, original=original, now=at)
    return new_ids


def _simulated_answers(settled: Iterable[Settled]) -> list[int]:
    """Take in what the simulated internet has to say of what it was sent."""
    due = [item for item in settled if item.parcel.is_sandbox and feedback.is_due(item.parcel, item.outcome)]
    deliveries = [(item.parcel, item.outcome, item.result.ended_at) for item in due]
    return feedback.hand_in(deliveries, is_test=[report.is_test(item.parcel) for item in due]) if due else []


def _case(item: Settled, now: dt.datetime) -> Case:
    """The sender's deadline in mode N is what a delay report tells of, once it has passed (RFC 2852 §4.1.3)."""
    result, parcel = item.result, item.parcel
    is_late = (
        item.notice is Action.DELAYED
        and parcel.deliver_by_mode.startswith("N")
        and parcel.deliver_by_at is not None
        and parcel.deliver_by_at <= now
    )
    attempted_at = result.ended_at if result.is_attempt else result.attempted_at
    outcome = result.outcome
    if result.hit is not None:
        outcome = replace(outcome, reply=f"Not sent: {result.hit.told_to_sender(parcel.recipient)}.")
    return Case(parcel, outcome, attempted_at, is_expired=item.step.is_expired or is_late)
