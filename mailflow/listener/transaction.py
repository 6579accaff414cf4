"""One mail transaction as a session holds it, and a refusal that tells whose mail it was about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from accounts.addresses import Resolution
from accounts.names import Address
from mailflow.errors import Refused
from mailflow.listener.intake import Intake
from mailflow.policy.decision import Decision
from mailflow.smtp.envelope import Envelope
from mailflow.smtp.reply import Reply

INTERNAL_ERROR = Reply(451, "3.0", "Local error in processing, try again later")


@dataclass(slots=True)
class Transaction:
    """One mail transaction, from MAIL to the end of its content (RFC 5321 §3.3)."""

    envelope: Envelope
    decisions: list[Decision] = field(default_factory=list)
    resolutions: dict[Address, Resolution] = field(default_factory=dict)  # of its recipients, in their order
    folded: set[str] = field(default_factory=set)  # our own ones, in the form in which all their spellings are one
    is_noted: bool = False  # its recipients have their events of its refusal
    is_full: bool = False  # a recipient over the limit was refused
    intake: Intake | None = None  # once BDAT has begun
    has_failed: bool = False  # a chunk was refused: what follows would be a message with a hole (RFC 3030 §2)
    is_over: bool = False  # its last octet has come
    began_at: float = 0.0  # its content; of the loop's clock
    until: float = math.inf  # by then, at the latest, more of its content must have come

    def fail(self) -> None:
        """Take no more of its content, and drop what there is; only RSET helps."""
        self.has_failed = True
        if self.intake is not None:
            self.intake.close()


class Declined(Refused):
    """A refusal with more to tell: the decision, and whose mail it was about."""

    def __init__(
        self, decision: Decision, *, sender: str = "", recipient: str = "", organization_id: int | None = None
    ) -> None:
        super().__init__(decision.reply or INTERNAL_ERROR, decision.reason, rule=decision.rule)
        self.decision = decision
        self.sender = sender
        self.recipient = recipient
        self.organization_id = organization_id
