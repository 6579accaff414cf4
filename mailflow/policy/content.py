"""What the header section and the size say about a whole message (RFC 5321 §6.3, RFC 1870)."""

from __future__ import annotations

from functools import lru_cache

from mailflow.policy.decision import Decision, Verdict
from mailflow.smtp.reply import Reply

MAX_RECEIVED_FIELDS = 50


@lru_cache(maxsize=16)
def _within(limit: int) -> Decision:
    return Decision("content", "size", Verdict.ACCEPT, f"within the limit of {limit} octets")


_LINE_ENDS = Decision("content", "line_ends", Verdict.ACCEPT, "all lines end with CRLF")


def check_size(octets: int, limit: int) -> Decision:
    if octets > limit:
        reply = Reply(552, "3.4", f"Message exceeds maximum size of {limit} octets")
        return Decision(
            "content", "size.over_limit", Verdict.REJECT, f"{octets} octets, the limit is {limit}", reply=reply
        )
    return _within(limit)


@lru_cache(maxsize=128)
def check_loop(count: int) -> Decision:
    """A message with so many Received fields goes round in circles (RFC 5321 §6.3)."""
    if count > MAX_RECEIVED_FIELDS:
        reply = Reply(554, "4.6", "Mail loop: too many Received header fields")
        reason = f"{count} Received fields, more than {MAX_RECEIVED_FIELDS}: the message is looping"
        return Decision("content", "loop", Verdict.REJECT, reason, reply=reply)
    return Decision("content", "loop", Verdict.ACCEPT, f"{count} Received fields show no loop")


def check_line_ends(*, has_bare: bool, is_binary: bool) -> Decision:
    """A bare CR or LF could mean an end of data to the next server (SMTP smuggling); only CRLF ends a line here.

    A message declared as BINARYMIME has no lines (RFC 3030 §3); what of it may go out is for its delivery to decide.
    """
    if is_binary:
        return Decision("content", "binary", Verdict.ACCEPT, "declared as BINARYMIME, so it has no line ends to check")
    if has_bare:
        reply = Reply(554, "6.0", "Message holds a bare CR or LF; lines must end with CRLF")
        return Decision(
            "content", "bare_line_end", Verdict.REJECT, "a CR or LF stands alone in the message", reply=reply
        )
    return _LINE_ENDS
