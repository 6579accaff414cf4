"""What webhooks are told of a message's ends: `message.sent` and `message.failed`, one for each recipient."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from accounts.webhooks import outbox
from accounts.webhooks.names import MESSAGE_FAILED, MESSAGE_SENT
from mailflow import webhook_notices
from mailflow.models import Message
from mailflow.webhook_notices import MessageNotice


@dataclass(frozen=True, slots=True)
class Ended:
    """One recipient's end; a `reason` is that of a failure, its absence a success."""

    message_id: str
    recipient: str
    at: dt.datetime
    reason: str = ""

    @property
    def event(self) -> str:
        return MESSAGE_FAILED if self.reason else MESSAGE_SENT


def is_wanted() -> bool:
    """Whether anybody hears of ends: without that they need not be collected."""
    return outbox.wanted(MESSAGE_SENT) or outbox.wanted(MESSAGE_FAILED)


def tell(ends: Sequence[Ended]) -> None:
    """Write what listeners hear of the ends, in the caller's transaction; our own reports are not told of."""
    told = [end for end in ends if outbox.wanted(end.event)]
    if not told:
        return
    messages = Message.objects.exclude(source=Message.Source.DSN).only(
        "organization_id", "reverse_path", "subject", "size_octets"
    )
    known = messages.in_bulk({end.message_id for end in told})
    webhook_notices.tell([_notice(end, known[end.message_id]) for end in told if end.message_id in known])


def _notice(end: Ended, message: Message) -> MessageNotice:
    return MessageNotice(
        end.event,
        end.at,
        message.pk,
        message.organization_id,
        message.reverse_path,
        [end.recipient],
        message.subject,
        message.size_octets,
        {"reason": end.reason} if end.reason else {},
    )
