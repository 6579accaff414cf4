"""The decision value: what a stage saw, which rule spoke, and what follows. Stages return these and write nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mailflow.smtp.reply import Reply


class Verdict(enum.StrEnum):
    ACCEPT = "accept"
    NOTE = "note"  # something worth telling that changes nothing
    DEFER = "defer"
    REJECT = "reject"

    __hash__ = str.__hash__  # Enum's own is written in Python, and decisions are looked up by their values


@dataclass(frozen=True, slots=True)
class Decision:
    """One step of the account: `reason` is a sentence for people, `rule` a stable name for programs."""

    stage: str
    rule: str
    verdict: Verdict
    reason: str
    saw: str = ""
    reply: Reply | None = None

    @property
    def stops(self) -> bool:
        return self.verdict in (Verdict.DEFER, Verdict.REJECT)

    def as_json(self) -> dict[str, str]:
        found = {"stage": self.stage, "rule": self.rule, "outcome": self.verdict.value, "reason": self.reason}
        if self.saw:
            found["saw"] = self.saw
        if self.reply is not None:
            found["reply"] = str(self.reply)
        return found
