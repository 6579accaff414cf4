"""Which entries a filter means, and what is said of one that cannot be used."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import Organization, User
from mailflow.ids import new_row_id
from mailflow.models import Message
from queue import control, selection
from queue.control import Action, Order
from queue.models import Attempt, Entry
from queue.selection import InvalidSelection, parse
from queue.selection_fields import FIELDS
from queue.tests.mail import accepted

Accept = Callable[..., list[int]]
NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)


def found(**given: Any) -> set[str]:
    chosen = parse(given, timezone.now())
    again = selection.kept(chosen.wanted)  # what is kept means the same
    return set(again.open_entries().values_list("recipient", flat=True))


@pytest.fixture
def mail(alice: User) -> None:
    now = timezone.now()
    accepted("a@x.example", by=alice, subject="Invoice 7")
    accepted("b@x.example", "c@y.example", sender="bob@other.example", source=Message.Source.HTTP)
    a, b, c = (Entry.objects.get(recipient__startswith=letter) for letter in "abc")
    hour = dt.timedelta(hours=1)
    Entry.objects.filter(pk=a.pk).update(
        status="retry", attempts=3, next_attempt_at=now + hour, last_reply="451 4.7.1 Greylisted, come back"
    )
    Attempt.objects.create(
        id=new_row_id(), entry=a, number=3, started_at=now, ended_at=now, outcome="deferred", transport="smtp",
        next_hop="mx1.x.example[192.0.2.1]:25",
    )  # fmt: skip
    control.carry_out(Order(Action.HOLD, "root"), Entry.objects.filter(pk=b.pk))
    Entry.objects.filter(pk=c.pk).update(
        scheduled_at=now + hour, next_attempt_at=now + 3 * hour, route="relay.example:2525", is_sandbox=False
    )


@pytest.mark.parametrize(
    ("given", "letters"),
    [
        ({}, "abc"),
        ({"all": True}, "abc"),
        ({"status": "retry"}, "a"),
        ({"status": ["pending", "retry"]}, "abc"),
        ({"domain": "X.Example"}, "ab"),
        ({"domain": "x.example, y.example"}, "abc"),
        ({"domain": ["y.example"]}, "c"),
        ({"recipient": "A@x.example"}, "a"),
        ({"recipient": ["a@x.example", "c@y.example"]}, "ac"),
        ({"sender": "bob@other.example"}, "bc"),
        ({"sender": "<>"}, ""),
        ({"source": "http"}, "bc"),
        ({"organization": "example"}, "a"),
        ({"attempts_from": 1}, "a"),
        ({"attempts_to": "0"}, "bc"),
        ({"reply": "greylisted"}, "a"),
        ({"next_hop": "mx1.x"}, "a"),
        ({"next_hop": "192.0.2.1"}, "a"),
        ({"route": "relay.example:2525"}, "c"),
        ({"route": ""}, "ab"),
        ({"held": True}, "b"),
        ({"held": "false"}, "ac"),
        ({"scheduled": True}, "c"),
        ({"scheduled": False}, "ab"),
        ({"due_before": "2h"}, "a"),
        ({"due_after": "2h"}, "c"),
        ({"older_than": "1h"}, ""),
        ({"newer_than": "1h"}, "abc"),
        ({"search": "y.example"}, "c"),
        ({"search": "b@x.example"}, "b"),
        ({"search": "invoice"}, "a"),
        ({"search": "come back"}, "a"),
        ({"search": "trace"}, "abc"),
        ({"domain": "x.example", "held": True}, "b"),
        ({"sandbox": False}, "c"),
    ],
    ids=str,
)
def test_a_filter_means(mail: None, given: dict[str, Any], letters: str) -> None:
    assert {recipient[0] for recipient in found(**given)} == set(letters)


def test_messages_and_entries_are_named_by_their_ids(mail: None) -> None:
    entry = Entry.objects.get(recipient="c@y.example")
    assert found(message=entry.message_id) == {"b@x.example", "c@y.example"}
    assert found(id=[entry.pk]) == found(id=str(entry.pk)) == {"c@y.example"}
    assert found(search=entry.message_id) == found(search=entry.message_id[:20]) == {"b@x.example", "c@y.example"}


def test_what_has_ended_is_listed_only_where_it_is_asked_for(mail: None) -> None:
    control.remove(Entry.objects.filter(domain="y.example"), actor="root")
    assert found() == {"a@x.example", "b@x.example"}
    listed = parse({"status": "failed,pending"}, NOW).listed_entries()
    assert {entry.recipient[0] for entry in listed} == {"b", "c"}


WRONG = [
    ({"domian": "x"}, "domian", "There is no such condition; domain may be meant."),
    ({"colour": "red"}, "colour", "there are id, message, status"),
    ({"status": "lost"}, "status", "One of pending, retry, failed, bounced is needed, not 'lost'."),
    ({"status": []}, "status", "The list is empty."),
    ({"status": 7}, "status", "A text is needed."),
    ({"domain": "no domain"}, "domain", "'no domain' is no domain:"),
    ({"domain": ["x.example", 3]}, "domain", "A text is needed."),
    ({"domain": {"a": 1}}, "domain", "A text, or a list of them, is needed."),
    ({"domain": ""}, "domain", "It is empty."),
    ({"recipient": "nobody"}, "recipient", "is no address: the address has no @."),
    ({"sender": "@"}, "sender", "is no address"),
    ({"message": "msg_1"}, "message", "is no message id"),
    ({"id": "12a"}, "id", "A whole number is needed."),
    ({"id": [2**63]}, "id", "A whole number from 1 to"),
    ({"id": list(range(1, 1003))}, "id", "At most 1000 are allowed."),
    ({"organization": "nobody"}, "organization", "There is no organization 'nobody'."),
    ({"organization": True}, "organization", "A text is needed."),
    ({"source": "fax"}, "source", "One of reception"),
    ({"attempts_from": -1}, "attempts_from", "A whole number is needed."),
    ({"attempts_from": "1.5"}, "attempts_from", "A whole number is needed."),
    ({"attempts_to": 10**7}, "attempts_to", "A whole number from 0 to 1000000 is needed."),
    ({"held": "perhaps"}, "held", "True or false is needed."),
    ({"held": 1}, "held", "True or false is needed."),
    ({"older_than": "yesterday"}, "older_than", "A span such as 90s, 30m, 2h or 3d is needed."),
    ({"older_than": 3}, "older_than", "A text is needed."),
    ({"due_before": "soon"}, "due_before", "A time such as 2026-11-27T10:00Z"),
    ({"reply": "a\0b"}, "reply", "characters that no text has"),
    ({"reply": "x" * 301}, "reply", "At most 300 characters are allowed."),
    ({"route": "no host!"}, "route", "is no host"),
    ({"all": "perhaps"}, "all", "True or false is needed."),
    ({"all": True, "held": True}, "all", "cannot be given together"),
    ({"older_than": "1h", "accepted_before": "2026-11-27"}, "accepted_before", "says the same as another field"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "name", "words"), WRONG, ids=[str(row[0])[:40] for row in WRONG])
def test_a_wrong_filter_is_refused_by_name(db: None, given: dict[str, Any], name: str, words: str) -> None:
    with pytest.raises(InvalidSelection) as caught:
        parse(given, NOW)
    assert list(caught.value.errors) == [name]
    assert words in caught.value.errors[name]


def test_all_errors_are_told_at_once(db: None) -> None:
    with pytest.raises(InvalidSelection) as caught:
        parse({"status": "x", "held": "y", "colour": "z"}, NOW)
    assert set(caught.value.errors) == {"status", "held", "colour"}


def test_nobody_means_everything_by_mistake(db: None) -> None:
    with pytest.raises(InvalidSelection) as caught:
        parse({}, NOW, needs_one=True)
    assert "all: true" in caught.value.errors["filter"]
    assert parse({"all": True}, NOW, needs_one=True).wanted == {}


def test_a_span_becomes_a_time_so_that_it_means_the_same_later(db: None) -> None:
    chosen = parse({"older_than": "2h"}, NOW)
    assert chosen.wanted == {"accepted_before": "2026-11-27T10:00:00+00:00"}
    assert chosen.words == "accepted before 2026-11-27 10:00:00 UTC"


def test_a_filter_is_said_in_words(db: None) -> None:
    organization = Organization.objects.create(name="Example")
    chosen = parse(
        {"domain": "a.example,b.example,c.example,d.example", "held": True, "sender": "<>",
         "organization": organization.pk, "reply": "later"}, NOW,
    )  # fmt: skip
    assert chosen.words == (
        "domain a.example or b.example or c.example and 1 more, held, from <>, "
        f"organization {organization.pk}, last reply with 'later'"
    )
    assert parse({}, NOW).words == "all entries"


def test_a_count_ends_at_its_cap(accept: Accept) -> None:
    accept(*(f"r{number}@x.example" for number in range(5)))
    entries = parse({}, NOW).open_entries()
    assert str(selection.count(entries)) == "5"
    assert str(selection.count(entries, 5)) == "5"
    assert str(selection.count(entries, 4)) == "more than 4"


def test_every_field_has_help_and_an_example_that_is_taken(db: None) -> None:
    Organization.objects.create(name="Example Inc.")
    for name, field in FIELDS.items():
        assert field.help
        if not str(field.example).endswith("…"):
            parse({name: field.example}, NOW)


@pytest.mark.parametrize(
    ("given", "index"),
    [({"domain": "x.example"}, "entry_open_by_domain"), ({"held": True}, "entry_held"),
     ({"scheduled": True}, "entry_scheduled"), ({"recipient": "a@x.example"}, "entry_open_by_domain"),
     ({"due_before": "2026-11-27"}, "entry_due"), ({"message": "msg_" + "0" * 26}, "entry_by_message")],
    ids=str,
)  # fmt: skip
def test_an_index_leads_to_what_is_meant(db: None, given: dict[str, Any], index: str) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("an empty PostgreSQL table is read without its indexes")
    assert index in parse(given, NOW).open_entries().order_by().explain()
