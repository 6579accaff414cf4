"""The two exceptions that cross layers; everything else is a bug and is caught once, at each leg's edge."""

from __future__ import annotations

from mailflow.smtp.reply import Reply


class Refused(Exception):
    """A decision against the request. `reply` is what the peer is told; `reason` and `rule` are for the event."""

    def __init__(self, reply: Reply, reason: str = "", *, rule: str = "") -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.reason = reason or reply.text
        self.rule = rule


class Unavailable(Exception):
    """Nothing could be decided or stored just now; the peer may come again. `cause` never leaves the house.

    `in_doubt`: what was to be stored may yet be.
    """

    def __init__(self, reply: Reply, cause: str, *, in_doubt: bool = False) -> None:
        super().__init__(cause)
        self.reply = reply
        self.cause = cause
        self.in_doubt = in_doubt
