"""How one attempt ended, as the relay leg hands it on to be written down (`queue.settle`)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from mailflow.mailboxes import NewFiling
from mailflow.smtp.envelope import Envelope
from mailflow.spool.accepted import Origin
from queue import suppress
from queue.claim import Parcel
from queue.outcome import Outcome, deferred
from queue.returns import Return

MAX_FORWARDED_OCTETS = 8 << 20


@dataclass(frozen=True, slots=True)
class Forward:
    """Mail that takes the place of a recipient that is an alias, by the id that it gets; its content is read when it is
    handed in.
    """

    message_id: str
    envelope: Envelope
    origin: Origin
    top: bytes  # trace field put above the content


@dataclass(frozen=True, slots=True)
class Result:
    """The end of one attempt. `filing`: the copy that still needs its place; `forward`: the mail that replaces it.

    Where no attempt was made, `outcome` is that of the last one, and `attempted_at` its time, if there was one.
    `remarks`: what else people should know of the attempt, as sentences; its event has them. `waits`: the host of its
    domain comes for it, so that there is no retry where the entry stays open.
    """

    parcel: Parcel
    outcome: Outcome
    started_at: dt.datetime
    ended_at: dt.datetime
    filing: NewFiling | None = None
    forward: Forward | None = None
    is_attempt: bool = True
    attempted_at: dt.datetime | None = None
    remarks: str = ""
    hit: suppress.Hit | None = None  # what on the suppression list let no attempt be made
    returned: Return | None = None  # what the mail that was delivered here reports
    waits: bool = False


def kept_back(parcel: Parcel, hit: suppress.Hit, now: dt.datetime) -> Result:
    """Return the end of an entry whose recipient is on the suppression list."""
    return Result(parcel, suppress.kept_back(parcel, hit), now, now, is_attempt=False, hit=hit)


def without_attempt(parcel: Parcel, now: dt.datetime, why: str = "") -> Result:
    """Return the result of an entry that was only woken; what its last attempt said is looked up when it is settled.

    `why`: a sentence that says what kept it from an attempt, where it had none.
    """
    never = deferred(f"No attempt could be made in time. {why}".rstrip(), transport="local")
    return Result(parcel, never, now, now, is_attempt=False)


def left_to_host(parcel: Parcel, now: dt.datetime) -> Result:
    """Return the result of an entry that goes on waiting for the host of its domain, or has waited for too long."""
    words = f"The host of {parcel.domain} has not come for it."
    outcome = deferred(words, transport="odmr", enhanced_code="4.4.1")
    return Result(parcel, outcome, now, now, is_attempt=False, waits=True)


def batch_length(results: Sequence[Result]) -> int:
    """Return how many of the first results one transaction may take: forwards carry their whole content into it."""
    octets = 0
    for count, result in enumerate(results):
        octets += result.parcel.size_octets if result.forward is not None else 0
        if count and octets > MAX_FORWARDED_OCTETS:
            return count
    return len(results)
