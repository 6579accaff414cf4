"""The actions that the page of one message or of one queue entry offers: those alone that apply to it now."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from django.http import QueryDict
from django.urls import reverse

from queue.admin import acting
from queue.control import Action
from queue.models import Entry
from queue.states import HELD, SCHEDULED, state_of


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many open entries there are, and how many of them are on hold, or wait for a time that is to come."""

    open: int
    held: int
    scheduled: int

    @property
    def others(self) -> int:
        return self.open - self.held - self.scheduled


@dataclass(frozen=True, slots=True)
class Button:
    title: str
    address: str


def waiting_of(entry: Entry, now: dt.datetime) -> Waiting:
    """Return the same of one entry."""
    state = state_of(entry)
    is_scheduled = state == SCHEDULED and entry.scheduled_at is not None and entry.scheduled_at > now
    return Waiting(int(entry.status in Entry.OPEN), int(state == HELD), int(is_scheduled))


def of_message(message_id: str, waiting: Waiting) -> list[Button]:
    """Return a message's, with those for mail that is scheduled and has not begun to leave."""
    address = reverse("admin:mailflow_message_reschedule", args=[message_id])
    later = [Button("Send now", f"{address}?at=now"), Button("Reschedule", address)] if waiting.scheduled else []
    return [*later, *_buttons("message", message_id, waiting)]


def of_entry(entry: Entry, now: dt.datetime) -> list[Button]:
    return _buttons("id", str(entry.pk), waiting_of(entry, now))


def _buttons(condition: str, value: str, waiting: Waiting) -> list[Button]:
    applies = {
        Action.RETRY: waiting.others,
        Action.HOLD: waiting.open - waiting.held,
        Action.RELEASE: waiting.held,
        Action.FAIL: waiting.open,
        Action.DELETE: waiting.open,
    }
    return [_button(action, condition, value) for action, count in applies.items() if count]


def _button(action: Action, condition: str, value: str) -> Button:
    query = QueryDict(mutable=True)
    query.update({"action": action.value, condition: value, acting.ORIGIN: condition})
    title = "Retry now" if action is Action.RETRY else acting.title_of(action)
    return Button(title, f"{reverse('admin:queue_entry_act')}?{query.urlencode()}")
