"""What webhooks are told of mail: who hears of a message, and how much (R4's payload).

A message's sender's organization hears all of it. An organization that only receives hears of its own recipients: who
else got the message is not its business.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from accounts.webhooks import login_failures, outbox
from accounts.webhooks.login_failures import LoginFailure
from accounts.webhooks.names import AUTH_FAILED, MESSAGE_RECEIVED
from mailflow.events import NewEvent, clean_text
from mailflow.models import Event, Message
from mailflow.spool.accepted import Accepted

_CAME_IN = frozenset([Message.Source.RECEPTION.value, Message.Source.SUBMISSION.value, Message.Source.HTTP.value])
_LOGIN_FAILED = Event.Kind.AUTH_FAILED.value
MAX_RECIPIENTS = 100  # in a payload; `recipient_count` says how many there are where that is more


@dataclass(frozen=True, slots=True)
class MessageNotice:
    """One event of a message; `more` are fields beyond R4's."""

    event: str
    at: dt.datetime
    message_id: str
    organization_id: int | None
    reverse_path: str
    recipients: Sequence[str]
    subject: str
    size_octets: int
    more: Mapping[str, Any] = field(default_factory=dict)


def tell(notices: Sequence[MessageNotice]) -> None:
    """Write what listeners hear of it, in the caller's transaction."""
    outbox.add(outbox.Notice(notice.event, notice.at, _for_whom(notice)) for notice in notices)


def tell_of_received(batch: Sequence[Accepted]) -> None:
    """Tell of messages that came in by a door; forwards and reports are ours, and come of others that were told of."""
    if outbox.wanted(MESSAGE_RECEIVED):
        tell([received(accepted) for accepted in batch if accepted.source in _CAME_IN])


def received(accepted: Accepted, event: str = MESSAGE_RECEIVED, **more: Any) -> MessageNotice:
    """Return what an accepted message is told of as; with another event, such as spam.detected, for its finder."""
    return MessageNotice(
        event,
        accepted.created_at,
        accepted.message_id,
        accepted.origin.organization_id,
        accepted.envelope.reverse_path_text,
        [str(recipient.address) for recipient in accepted.envelope.recipients],
        clean_text(accepted.subject),
        len(accepted.content),
        more,
    )


def tell_of_failed_logins(notes: Sequence[NewEvent]) -> None:
    """Tell of the failed logins among what the listener noted."""
    if notes and outbox.wanted(AUTH_FAILED):
        login_failures.tell(
            [
                LoginFailure(
                    clean_text(note.actor, 254), note.client_address, "smtp", note.created_at or timezone.now()
                )
                for note in notes
                if note.kind == _LOGIN_FAILED
            ]
        )


def _for_whom(notice: MessageNotice) -> Any:
    def data_for(organization_id: int | None) -> outbox.Data | None:
        if organization_id in (None, notice.organization_id):
            recipients = notice.recipients
        else:
            recipients = [
                recipient
                for recipient in notice.recipients
                if outbox.owner_of(recipient.rpartition("@")[2]) == organization_id
            ]
        return _data(notice, recipients) if recipients else None

    return data_for


def _data(notice: MessageNotice, recipients: Sequence[str]) -> outbox.Data:
    data: dict[str, Any] = {
        "message_id": notice.message_id,
        "from": notice.reverse_path,
        "to": list(recipients[:MAX_RECIPIENTS]),
        "subject": notice.subject,
        "size_bytes": notice.size_octets,
    }
    if len(recipients) > MAX_RECIPIENTS:
        data["recipient_count"] = len(recipients)
    return {**data, **notice.more}
