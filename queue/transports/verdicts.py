"""How what a next hop says, or fails to say, becomes an outcome (RFC 5321 §4.2.1, §4.5.3.1.10); pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from queue.outcome import NOTHING, Kind, Outcome, deferred, failed, from_reply
from queue.transports.replies import PeerReply

TRANSPORT = "smtp"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The outcomes of one connection; the other fields are what they tell about it (`queue.outcome`)."""

    next_hop: str
    is_relay: bool
    tls: str = ""
    announced: frozenset[str] = NOTHING
    tls_policy: str = ""
    is_verified: bool = False
    transport: str = TRANSPORT

    def of(self, reply: PeerReply) -> Outcome:
        outcome = self._told(from_reply(reply.code, reply.text, transport=self.transport), self.announced)
        if self.is_relay and reply.code == 530:
            # It wants TLS or a password first: the operator's matter, and no reason to bounce anybody's mail.
            return dataclasses.replace(outcome, kind=Kind.DEFERRED, enhanced_code="4.7.0")
        return outcome

    def of_recipient(self, reply: PeerReply, *, others_accepted: bool) -> Outcome:
        outcome = self.of(reply)
        if reply.code == 552 and others_accepted and outcome.enhanced_code in ("", "5.5.3"):
            # "Too many recipients" in RFC 821's numbers: the rest may come later.
            return dataclasses.replace(outcome, kind=Kind.DEFERRED, enhanced_code="4.5.3")
        return outcome

    def lost(self, reason: str, reply: PeerReply | None) -> Outcome:
        """The line is lost: always temporary. `reply` is the peer's 421, where it said one."""
        return self.temporary("4.4.2", reason) if reply is None else self.of(reply)

    def temporary(self, enhanced_code: str, reason: str) -> Outcome:
        return self._told(deferred(reason, transport=self.transport, enhanced_code=enhanced_code))

    def permanent(self, enhanced_code: str, reason: str) -> Outcome:
        return self._told(failed(reason, transport=self.transport, enhanced_code=enhanced_code))

    def _told(self, outcome: Outcome, announced: frozenset[str] = NOTHING) -> Outcome:
        return dataclasses.replace(
            outcome,
            announced=announced,
            next_hop=self.next_hop,
            tls=self.tls,
            tls_policy=self.tls_policy,
            is_verified=self.is_verified,
        )
