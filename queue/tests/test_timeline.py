"""The timeline: events and attempts as one list; and what an entry waits for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from django.utils import timezone

from mailflow import events, ids
from mailflow.models import Event, Message
from queue.models import Attempt, Entry
from queue.simulation import clock
from queue.timeline import CAPTURED_WORDS, Tone, timeline
from queue.waiting import waiting_for

Accept = Callable[..., list[int]]
START = timezone.now() + dt.timedelta(days=1)  # behind whatever the tests accept, however long they take


def _attempt(entry: Entry, minute: int, outcome: str, *, transport: str = "smtp", code: int | None = 451) -> Attempt:
    ended_at = START + dt.timedelta(minutes=minute)
    return Attempt.objects.create(
        id=ids.first_row_id(ended_at), entry=entry, number=minute, started_at=ended_at - dt.timedelta(seconds=2),
        ended_at=ended_at, outcome=outcome, transport=transport, next_hop="mx.x.example[192.0.2.1]:25",
        tls="TLSv1.3", code=code, reply="4.2.0 later" if code else "The line broke.",
    )  # fmt: skip


def _event(entry: Entry, kind: str, minute: int, summary: str, reply: str = "") -> None:
    at = START + dt.timedelta(minutes=minute)
    events.record(
        [events.NewEvent(kind, summary, entry.message_id, entry.pk, entry.recipient, reply=reply, created_at=at)]
    )


def test_an_attempt_and_its_event_are_one_step_in_the_order_of_time(accept: Accept) -> None:
    accept("a@x.example")
    entry = Entry.objects.get()
    _attempt(entry, 2, "delivered", code=250)
    _event(entry, "delivered", 2, "Taken.", "250 2.0.0 OK")
    _attempt(entry, 1, "deferred")
    _event(entry, "deferred", 1, "Deferred.", "451 4.2.0 later")
    steps = timeline(entry.message_id)
    assert [(step.title, step.tone) for step in steps] == [
        ("Accepted", Tone.GOOD), ("Deferred", Tone.WAITING), ("Delivered", Tone.GOOD),
    ]  # fmt: skip
    assert steps[1].reply == "451 4.2.0 later"
    assert steps[1].detail == "By SMTP, over TLSv1.3, in 2.0 s."


def test_an_attempt_without_an_event_is_a_step_of_its_own(accept: Accept) -> None:
    accept("a@x.example")
    _attempt(Entry.objects.get(), 1, "deferred")
    step = timeline(Message.objects.get().pk)[-1]
    assert (step.title, step.tone, step.reply) == ("Attempt 1: deferred", Tone.WAITING, "451 4.2.0 later")
    assert step.recipient == "a@x.example"
    assert "mx.x.example[192.0.2.1]:25" in step.words


def test_words_of_ours_stand_without_a_code(accept: Accept) -> None:
    accept("a@x.example")
    _attempt(Entry.objects.get(), 1, "deferred", code=None)
    assert timeline(Message.objects.get().pk)[-1].reply == "The line broke."


def test_captured_mail_is_said_to_have_left_nothing(accept: Accept) -> None:
    accept("a@x.example")
    _attempt(Entry.objects.get(), 1, "delivered", transport="sandbox", code=None)
    assert timeline(Message.objects.get().pk)[-1].words == CAPTURED_WORDS


def test_a_reply_that_the_words_repeat_is_told_once(accept: Accept) -> None:
    accept("a@x.example")
    entry = Entry.objects.get()
    _event(entry, "captured", 1, "For a@x.example: kept here.", "kept here")
    assert timeline(entry.message_id)[-1].reply == ""


def test_every_kind_of_event_can_be_shown(accept: Accept) -> None:
    accept("a@x.example")
    entry = Entry.objects.get()
    for number, kind in enumerate(Event.Kind.values):
        _event(entry, kind, number, "Words.")
    assert len(timeline(entry.message_id)) == len(Event.Kind.values) + 1


def test_a_long_timeline_needs_two_queries(accept: Accept, django_assert_num_queries: Callable[[int], object]) -> None:
    accept("a@x.example", "b@x.example", "c@x.example")
    for entry in Entry.objects.all():
        for minute in range(5):
            _attempt(entry, minute, "deferred") if entry.recipient == "a@x.example" else _event(
                entry, "deferred", minute, "x"
            )
    message_id = Message.objects.get().pk
    with django_assert_num_queries(2):  # type: ignore[attr-defined]
        timeline(message_id)


@pytest.mark.parametrize(
    ("status", "minutes", "attempts", "lease", "words"),
    [
        ("pending", -1, 0, "", "a free worker"),
        ("pending", 5, 0, "", "its time of sending"),
        ("retry", 5, 2, "", "attempt 3 of 5, since the last one was deferred"),
        ("retry", -1, 2, "", "a free worker"),
        ("retry", 1, 2, "w1", "the attempt that worker w1 is making now"),
        ("retry", -1, 2, "w1", "another worker, since the one that had it fell silent"),
        ("delivered", None, 1, "", ""),
    ],
)
def test_an_entry_says_what_it_waits_for(
    status: str, minutes: int | None, attempts: int, lease: str, words: str
) -> None:
    due = None if minutes is None else START + dt.timedelta(minutes=minutes)
    entry = Entry(status=status, next_attempt_at=due, attempts=attempts, max_attempts=5, lease=lease)
    assert waiting_for(entry, START) == words


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("R", "the time at which the sender wants it back (BY), which comes before another attempt"),
        ("N", "the time at which its sender is told of the delay; attempt 2 of 5 follows"),
    ],
)
def test_an_entry_that_is_woken_before_its_retry_says_what_for(accept: Accept, mode: str, words: str) -> None:
    accept("a@x.example")
    entry, now = Entry.objects.get(), timezone.now()
    entry.status, entry.attempts, entry.deliver_by_mode = Entry.Status.RETRY, 1, mode
    entry.next_attempt_at = entry.deliver_by_at = now + dt.timedelta(minutes=1)
    entry.retry_at = now + dt.timedelta(hours=1)
    assert waiting_for(entry, now) == words


def test_what_the_sandboxs_clock_dated_stands_in_its_order_and_says_so(accept: Accept) -> None:
    accept("a@x.example")
    entry = Entry.objects.get()
    Attempt.objects.all().delete()
    for number, hours in ((1, 24), (2, 48)):
        at = timezone.now() + dt.timedelta(hours=hours)
        Attempt.objects.create(
            id=ids.new_row_id(), entry=entry, number=number, started_at=at, ended_at=at, outcome="deferred",
            transport="smtp", next_hop="mx.sim.test[192.0.2.25]:25", code=451, reply="4.3.0 later",
        )  # fmt: skip
        events.record([events.NewEvent("retry_requested", f"after {number}", entry.message_id, entry.pk)])
    steps = timeline(entry.message_id)
    assert [(step.words.partition(" ")[2], step.is_simulated) for step in steps[1:]] == [
        ("mx.sim.test[192.0.2.25]:25. By SMTP in the simulated internet, in 0.0 s.", True),
        ("1", False),
        ("mx.sim.test[192.0.2.25]:25. By SMTP in the simulated internet, in 0.0 s.", True),
        ("2", False),
    ]


def test_mail_that_came_while_the_clock_was_ahead_begins_by_it(accept: Accept) -> None:
    clock.move_to(timezone.now() + dt.timedelta(days=5), actor="test")
    accept("a@x.example")
    entry = Entry.objects.get()
    Attempt.objects.create(
        id=ids.new_row_id(), entry=entry, number=1, started_at=clock.now(), ended_at=clock.now(), outcome="deferred",
        transport="smtp",
    )  # fmt: skip
    accepted, attempt = timeline(entry.message_id)
    assert accepted.is_simulated and attempt.is_simulated
    assert dt.timedelta(0) <= attempt.at - accepted.at < dt.timedelta(minutes=1)
