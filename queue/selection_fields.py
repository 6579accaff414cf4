"""The conditions that a selection of queue entries may have: how each is read, said, and asked of the database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.utils.dateparse import parse_datetime

from accounts.models import Organization
from accounts.names import InvalidName, parse_address, parse_address_literal, parse_domain
from mailflow.ids import MESSAGE_ID_LENGTH, MESSAGE_ID_PREFIX, first_row_id
from mailflow.models import Message
from queue.models import Attempt, Entry
from queue.moments import InvalidMoment, parse_moment, parse_span
from queue.routes import InvalidRoute, parse_route

MAX_VALUES = 1000
MAX_TEXT = 300
MAX_ID = 2**63 - 1
STATUSES = ("pending", "retry", "failed", "bounced")
NULL_PATH = "<>"


class InvalidValue(ValueError):
    """What is wrong with the value, as a clause."""


Read = Callable[[Any, dt.datetime], tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Field:
    """`read` returns the name and the JSON value that are kept; `help` and `example` are for people."""

    name: str
    help: str
    example: Any
    read: Read
    said: Callable[[Any], str]
    condition: Callable[[Any], Q]
    is_input_only: bool = False
    is_many: bool = False
    is_flag: bool = False


# --- reading ----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, bool):
        raise InvalidValue("a text is needed")
    text = value.strip()
    if len(text) > MAX_TEXT:
        raise InvalidValue(f"at most {MAX_TEXT} characters are allowed")
    if "\0" in text or not text.encode("utf-8", "ignore").decode() == text:
        raise InvalidValue("the text holds characters that no text has")
    return text


def _some_text(value: Any) -> str:
    text = _text(value)
    if not text:
        raise InvalidValue("it is empty")
    return text


def _each(value: Any, one: Callable[[Any], Any]) -> list[Any]:
    items = value.split(",") if isinstance(value, str) else value
    if isinstance(items, int) and not isinstance(items, bool):
        items = [items]
    if not isinstance(items, Sequence):
        raise InvalidValue("a text, or a list of them, is needed")
    if not items:
        raise InvalidValue("the list is empty")
    if len(items) > MAX_VALUES:
        raise InvalidValue(f"at most {MAX_VALUES} are allowed")
    return sorted({one(item) for item in items})


def _status(value: Any) -> str:
    text = _text(value)
    if text not in STATUSES:
        raise InvalidValue(f"one of {', '.join(STATUSES)} is needed, not {text[:40]!r}")
    return text


def _domain(value: Any) -> str:
    text = _some_text(value)
    try:
        return parse_address_literal(text) if text.startswith("[") else parse_domain(text)
    except InvalidName as error:
        raise InvalidValue(f"{text[:60]!r} is no domain: {error}") from None


def _recipient(value: Any) -> str:
    text = _some_text(value)
    try:
        return str(parse_address(text))
    except InvalidName as error:
        raise InvalidValue(f"{text[:60]!r} is no address: {error}") from None


def _sender(value: Any) -> str:
    text = _text(value)
    return "" if text in ("", NULL_PATH) else _recipient(text)


def _message(value: Any) -> str:
    text = _some_text(value)
    if not (text.startswith(MESSAGE_ID_PREFIX) and len(text) == MESSAGE_ID_LENGTH):
        raise InvalidValue(f"{text[:60]!r} is no message id, which is {MESSAGE_ID_PREFIX} and 26 characters")
    return text


def _source(value: Any) -> str:
    text = _text(value)
    if text not in Message.Source.values:
        raise InvalidValue(f"one of {', '.join(Message.Source.values)} is needed, not {text[:40]!r}")
    return text


def _number(value: Any, low: int = 0, high: int = 1_000_000) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidValue("a whole number is needed")
    if not low <= int(text) <= high:
        raise InvalidValue(f"a whole number from {low} to {high} is needed")
    return int(text)


def _entry_id(value: Any) -> int:
    return _number(value, 1, MAX_ID)


def _flag(value: Any) -> bool:
    words = {True: True, False: False, "true": True, "false": False, "yes": True, "no": False}
    if not isinstance(value, (bool, str)) or value not in words:
        raise InvalidValue("true or false is needed")
    return words[value]


def _organization(value: Any) -> int:
    text = str(value).strip() if isinstance(value, int) and not isinstance(value, bool) else _some_text(value)
    is_number = text.isascii() and text.isdigit() and len(text) < 19
    wanted = Q(pk=int(text)) if is_number else Q(name__iexact=text)
    found = Organization.objects.filter(wanted).values_list("pk", flat=True).first()
    if found is None:
        raise InvalidValue(f"there is no organization {text[:60]!r}")
    return found


def _route(value: Any) -> str:
    try:
        return parse_route(_text(value))
    except InvalidRoute as error:
        raise InvalidValue(str(error)) from None


def _moment(value: Any, now: dt.datetime) -> str:
    try:
        return parse_moment(_some_text(value), now).isoformat()
    except InvalidMoment as error:
        raise InvalidValue(str(error)) from None


def _ago(value: Any, now: dt.datetime) -> str:
    try:
        return (now - parse_span(_some_text(value))).isoformat()
    except InvalidMoment as error:
        raise InvalidValue(str(error)) from None


def _at(value: str) -> dt.datetime:
    found = parse_datetime(value)
    assert found is not None  # it was kept by us
    return found


def _plain(name: str, one: Callable[[Any], Any]) -> Read:
    return lambda value, _now: (name, one(value))


def _list(name: str, one: Callable[[Any], Any]) -> Read:
    return lambda value, _now: (name, _each(value, one))


def _timed(name: str, one: Callable[[Any, dt.datetime], str]) -> Read:
    return lambda value, now: (name, one(value, now))


# --- saying -----------------------------------------------------------------------------------------------------------


def _names(word: str) -> Callable[[Any], str]:
    def said(values: Sequence[Any]) -> str:
        shown = [str(value) or NULL_PATH for value in values[:3]]
        more = f" and {len(values) - 3} more" if len(values) > 3 else ""
        return f"{word} {' or '.join(shown)}{more}"

    return said


def _time(word: str) -> Callable[[Any], str]:
    return lambda value: f"{word} {_at(value):%Y-%m-%d %H:%M:%S} UTC"


def _yes_no(yes: str, no: str) -> Callable[[Any], str]:
    return lambda value: yes if value else no


# --- asking -----------------------------------------------------------------------------------------------------------


def _to(addresses: Sequence[str]) -> Q:
    """By the domain, which an index has; the local part whatever its case."""
    found = Q(pk__in=[])
    for address in addresses:
        found |= Q(domain=address.rpartition("@")[2], recipient__iexact=address)
    return found


def _from(addresses: Sequence[str]) -> Q:
    found = Q(pk__in=[])
    for address in addresses:
        found |= Q(message__reverse_path__iexact=address) if address else Q(message__reverse_path="")
    return found


def _searched(text: str) -> Q:
    """A message id, an address, a domain, or else words: only the last reads through the entries."""
    if text.startswith(MESSAGE_ID_PREFIX) and " " not in text:
        return Q(message_id=text) if len(text) == MESSAGE_ID_LENGTH else Q(message__id__startswith=text)
    try:
        if "@" in text:
            return _to([str(parse_address(text))])
        if "." in text:
            return Q(domain=parse_domain(text))
    except InvalidName:
        pass
    in_words = Q(recipient__icontains=text) | Q(last_reply__icontains=text) | Q(message__subject__icontains=text)
    return in_words | Q(message__trace_id=text)


def _held(value: bool) -> Q:
    return Q(held_at__isnull=not value)


def _scheduled(value: bool) -> Q:
    """Scheduled mail that has not begun to leave."""
    is_scheduled = Q(scheduled_at__isnull=False, attempts=0)
    return is_scheduled if value else ~is_scheduled


def _went_by(text: str) -> Q:
    return Q(Exists(Attempt.objects.filter(entry=OuterRef("pk"), next_hop__icontains=text)))


_ALL = [
    Field("id", "ids of queue entries", "243187…", _list("id", _entry_id), _names("entry"),
          lambda values: Q(pk__in=values), is_many=True),
    Field("message", "message ids", "msg_019…", _list("message", _message), _names("message"),
          lambda values: Q(message_id__in=values), is_many=True),
    Field("status", "pending, retry; in lists failed and bounced too", "retry", _list("status", _status),
          _names("status"), lambda values: Q(status__in=values), is_many=True),
    Field("domain", "the recipients' domain", "example.net", _list("domain", _domain), _names("domain"),
          lambda values: Q(domain__in=values) if len(values) > 1 else Q(domain=values[0]), is_many=True),
    Field("recipient", "a recipient's address, whatever its case", "john@example.net", _list("recipient", _recipient),
          _names("to"), _to, is_many=True),
    Field("sender", "the envelope's sender; <> is the null path", "news@example.com", _list("sender", _sender),
          _names("from"), _from, is_many=True),
    Field("organization", "whose mail it is: the organization's id or name", "Example Inc.",
          _plain("organization", _organization), lambda value: f"organization {value}",
          lambda value: Q(message__organization_id=value)),
    Field("source", f"how it came: {', '.join(Message.Source.values)}", "http", _list("source", _source),
          _names("source"), lambda values: Q(message__source__in=values), is_many=True),
    Field("older_than", "accepted longer ago than this", "2h", _timed("accepted_before", _ago), str, Q,
          is_input_only=True),
    Field("newer_than", "accepted at most so long ago", "30m", _timed("accepted_after", _ago), str, Q,
          is_input_only=True),
    Field("accepted_before", "accepted before this time", "2026-11-27T10:00Z", _timed("accepted_before", _moment),
          _time("accepted before"), lambda value: Q(pk__lt=first_row_id(_at(value)))),
    Field("accepted_after", "accepted at this time or later", "2026-11-27", _timed("accepted_after", _moment),
          _time("accepted after"), lambda value: Q(pk__gte=first_row_id(_at(value)))),
    Field("attempts_from", "at least so many attempts were made", 3, _plain("attempts_from", _number),
          lambda value: f"{value} attempts or more", lambda value: Q(attempts__gte=value)),
    Field("attempts_to", "at most so many attempts were made", 0, _plain("attempts_to", _number),
          lambda value: f"{value} attempts at most", lambda value: Q(attempts__lte=value)),
    Field("due_before", "its next attempt comes before this time", "1h", _timed("due_before", _moment),
          _time("due before"), lambda value: Q(next_attempt_at__lt=_at(value), status__in=Entry.OPEN)),
    Field("due_after", "its next attempt comes at this time or later", "2026-11-28", _timed("due_after", _moment),
          _time("due after"), lambda value: Q(next_attempt_at__gte=_at(value), status__in=Entry.OPEN)),
    Field("reply", "the last reply contains this text", "greylisted", _plain("reply", _some_text),
          lambda value: f"last reply with {value!r}", lambda value: Q(last_reply__icontains=value)),
    Field("next_hop", "an attempt went to a host whose name or address contains this", "mx1.example.net",
          _plain("next_hop", _some_text), lambda value: f"attempted by {value}", _went_by),
    Field("route", "goes by this next hop that a person chose; empty: by none", "relay.example.com:2525",
          _plain("route", _route), lambda value: f"route {value or 'by the rules'}", lambda value: Q(route=value)),
    Field("held", "whether a person holds it", True, _plain("held", _flag), _yes_no("held", "not held"), _held,
          is_flag=True),
    Field("scheduled", "whether its sender chose a time, and nothing was attempted yet", True,
          _plain("scheduled", _flag), _yes_no("scheduled", "not scheduled"), _scheduled, is_flag=True),
    Field("sandbox", "whether it goes to the simulated internet", False, _plain("sandbox", _flag),
          _yes_no("sandbox", "not sandbox"), lambda value: Q(is_sandbox=value), is_flag=True),
    Field("search", "a message id, an address, a domain, or words in recipient, subject or last reply", "timeout",
          _plain("search", _some_text), lambda value: f"found by {value!r}", _searched),
]  # fmt: skip

FIELDS = {field.name: field for field in _ALL}
