"""What an attempt ended with, as a value (pure): temporary until proven permanent."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

LIST = "list"  # in place of a transport, where the suppression list let no attempt be made
NOTHING: frozenset[str] = frozenset()
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s|$)")


class Kind(enum.StrEnum):
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt for one recipient.

    `reply` is the peer's own text, or our words where no reply came; `code` is None then. `next_hop` is
    `host[address]:port` or the mailbox. `tls` names protocol and cipher, empty in clear. `announced`: which of `DSN`
    and `DELIVERBY` the next hop has: what it has, it answers for (RFC 3461 §5.2.1, RFC 2852 §4.1.4). `tls_policy` is
    the rule that TLS was to obey (`queue.transports.tls`), `is_verified` whether the peer proved to be who it should.
    """

    kind: Kind
    reply: str
    transport: str
    code: int | None = None
    enhanced_code: str = ""
    next_hop: str = ""
    tls: str = ""
    announced: frozenset[str] = NOTHING
    tls_policy: str = ""
    is_verified: bool = False

    @property
    def is_final(self) -> bool:
        return self.kind is not Kind.DEFERRED


def from_reply(
    code: int,
    text: str,
    *,
    transport: str,
    next_hop: str = "",
    tls: str = "",
    announced: frozenset[str] = NOTHING,
) -> Outcome:
    """Judge a peer's reply: 2xx delivered, 5xx failed, everything else deferred (RFC 5321 §4.2.1)."""
    kind = Kind.DELIVERED if 200 <= code < 300 else Kind.FAILED if 500 <= code < 600 else Kind.DEFERRED
    found = _ENHANCED.match(text)
    enhanced = found[1] if found and found[1][0] == str(code)[0] else ""
    return Outcome(kind, text, transport, code, enhanced, next_hop, tls, announced)


def deferred(
    reason: str, *, transport: str, enhanced_code: str = "4.4.0", next_hop: str = "", tls: str = ""
) -> Outcome:
    """An attempt without a verdict of the peer: no connection, silence, a broken line, our own trouble."""
    return Outcome(Kind.DEFERRED, reason, transport, None, enhanced_code, next_hop, tls)


def failed(reason: str, *, transport: str, enhanced_code: str, next_hop: str = "") -> Outcome:
    """A permanent failure that we found ourselves (no such mailbox, null MX, refused next hop)."""
    return Outcome(Kind.FAILED, reason, transport, None, enhanced_code, next_hop)
