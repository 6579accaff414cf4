"""What follows an attempt, and when: retries, deadlines and the word of a delay, as pure functions.

RFC 5321 §4.5.4.1 for the retries, RFC 2852 §4.1.3 for the deadline that a sender set (BY), RFC 3461 §5.2.5 for the
report of a delay. An entry is also woken where no attempt is to be made: at a deadline, and when its sender is to hear
of the delay. `retry_at` then keeps the time of the attempt, so that a wake costs none.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from queue.outcome import Kind, Outcome

EXPIRY_SET = "queue.expiry_set"  # the rules of the events that change an entry's end: by a person, and with its time
RESCHEDULED = "queue.rescheduled"
JITTER = 0.2  # each delay is stretched by up to a fifth, so that an outage's mail does not come back all at once


class End(enum.StrEnum):
    """How an attempt, or a wake without one, leaves its entry."""

    DELIVERED = "delivered"
    RETRY = "retry"
    WAITING = "waiting"  # for the host of its domain, which comes when it likes
    BOUNCED = "bounced"


@dataclass(frozen=True, slots=True)
class Terms:
    """What bounds an entry in time. `delay_notice_at`: when its sender is to hear of a delay; None where never (again).

    `is_returned` says what the sender wants at `deliver_by_at`: the message back (mode R), or to be told (mode N).
    """

    expires_at: dt.datetime
    deliver_by_at: dt.datetime | None = None
    is_returned: bool = False
    delay_notice_at: dt.datetime | None = None

    def is_over(self, now: dt.datetime) -> bool:
        """Whether no attempt may be made any more, by the sender's own wish (RFC 2852 §4.1.3)."""
        return self.is_returned and self.deliver_by_at is not None and self.deliver_by_at <= now


@dataclass(frozen=True, slots=True)
class Step:
    """`next_attempt_at` only where it goes on and is not on hold: when the entry is looked at next.

    `retry_at` is the time of its next attempt, where that comes later. `reason` says in words why a deferred entry
    ended, or when it goes on. `is_expired`: the time allowed ended it, `is_too_old`: and that was not its sender's.
    `tells_delay`: its sender is to hear of it now.
    """

    end: End
    next_attempt_at: dt.datetime | None
    reason: str
    retry_at: dt.datetime | None = None
    is_expired: bool = False
    is_too_old: bool = False
    tells_delay: bool = False


DELIVERED = Step(End.DELIVERED, None, "")


def terms_of(
    *,
    created_at: dt.datetime,
    expires_at: dt.datetime,
    deliver_by_at: dt.datetime | None,
    deliver_by_mode: str,
    wants_delay: bool,
    delay_told_at: dt.datetime | None,
    delay_after: dt.timedelta,
) -> Terms:
    """Return an entry's terms. A sender who set a deadline in mode N hears of a delay then, and not by our own rule.

    `wants_delay` is whether our own rule applies; at a deadline it is decided, and written down, when it has come.
    """
    notice_at = None
    if delay_told_at is None:
        if deliver_by_mode.startswith("N"):
            notice_at = deliver_by_at
        elif wants_delay and delay_after:
            notice_at = created_at + delay_after
    return Terms(expires_at, deliver_by_at, deliver_by_mode.startswith("R"), notice_at)


def next_delay(delays: Sequence[dt.timedelta], attempts: int, fraction: float) -> dt.timedelta:
    """Return the wait after the attempt number `attempts` (from 1); the last delay repeats. `fraction` is 0 to 1."""
    delay = delays[min(attempts, len(delays)) - 1]
    return delay * (1 + JITTER * fraction)


def next_step(
    outcome: Outcome,
    *,
    attempts: int,
    max_attempts: int,
    now: dt.datetime,
    terms: Terms,
    delays: Sequence[dt.timedelta],
    fraction: float,
) -> Step:
    """Judge an ended attempt; `attempts` counts it already."""
    if outcome.kind is Kind.DELIVERED:
        return DELIVERED
    if outcome.kind is Kind.FAILED:
        return Step(End.BOUNCED, None, "the refusal is permanent")
    if terms.is_over(now):
        return _over(terms)
    if attempts >= max_attempts:
        return Step(End.BOUNCED, None, f"all {max_attempts} attempts are used up")
    at = now + next_delay(delays, attempts, fraction)
    if at > terms.expires_at:
        reason = f"the next attempt would come after {_its_end(terms)}"
        return Step(End.BOUNCED, None, reason, is_expired=True, is_too_old=True)
    return _wait(at, f"attempt {attempts + 1} of {max_attempts} follows at {_spoken(at, now)}", now, terms)


def woken(*, retry_at: dt.datetime | None, attempts: int, max_attempts: int, now: dt.datetime, terms: Terms) -> Step:
    """Judge an entry that was woken without an attempt: ended at its deadline, or set back to wait for its retry."""
    if terms.is_over(now):
        return _over(terms)
    if terms.expires_at <= now:
        reason = f"no attempt could be made before {_its_end(terms)}"
        return Step(End.BOUNCED, None, reason, is_expired=True, is_too_old=True)
    at = max(retry_at or now, now)
    return _wait(at, f"attempt {attempts + 1} of {max_attempts} follows at {_spoken(at, now)}", now, terms)


def wait(at: dt.datetime, now: dt.datetime, terms: Terms) -> tuple[dt.datetime, dt.datetime | None]:
    """Return `next_attempt_at` and `retry_at` of an entry that a person lets wait for an attempt.

    What should have come before, while it was on hold or waited for something else, comes now.
    """
    wakes = [terms.delay_notice_at] if terms.delay_notice_at is not None else []
    if terms.deliver_by_at is not None and (terms.is_returned or terms.deliver_by_at > now):
        wakes.append(terms.deliver_by_at)
    due_at = max(now, min([at, *wakes]))
    return due_at, at if at > due_at else None


def waits(*, now: dt.datetime, terms: Terms, retry_at: dt.datetime | None = None) -> Step:
    """Judge an entry whose host comes for it when it likes (RFC 2645, RFC 1985): it waits, and is woken at its end.

    `retry_at` of the step is its end: by that it is told from one that an attempt was asked for. `retry_at` before the
    end is such an attempt, which a wake does not cost it. Attempts are not counted against it: they are made when the
    host asks, which may be every few minutes.
    """
    if terms.is_over(now):
        return _over(terms)
    if terms.expires_at <= now:
        reason = f"its host did not take it before {_its_end(terms)}"
        return Step(End.BOUNCED, None, reason, is_expired=True, is_too_old=True)
    if retry_at is not None and now < retry_at < terms.expires_at:
        step = _wait(retry_at, f"an attempt was asked for at {_spoken(retry_at, now)}", now, terms)
        return replace(step, end=End.WAITING)
    until = f"{terms.expires_at:%Y-%m-%d %H:%M} UTC"
    step = _wait(
        terms.expires_at, f"it waits for its host to come or to ask for it (ATRN, ETRN), until {until}", now, terms
    )
    return replace(step, end=End.WAITING, retry_at=terms.expires_at)


def needs_no_attempt(*, retry_at: dt.datetime | None, now: dt.datetime, terms: Terms) -> bool:
    """Whether a claimed entry was only woken: it is too late for an attempt (mode R), or too early for the next."""
    return terms.is_over(now) or (retry_at is not None and retry_at > now)


def put_off(until: dt.datetime, *, now: dt.datetime, terms: Terms) -> Step:
    """Let an entry wait that may not go yet, and wake before that where its time ends or its sender is to be told."""
    return _wait(until, f"it may go at {until:%Y-%m-%d %H:%M} UTC", now, terms)


def _spoken(at: dt.datetime, now: dt.datetime) -> str:
    """Write a time as people read it: with its day where that is another."""
    return f"{at:%H:%M:%S} UTC" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _its_end(terms: Terms) -> str:
    return f"the end of its time ({terms.expires_at:%Y-%m-%d %H:%M:%S} UTC)"


def _over(terms: Terms) -> Step:
    assert terms.deliver_by_at is not None
    reason = f"the sender wanted it delivered by {terms.deliver_by_at:%Y-%m-%d %H:%M:%S} UTC or not at all (BY)"
    return Step(End.BOUNCED, None, reason, is_expired=True)


def _wait(at: dt.datetime, reason: str, now: dt.datetime, terms: Terms) -> Step:
    """Wait for the attempt, and wake before it where something else comes first."""
    step = Step(End.RETRY, at, reason)
    if terms.delay_notice_at is not None and terms.delay_notice_at <= now:
        step = replace(step, tells_delay=True)
        if terms.delay_notice_at == terms.deliver_by_at:
            step = replace(step, reason=f"the time that the sender set (BY) has passed; {reason}")
    times = (terms.deliver_by_at, terms.delay_notice_at, terms.expires_at)
    wakes = [wake for wake in times if wake is not None and now < wake < at]
    return replace(step, next_attempt_at=min(wakes), retry_at=at) if wakes else step
