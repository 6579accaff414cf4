"""How what a next hop says, or fails to say, becomes an outcome (RFC 5321 §4.2.1, §4.5.3.1.10); pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from queue.outcome import NOTHING, Kind, Outcome, deferred, failed, from_reply
from queue.transports.replies import PeerReply

TRANSPORT = "smtp"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The outcomes of one connection; `next_hop`, `tls` and `announced` are what they tell about it."""

    next_hop: str
    smarthost: bool
    tls: str = ""
    announced: frozenset[str] = NOTHING

    def of(self, reply: PeerReply) -> Outcome:
        outcome = from_reply(
            reply.code,
            reply.text,
            transport=TRANSPORT,
            next_hop=self.next_hop,
            tls=self.tls,
            announced=self.announced,
        )
        if self.smarthost and reply.code == 530:
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
        return deferred(reason, transport=TRANSPORT, enhanced_code=enhanced_code, next_hop=self.next_hop, tls=self.tls)

    def permanent(self, enhanced_code: str, reason: str) -> Outcome:
        outcome = failed(reason, transport=TRANSPORT, enhanced_code=enhanced_code, next_hop=self.next_hop)
        return dataclasses.replace(outcome, tls=self.tls)
