"""The accept leg: the one front door for SMTP, HTTP, forwarded mail and our own DSNs.

A door collects an envelope and octets, asks the policy stages what it asks at its own steps, and hands a `Submission`
here. Here the content is looked at, the trace fields are put on top, and the spool commits the message with its queue
entries and its first event. Only when `accept…` returns a receipt is the message on disk, and only then may the peer
hear 250 or 202.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.utils import timezone

from accounts.keys import Charge
from mailflow.errors import Refused, Unavailable
from mailflow.ids import new_message_id
from mailflow.message import headers, trace
from mailflow.models import Message
from mailflow.policy import content as content_policy
from mailflow.policy.decision import Decision
from mailflow.smtp.data import has_bare_line_end
from mailflow.smtp.envelope import Envelope
from mailflow.smtp.reply import Reply
from mailflow.spool import group, write
from mailflow.spool.accepted import Accepted, Labels, Origin, Receipt
from mailflow.spool.large import LargeContent, SpoolFile

_SUBMITTED = (Message.Source.SUBMISSION, Message.Source.HTTP)
BLOCKING_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Submission:
    """What a door hands in: `content` as it came, `decisions` those already taken, in order.

    A file stays the door's, to be closed when the message was stored or was not. `scheduled_at`: no attempt before it.
    `message_id` only where the door promised one before; then a second message of that id is never stored.
    """

    source: str
    envelope: Envelope
    origin: Origin
    content: bytes | SpoolFile
    decisions: Sequence[Decision] = ()
    scheduled_at: dt.datetime | None = None
    labels: Labels | None = None
    charge: Charge | None = None
    message_id: str = ""


def accept_soon(submission: Submission, done: group.Done) -> None:
    """Accept on an event loop; `done` hears of the receipt, or of `Unavailable`, after the group commit.

    Raises `Refused` or `Unavailable` at once where it comes to no commit. A file is looked at on the disk: then call
    it in a thread.
    """
    group.current().put(examine(submission), done)


def accept_blocking(submission: Submission) -> Receipt:
    """Accept in a thread (HTTP); waits for the group commit. Raises `Refused` or `Unavailable`."""
    accepted = examine(submission)
    waiter = group.Waiter()
    group.current().put(accepted, waiter)
    return waiter.wait(BLOCKING_TIMEOUT_SECONDS)


def accept_each(submissions: Sequence[Submission]) -> list[Receipt | Exception]:
    """Accept many in a thread, in few commits; the results are in order, with what was raised among them."""
    waiters = [_put(submission) for submission in submissions]
    return [waiter if isinstance(waiter, Exception) else _result(waiter) for waiter in waiters]


def _put(submission: Submission) -> group.Waiter | Exception:
    waiter = group.Waiter()
    try:
        group.current().put(examine(submission), waiter)
    except (Refused, Unavailable) as error:
        return error
    return waiter


def _result(waiter: group.Waiter) -> Receipt | Exception:
    try:
        return waiter.wait(BLOCKING_TIMEOUT_SECONDS)
    except (Refused, Unavailable) as error:
        return error


def accept_within(submissions: Sequence[Submission]) -> list[int]:
    """Accept as part of the caller's transaction (DSNs, forwards): all of it commits, or none.

    Returns the ids of the new queue entries, to be rung after the commit. Raises `Refused`.
    """
    return write.write_accepted([write.encode(examine(submission)) for submission in submissions])


def examine(submission: Submission) -> Accepted:
    """Decide on the whole message and complete it: the steps between the last octet and the commit."""
    envelope, origin = submission.envelope, submission.origin
    if not envelope.recipients:
        raise Refused(Reply(554, "5.1", "No valid recipients"))
    body = submission.content
    facts = headers.scan(body.head(headers.MAX_SCANNED_OCTETS) if isinstance(body, SpoolFile) else body)
    decisions = [
        *submission.decisions,
        content_policy.check_size(len(body), settings.SMTP_MAX_MESSAGE_SIZE),
        content_policy.check_line_ends(
            has_bare=body.has_bare_line_end if isinstance(body, SpoolFile) else has_bare_line_end(body),
            is_binary=envelope.body_type == "BINARYMIME",
        ),
        content_policy.check_loop(facts.received_count),
    ]
    for decision in decisions:
        if decision.stops and decision.reply is not None:
            raise Refused(decision.reply, decision.reason, rule=decision.rule)

    now = timezone.now()
    message_id = submission.message_id or new_message_id()
    top = trace.received_line(
        message_id=message_id, hostname=settings.SMTP_HOSTNAME, origin=origin, envelope=envelope, at=now
    )
    internet_message_id = facts.message_id
    if submission.source in _SUBMITTED:
        top += trace.missing_fields(
            message_id=message_id,
            hostname=settings.SMTP_HOSTNAME,
            at=now,
            has_date=facts.has_date,
            has_message_id=facts.has_message_id,
        )
        if not facts.has_message_id:
            internet_message_id = f"<{message_id}@{settings.SMTP_HOSTNAME}>"
    return Accepted(
        message_id=message_id,
        created_at=now,
        source=submission.source,
        envelope=envelope,
        origin=origin,
        content=LargeContent(top, body) if isinstance(body, SpoolFile) else top + body,
        subject=facts.subject,
        header_from=facts.header_from,
        internet_message_id=internet_message_id,
        decisions=decisions,
        thread_root=facts.thread_root,
        scheduled_at=submission.scheduled_at,
        labels=submission.labels,
        charge=submission.charge,
    )


__all__ = ["Refused", "Submission", "Unavailable", "accept_blocking", "accept_soon", "accept_within", "examine"]
