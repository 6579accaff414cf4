"""Which queue entries are meant: one filter for the API, the command line and the admin.

`parse` turns what people write into a `Selection`, or says field by field what is wrong. A selection is a value: it can
be kept as JSON and means the same entries tomorrow, since spans such as `older_than` become times when it is parsed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from operator import and_
from typing import Any

from django.db.models import Q, QuerySet

from queue.models import Entry
from queue.selection_fields import FIELDS, InvalidValue

COUNT_CAP = 100_000
ALL = "all"


class InvalidSelection(ValueError):
    """`errors` has a sentence for each field that cannot be used."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {sentence}" for name, sentence in errors.items()))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions that all hold together, by the fields' names; none at all means every entry."""

    wanted: Mapping[str, Any]

    @property
    def words(self) -> str:
        """Say it to people: `domain x.example, held`."""
        said = [FIELDS[name].said(value) for name, value in self.wanted.items()]
        return ", ".join(said) or "all entries"

    @property
    def condition(self) -> Q:
        return reduce(and_, (FIELDS[name].condition(value) for name, value in self.wanted.items()), Q())

    def open_entries(self) -> QuerySet[Entry]:
        """Those that have not ended, which is what can be acted on."""
        return Entry.objects.filter(Entry.IS_OPEN, self.condition)

    def listed_entries(self) -> QuerySet[Entry]:
        """The open ones, or of the statuses that are asked for."""
        statuses = self.wanted.get("status", Entry.OPEN)
        if set(statuses) <= set(Entry.OPEN):
            return self.open_entries()
        return Entry.objects.filter(Entry.IS_LISTED, self.condition)


@dataclass(frozen=True, slots=True)
class Count:
    """How many entries there are, or that there are more than anybody waits to be counted."""

    number: int
    is_more: bool

    def __str__(self) -> str:
        return f"more than {self.number:,}" if self.is_more else f"{self.number:,}"


def parse(given: Mapping[str, Any], now: dt.datetime, *, needs_one: bool = False) -> Selection:
    """Read conditions by name; raises `InvalidSelection`.

    A value is what JSON has, or its text; where several are allowed, a list or texts separated by commas. With
    `needs_one` a filter without any condition must say `all`, so that nobody means everything by mistake.
    """
    wanted: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, value in given.items():
        if name == ALL:
            if value not in (True, False, "true", "false"):
                errors[name] = "True or false is needed."
            continue
        field = FIELDS.get(name)
        if field is None:
            errors[name] = _unknown(name)
            continue
        try:
            kept_as, read = field.read(value, now)
        except InvalidValue as error:
            errors[name] = f"{str(error)[:1].upper()}{str(error)[1:]}."
            continue
        if kept_as in wanted:
            errors[name] = f"It says the same as another field: {kept_as} is given already."
        wanted[kept_as] = read
    wants_all = given.get(ALL) in (True, "true")
    if not errors and wants_all and wanted:
        errors[ALL] = "It cannot be given together with a condition."
    if not errors and needs_one and not wanted and not wants_all:
        errors["filter"] = "At least one condition is needed; all: true means every entry of the queue."
    if errors:
        raise InvalidSelection(errors)
    return Selection(wanted)


def kept(wanted: Mapping[str, Any]) -> Selection:
    """Return a selection that was parsed and kept."""
    return Selection(dict(wanted))


def of_message(message_id: str) -> Selection:
    return Selection({"message": [message_id]})


def of_entries(entry_ids: Collection[int]) -> Selection:
    return Selection({"id": sorted(entry_ids)})


def count(entries: QuerySet[Entry], cap: int = COUNT_CAP) -> Count:
    """Count, but no further than `cap`."""
    number = entries.order_by().values("pk")[: cap + 1].count()
    return Count(min(number, cap), number > cap)


def _unknown(name: str) -> str:
    near = get_close_matches(name, [*FIELDS, ALL], n=1)
    hint = f"; {near[0]} may be meant" if near else f"; there are {', '.join([*FIELDS, ALL])}"
    return f"There is no such condition{hint}."
