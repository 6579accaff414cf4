"""What a sender asked for, passed on to the next hop: DSN and DELIVERBY as parameters of MAIL and RCPT; pure.

RFC 3461 §5.2.1: what came goes on as it came, to hosts that announce DSN. RFC 6533 §3 for addresses beyond ASCII.
RFC 2852 §4.1.4: the time that is left goes on to hosts that announce DELIVERBY; to others nothing in mode R may.

It goes on in whole seconds, rounded up: the RFC expects the hops to extend the time slightly (§4), and lets nobody end
or report a message before it has passed (§4.1.2). What came with one second would else have none left at once, and mode
R has no zero (§4).
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from queue.transports.base import Deadline, DsnRequest, Job

DSN = "DSN"
DELIVERBY = "DELIVERBY"
XATTEMPT = "XATTEMPT"  # of the simulated internet alone: the number of the attempt, as a parameter of RCPT
MAX_ENVELOPE_ID = 100
MAX_ORIGINAL_RECIPIENT = 500
MAX_BY_SECONDS = 999_999_999

_NOT_XTEXT = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")  # printable ASCII without + and =
_NOT_UNITEXT = re.compile(r"[\x00-\x20+=\\\x7f]")
_NOT_UTF8_XTEXT = re.compile(r"[^\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")
_NOTHING = DsnRequest()


@dataclass(frozen=True, slots=True)
class Requests:
    """The sender's wishes for one message, its recipients' by address."""

    dsn_return: str = ""
    envelope_id: str = ""
    recipients: Mapping[str, DsnRequest] = field(default_factory=dict)
    deadline: Deadline | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_of_dsn(self) -> bool:
        return bool(self.dsn_return or self.envelope_id or self.recipients)


@dataclass(frozen=True, slots=True)
class Impossible:
    """Why a message may not go to this hop at all."""

    enhanced_code: str
    words: str


def requests_of(job: Job) -> Requests | None:
    """Return what the job asks for; None for nearly all mail, which asks for nothing."""
    if not (job.dsn_return or job.envelope_id or job.dsn_requests or job.deadline or job.attempts):
        return None
    return Requests(job.dsn_return, job.envelope_id, job.dsn_requests, job.deadline, job.attempts)


def mail_parameters(requests: Requests, extensions: Mapping[str, str], now: dt.datetime) -> str:
    """Return the parameters of MAIL, each with a space before it. A RET or ENVID that did not come is not made up."""
    words = ""
    if DSN in extensions:
        envelope_id = xtext(requests.envelope_id)
        words += f" RET={requests.dsn_return}" if requests.dsn_return else ""
        words += f" ENVID={envelope_id}" if 0 < len(envelope_id) <= MAX_ENVELOPE_ID else ""
    if requests.deadline is not None and DELIVERBY in extensions:
        words += f" BY={_by_time(requests.deadline, now)};{requests.deadline.mode}"
    return words


def recipient_parameters(
    requests: Requests,
    recipients: Sequence[str],
    extensions: Mapping[str, str],
    now: dt.datetime,
    *,
    is_smtputf8: bool,
) -> dict[str, str]:
    """Return the parameters of RCPT by recipient. `is_smtputf8`: MAIL declares it, so that UTF-8 may be written."""
    found = _dsn_parameters(requests, recipients, extensions, now, is_smtputf8=is_smtputf8)
    if requests.attempts and XATTEMPT in extensions:
        return {one: f"{found.get(one, '')} {XATTEMPT}={requests.attempts.get(one, 1)}" for one in recipients}
    return found


def _dsn_parameters(
    requests: Requests,
    recipients: Sequence[str],
    extensions: Mapping[str, str],
    now: dt.datetime,
    *,
    is_smtputf8: bool,
) -> dict[str, str]:
    if DSN not in extensions or not (requests.is_of_dsn or requests.deadline):
        return {}
    deadline = requests.deadline
    is_early = deadline is not None and deadline.mode[0] == "N" and deadline.at > now
    needs_delay = is_early and DELIVERBY not in extensions
    found = {}
    for recipient in recipients:
        request = requests.recipients.get(recipient, _NOTHING)
        notify = _with_delay(request.notify) if needs_delay else request.notify
        words = f" NOTIFY={notify}" if notify else ""
        if requests.is_of_dsn or notify:
            words += _original_recipient(request.original_recipient, recipient, is_smtputf8=is_smtputf8)
        found[recipient] = words
    return found


def obstacle(requests: Requests, extensions: Mapping[str, str], now: dt.datetime) -> Impossible | None:
    """Return what keeps a message in mode R from this hop (RFC 2852 §4.1.4.1).

    That ends it: another host of the domain is not looked for (§7), nor is it sent without its deadline.
    """
    deadline = requests.deadline
    if deadline is None or deadline.mode[0] != "R":
        return None
    if deadline.at <= now:
        return Impossible("5.4.7", "the time within which the sender wanted the message delivered is over")
    if DELIVERBY not in extensions:
        words = "the sender wants the message back if it is late (BY), and the next hop does not offer DELIVERBY"
        return Impossible("5.3.3", words)
    left, least = _by_time(deadline, now), _least_seconds(extensions[DELIVERBY])
    if left < least:
        words = f"{left} s are left to deliver the message, and the next hop takes no deadline below {least} s"
        return Impossible("5.4.7", words)
    return None


def _by_time(deadline: Deadline, now: dt.datetime) -> int:
    """Return the seconds until the deadline, the last one begun counted whole; negative after it, but in mode R."""
    left = math.ceil((deadline.at - now).total_seconds())
    least = 1 if deadline.mode.startswith("R") else -MAX_BY_SECONDS  # it may have passed since `obstacle` looked
    return max(least, min(MAX_BY_SECONDS, left))


def xtext(text: str) -> str:
    """Encode printable ASCII as xtext (RFC 3461 §4); anything else has none, and gives nothing."""
    return _NOT_XTEXT.sub(lambda found: f"+{ord(found[0]):02X}", text) if text.isascii() and text.isprintable() else ""


def utf8_address(address: str, *, is_smtputf8: bool) -> str:
    """Encode an address of type `utf-8`: as it is where UTF-8 may be written, else in ASCII (RFC 6533 §3)."""
    unfit = _NOT_UNITEXT if is_smtputf8 else _NOT_UTF8_XTEXT
    return unfit.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", address)


def _original_recipient(original: str, recipient: str, *, is_smtputf8: bool) -> str:
    """Return ORCPT as it came, or made of the recipient where none came (RFC 3461 §5.2.1 d)."""
    kind, _, address = (original or f"{'rfc822' if recipient.isascii() else 'utf-8'};{recipient}").partition(";")
    is_utf8 = kind.lower() == "utf-8"
    encoded = utf8_address(address, is_smtputf8=is_smtputf8) if is_utf8 else xtext(address)
    value = f"{kind};{encoded}"
    return f" ORCPT={value}" if encoded and len(value) <= MAX_ORIGINAL_RECIPIENT else ""


def _with_delay(notify: str) -> str:
    """Ask a host that knows no deadline to tell of delays instead (RFC 2852 §4.1.4.2, against RFC 3461 §5.2.1 c)."""
    words = notify.split(",") if notify else ["FAILURE"]
    return notify if "NEVER" in words or "DELAY" in words else ",".join([*words, "DELAY"])


def _least_seconds(parameter: str) -> int:
    """Read the fixed minimum of `DELIVERBY 240,…` (RFC 2852 §2)."""
    number = parameter.partition(",")[0].strip()
    return int(number) if number.isascii() and number.isdigit() and len(number) <= 9 else 0
