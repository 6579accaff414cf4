"""What a report tells, as values (RFC 3464 §2.3.3 for the actions); pure."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass

from queue.outcome import Outcome


class Action(enum.StrEnum):
    """What became of the recipients of one report; the words are RFC 3464's."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class RecipientFacts:
    """One recipient's last attempt, made at `attempted_at`; None where none was made.

    `expired`: the time allowed, or the sender's own deadline, has passed, whatever that attempt said. `retry_until`:
    how long attempts go on after a delay. `original_recipient` is ORCPT as `type;address`, decoded (RFC 3461 §4.2, RFC
    6533 §3).
    """

    recipient: str
    outcome: Outcome
    attempted_at: dt.datetime | None
    expired: bool = False
    original_recipient: str = ""
    retry_until: dt.datetime | None = None

    @property
    def is_beyond_ascii(self) -> bool:
        return not (self.recipient.isascii() and self.original_recipient.isascii())


@dataclass(frozen=True, slots=True)
class DsnFacts:
    """All that a report tells. `content` is the message as it was accepted; times are aware.

    `is_smtputf8`: the message was declared so (RFC 6531 §3.4). `deliver_by_at`: the sender's deadline (RFC 2852 §5).
    """

    hostname: str
    message_id: str
    reverse_path: str
    accepted_at: dt.datetime
    recipients: Sequence[RecipientFacts]
    content: bytes
    now: dt.datetime
    action: Action = Action.FAILED
    subject: str = ""
    internet_message_id: str = ""
    envelope_id: str = ""  # as the sender meant it: decoded from xtext
    dsn_return: str = ""
    is_smtputf8: bool = False
    deliver_by_at: dt.datetime | None = None

    @property
    def needs_smtputf8(self) -> bool:
        """Whether the report itself needs SMTPUTF8, and 8BITMIME with it: it is written to such an address."""
        return not self.reverse_path.isascii()

    @property
    def is_internationalised(self) -> bool:
        return self.is_smtputf8 or self.needs_smtputf8 or any(one.is_beyond_ascii for one in self.recipients)
