"""The envelope of a mail transaction (RFC 5321 §2.3.1), with what delivery must later honour."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from accounts.names import Address

NULL_PATH = ""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward path; `notify` and `original_recipient` as RFC 3461 §4.1 and §4.2 give them, empty where absent."""

    address: Address
    notify: str = ""
    original_recipient: str = ""


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """What BY asks for (RFC 2852 §4): within `seconds` (negative: already late), `mode` R, N, RT or NT.

    The time runs from `asked_at`, when MAIL came; None: from the moment at which the message was accepted.
    """

    seconds: int
    mode: str
    asked_at: dt.datetime | None = None

    def due_at(self, accepted_at: dt.datetime) -> dt.datetime:
        """Return the deadline of a message that was accepted at that time."""
        return (self.asked_at or accepted_at) + dt.timedelta(seconds=self.seconds)


@dataclass(slots=True)
class Envelope:
    """`reverse_path` None is the null path; `dsn_return` and `envelope_id` are RET and ENVID (RFC 3461 §4.3, §4.4).

    `is_smtputf8` where the client declared that envelope or headers may hold UTF-8 (RFC 6531 §3.4), `requires_tls`
    where it demanded that the message go over verified TLS all the way (RFC 8689 §2).
    """

    reverse_path: Address | None
    recipients: list[Recipient] = field(default_factory=list)
    body_type: str = ""
    declared_octets: int = 0
    dsn_return: str = ""
    envelope_id: str = ""
    is_smtputf8: bool = False
    deliver_by: DeliverBy | None = None
    requires_tls: bool = False

    @property
    def reverse_path_text(self) -> str:
        return NULL_PATH if self.reverse_path is None else str(self.reverse_path)
