"""What is to be done to queue entries, by whom and why, as a value; and how it is read from what people write."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.dateparse import parse_datetime

from mailflow.events import clean_text
from queue.moments import InvalidMoment, parse_moment
from queue.routes import InvalidRoute, parse_route

MAX_REASON = 150
MAX_ATTEMPTS = 1000
MAX_AHEAD = dt.timedelta(days=366)


class Action(enum.StrEnum):
    """The actions by their names in the API, on the command line and in the trail."""

    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    REROUTE = "reroute"
    EXPIRE = "expire"
    FAIL = "fail"
    DELETE = "delete"


WORDS = {
    Action.HOLD: "Hold: nothing is attempted until somebody releases it; it does not expire meanwhile.",
    Action.RELEASE: "Release: wait on as before the hold; what is overdue is attempted, or ended, at once.",
    Action.RETRY: "Retry: make the next attempt now, or at a time.",
    Action.REROUTE: "Reroute: go by another next hop, or by the rules again.",
    Action.EXPIRE: "Change the expiry: give up at another time, or after another number of attempts.",
    Action.FAIL: "Fail: give up; the sender gets a report, unless that is switched off.",
    Action.DELETE: "Delete: take out of the queue as failed; nobody gets a report.",
}
_PARAMETERS = {
    Action.RETRY: {"at"},
    Action.REROUTE: {"route"},
    Action.EXPIRE: {"expires_at", "max_attempts"},
    Action.FAIL: {"dsn"},
}
_ENDING = {Action.FAIL, Action.DELETE}


class InvalidOrder(ValueError):
    """`errors` has a sentence for each parameter that cannot be used."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {sentence}" for name, sentence in errors.items()))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Order:
    """`at`: the time of a retry, None for now. `dsn`: whether the sender of what is failed gets a report."""

    action: Action
    actor: str
    reason: str = ""
    at: dt.datetime | None = None
    route: str = ""
    expires_at: dt.datetime | None = None
    max_attempts: int | None = None
    dsn: bool = True

    @property
    def is_ending(self) -> bool:
        return self.action in _ENDING

    @property
    def wants_back(self) -> bool:
        """Whether it can be done only to what no worker has, so that what waits in one is asked back."""
        return self.is_ending or self.action is Action.EXPIRE or (self.action is Action.RETRY and self.at is not None)

    @property
    def by(self) -> str:
        """Who and why, as the end of a sentence."""
        return f"by {self.actor}: {self.reason}" if self.reason else f"by {self.actor}"

    @property
    def words(self) -> str:
        """Say what is done, without who and why: `retry at 2026-11-27 10:00 UTC`."""
        match self.action:
            case Action.RETRY:
                return f"retry at {_shown(self.at)}" if self.at else "retry now"
            case Action.REROUTE:
                return f"reroute to {self.route}" if self.route else "reroute by the rules"
            case Action.EXPIRE:
                until = [f"give up at {_shown(self.expires_at)}"] if self.expires_at else []
                tries = [f"at most {self.max_attempts} attempts"] if self.max_attempts else []
                return ", ".join(until + tries)
            case Action.FAIL:
                return "fail with a report to the sender" if self.dsn else "fail without a report"
            case _:
                return self.action.value

    def parameters(self) -> dict[str, Any]:
        """Return what `kept_order` makes the same order of, as JSON."""
        found: dict[str, Any] = {name: getattr(self, name) for name in _PARAMETERS.get(self.action, ())}
        times = {name: value.isoformat() for name, value in found.items() if isinstance(value, dt.datetime)}
        return {**found, **times, "reason": self.reason}


def parse_order(action: object, given: Mapping[str, Any], *, actor: str, now: dt.datetime) -> Order:
    """Read an action and its parameters; raises `InvalidOrder`."""
    try:
        wanted = Action(str(action))
    except ValueError:
        raise InvalidOrder({"action": f"One of {', '.join(Action)} is needed."}) from None
    allowed = _PARAMETERS.get(wanted, set()) | {"reason"}
    errors = {name: f"{wanted.value} has no such parameter." for name in given if name not in allowed}
    values: dict[str, Any] = {}
    for name in sorted(allowed & set(given)):
        try:
            values[name] = _READERS[name](given[name], now)
        except (ValueError, InvalidMoment, InvalidRoute) as error:
            errors[name] = f"{str(error)[:1].upper()}{str(error)[1:]}."
    if wanted is Action.REROUTE and "route" not in given:
        errors["route"] = "A next hop is needed; an empty one means by the rules."
    if wanted is Action.EXPIRE and not (values.get("expires_at") or values.get("max_attempts") or errors):
        errors["expires_at"] = "A time, or max_attempts, is needed."
    if errors:
        raise InvalidOrder(errors)
    return Order(wanted, actor, **values)


def kept_order(action: str, parameters: Mapping[str, Any], *, actor: str) -> Order:
    """Return an order that was parsed and kept."""
    values = dict(parameters)
    for name in ("at", "expires_at"):
        if values.get(name) is not None:
            values[name] = parse_datetime(values[name])
    return Order(Action(action), actor, **values)


def _shown(at: dt.datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _reason(value: Any, _now: dt.datetime) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    text = " ".join(clean_text(value).split()).rstrip(".")
    if len(text) > MAX_REASON:
        raise ValueError(f"at most {MAX_REASON} characters are allowed")
    return text


def _future(value: Any, now: dt.datetime) -> dt.datetime:
    if not isinstance(value, str):
        raise InvalidMoment("a time as a text is needed")
    at = parse_moment(value, now)
    if at <= now:
        raise ValueError("a time in the future is needed")
    if at > now + MAX_AHEAD:
        raise ValueError(f"a time within {MAX_AHEAD.days} days is needed")
    return at


def _at(value: Any, now: dt.datetime) -> dt.datetime | None:
    is_now = value is None or (isinstance(value, str) and value.strip().lower() in ("", "now"))
    return None if is_now else _future(value, now)


def _expires_at(value: Any, now: dt.datetime) -> dt.datetime | None:
    return None if value in (None, "") else _future(value, now)


def _max_attempts(value: Any, _now: dt.datetime) -> int | None:
    text = str(value).strip()
    if value is None or text == "":
        return None
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError("a whole number is needed")
    if not 1 <= int(text) <= MAX_ATTEMPTS:
        raise ValueError(f"a whole number from 1 to {MAX_ATTEMPTS} is needed")
    return int(text)


def _route(value: Any, _now: dt.datetime) -> str:
    if not isinstance(value, str):
        raise InvalidRoute("a text is needed")
    return parse_route(value)


def _dsn(value: Any, _now: dt.datetime) -> bool:
    words = {True: True, False: False, "true": True, "false": False}
    if not isinstance(value, (bool, str)) or value not in words:
        raise ValueError("true or false is needed")
    return words[value]


_READERS = {
    "reason": _reason,
    "at": _at,
    "route": _route,
    "expires_at": _expires_at,
    "max_attempts": _max_attempts,
    "dsn": _dsn,
}
