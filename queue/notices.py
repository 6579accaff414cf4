"""Which report an ended attempt calls for, if any (RFC 3461 §5.2, RFC 2852 §4.1); pure but for one setting.

Whether it is sent, or NOTIFY and the null path forbid it, is for `report` to say: a failure or a delay that nobody
hears of leaves an event.
"""

from __future__ import annotations

import datetime as dt

from django.conf import settings

from queue.claim import Parcel
from queue.dsn_facts import Action
from queue.outcome import Outcome
from queue.schedule import End, Step, Terms, terms_of
from queue.transports.requests import DELIVERBY, DSN

LOCAL = "local"


def terms(parcel: Parcel) -> Terms:
    """Return what bounds a claimed entry in time."""
    return terms_of(
        created_at=max(parcel.created_at, parcel.scheduled_at or parcel.created_at),
        expires_at=parcel.expires_at,
        deliver_by_at=parcel.deliver_by_at,
        deliver_by_mode=parcel.deliver_by_mode,
        wants_delay=bool(parcel.reverse_path) and is_wanted(Action.DELAYED, parcel.notify),
        delay_told_at=parcel.delay_told_at,
        delay_after=dt.timedelta(seconds=settings.QUEUE_DELAY_DSN_AFTER_SECONDS),
    )


def is_wanted(action: Action, notify: str) -> bool:
    """Without NOTIFY failures and delays are reported; with it, only what it names (RFC 3461 §4.1)."""
    match action:
        case Action.FAILED:
            return not notify or "FAILURE" in notify.split(",")
        case Action.DELAYED:
            return not notify or "DELAY" in notify.split(",")
        case _:
            return notify != "NEVER"


def due(parcel: Parcel, outcome: Outcome, step: Step, *, ended_at: dt.datetime, forwarded_to: int = 0) -> Action | None:
    """Return the report that is due; `forwarded_to` counts the targets of an alias that stood for the recipient."""
    if step.end is End.BOUNCED:
        return Action.FAILED
    if step.end in (End.RETRY, End.WAITING):
        return Action.DELAYED if step.tells_delay else None
    if not (parcel.notify or parcel.deliver_by_mode) or parcel.notify == "NEVER":
        return None
    wants_success = "SUCCESS" in parcel.notify.split(",")
    if forwarded_to:  # with one target it is the one who gets the mail that answers (RFC 3461 §5.2.7.2, §5.2.7.3 c)
        return Action.EXPANDED if wants_success and forwarded_to > 1 else None
    if outcome.transport == LOCAL:
        return Action.DELIVERED if wants_success else None
    if wants_success and DSN not in outcome.announced:
        return Action.RELAYED
    return Action.RELAYED if _is_told_of_relaying(parcel, outcome, ended_at) else None


def _is_told_of_relaying(parcel: Parcel, outcome: Outcome, ended_at: dt.datetime) -> bool:
    """RFC 2852 §4.1.4: for a trace, and where the deadline is lost on a next hop that knows none (§4.1.4.2)."""
    if parcel.deliver_by_mode.endswith("T"):
        return True
    is_early = parcel.deliver_by_at is not None and ended_at < parcel.deliver_by_at
    return parcel.deliver_by_mode == "N" and is_early and DELIVERBY not in outcome.announced


def passed_on(parcel: Parcel, outcome: Outcome) -> str:
    """Say what the next hop took over of the sender's wishes, as a clause; nothing where there were none."""
    wishes = [DSN] if parcel.notify and DSN in outcome.announced else []
    wishes += [DELIVERBY] if parcel.deliver_by_mode and DELIVERBY in outcome.announced else []
    return f", which answers for the sender's wishes from here ({' and '.join(wishes)})" if wishes else ""


def notify_of_each(notify: str, targets: int) -> str:
    """Return the NOTIFY that goes on with an alias's mail: to several targets without SUCCESS (RFC 3461 §5.2.7.3 c).

    What is left of SUCCESS alone asks for no report of anything, which is spelt NEVER (§4.1).
    """
    if targets == 1 or not notify:
        return notify
    return ",".join(word for word in notify.split(",") if word != "SUCCESS") or "NEVER"
