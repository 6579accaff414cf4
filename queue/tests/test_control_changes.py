"""Hold, release, retry at a time, reroute, expiry: what each does to an entry, and what it leaves alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import TrailEntry
from mailflow import content
from mailflow.models import Event, Message
from queue import claim, control, delivery
from queue.control import Action, Order
from queue.handoff import QueueHandoff
from queue.models import Destination, Entry
from queue.outcome import Kind, Outcome, deferred
from queue.results import Result
from queue.settle import settle
from queue.timeline import timeline
from queue.waiting import waiting_for

Accept = Callable[..., list[int]]
HOUR = dt.timedelta(hours=1)


def order(action: Action, **values: Any) -> Order:
    return Order(action, "root", **values)


def carry_out(action: Action, **values: Any) -> control.Tally:
    return control.carry_out(order(action, **values), Entry.objects.all())


def retrying(entry_id: int, in_: dt.timedelta = HOUR, **values: Any) -> None:
    values = {"status": "retry", "attempts": 1, "next_attempt_at": timezone.now() + in_, **values}
    Entry.objects.filter(pk=entry_id).update(**values)


def leased(*entry_ids: int, worker: str = "w") -> None:
    Entry.objects.filter(pk__in=entry_ids).update(lease=worker, next_attempt_at=timezone.now() + HOUR)


def test_a_held_entry_is_not_claimed_and_says_who_holds_it_and_why(accept: Accept) -> None:
    (entry_id,) = accept("a@x.example")
    assert carry_out(Action.HOLD, reason="looks like spam").done == 1
    entry = Entry.objects.get()
    assert (entry.status, entry.next_attempt_at, entry.hold_reason) == ("pending", None, "root: looks like spam")
    assert claim.claim("w", limit=10, now=timezone.now() + HOUR, lease=HOUR, entry_ids=[entry_id]) == []
    words = waiting_for(entry, timezone.now())
    assert words.startswith("its release: on hold since ") and words.endswith("by root: looks like spam")
    event = Event.objects.get(kind="held")
    assert (event.summary, event.actor, event.entry_id) == ("Put on hold by root: looks like spam.", "root", entry_id)


def test_a_hold_twice_leaves_one_event_and_the_first_reason(accept: Accept) -> None:
    accept("a@x.example")
    carry_out(Action.HOLD, reason="one")
    tally = carry_out(Action.HOLD, reason="two")
    assert (tally.done, dict(tally.left)) == (0, {"unchanged": 1})
    assert Entry.objects.get().hold_reason == "root: one"
    assert Event.objects.filter(kind="held").count() == 1


def test_a_release_lets_it_wait_on_for_the_attempt_that_it_waited_for(accept: Accept) -> None:
    (entry_id,) = accept("a@x.example")
    retrying(entry_id)
    Entry.objects.update(delay_told_at=timezone.now())
    before = Entry.objects.get()
    carry_out(Action.HOLD)
    assert Entry.objects.get().status == "pending"  # contract §3: what is held is pending
    assert carry_out(Action.RELEASE).done == 1
    entry = Entry.objects.get()
    assert (entry.status, entry.next_attempt_at) == ("retry", before.next_attempt_at)
    assert (entry.held_at, entry.hold_reason, entry.retry_at) == (None, "", None)
    assert Event.objects.get(kind="released").actor == "root"


def test_a_release_makes_what_is_overdue_due_at_once(accept: Accept) -> None:
    accept("a@x.example")
    carry_out(Action.HOLD)
    carry_out(Action.RELEASE)
    entry = Entry.objects.get()
    assert entry.next_attempt_at is not None and entry.next_attempt_at <= timezone.now()
    assert carry_out(Action.RELEASE).left == {"unchanged": 1}


def test_a_deadline_that_passed_during_the_hold_acts_at_the_release(accept: Accept) -> None:
    (entry_id,) = accept("a@x.example")
    retrying(entry_id)
    carry_out(Action.HOLD)
    Entry.objects.update(deliver_by_at=timezone.now() - HOUR, deliver_by_mode="R")
    carry_out(Action.RELEASE)
    found = delivery.prepare(claim.claim("w", limit=10, now=timezone.now(), lease=HOUR), 0)
    assert not found.foreign and not found.ours
    delivery.write_down(found.decided, worker="w")
    assert Entry.objects.get(pk=entry_id).status == "bounced"
    assert Event.objects.filter(kind="dsn_sent").count() == 1


def test_an_entry_in_a_workers_hands_is_held_when_its_attempt_is_deferred(accept: Accept) -> None:
    accept("a@x.example")
    now = timezone.now()
    (parcel,) = claim.claim("w", limit=1, now=now, lease=HOUR)
    tally = carry_out(Action.HOLD, reason="storm")
    assert (tally.done, dict(tally.left)) == (0, {"held_after_attempt": 1})
    assert waiting_for(Entry.objects.get(), now).endswith("making now; it is put on hold after it")
    settle([Result(parcel, deferred("later", transport="smtp"), now, now)], worker="w")
    entry = Entry.objects.get()
    assert (entry.status, entry.next_attempt_at, entry.lease, entry.attempts) == ("pending", None, "", 1)
    assert entry.retry_at is not None and entry.retry_at > now
    assert Event.objects.get(kind="deferred").summary.endswith("it is on hold now.")
    carry_out(Action.RELEASE)
    assert Entry.objects.get().next_attempt_at is not None


def test_an_entry_in_a_workers_hands_that_is_held_may_still_be_delivered(accept: Accept) -> None:
    accept("a@x.example")
    now = timezone.now()
    (parcel,) = claim.claim("w", limit=1, now=now, lease=HOUR)
    carry_out(Action.HOLD)
    settle([Result(parcel, Outcome(Kind.DELIVERED, "ok", "smtp", 250), now, now)], worker="w")
    assert Entry.objects.get().status == "delivered"


def test_the_lease_of_a_dead_worker_does_not_bring_a_held_entry_back(accept: Accept) -> None:
    accept("a@x.example")
    claim.claim("w", limit=1, now=timezone.now(), lease=HOUR)
    carry_out(Action.HOLD)
    Entry.objects.update(next_attempt_at=timezone.now() - HOUR)
    assert claim.claim("v", limit=1, now=timezone.now(), lease=HOUR) == []
    entry = Entry.objects.get()
    assert (entry.lease, entry.next_attempt_at) == ("", None)
    assert carry_out(Action.RELEASE).done == 1
    assert len(claim.claim("v", limit=1, now=timezone.now(), lease=HOUR)) == 1


def test_a_retry_leaves_holds_and_the_senders_own_time_alone(accept: Accept) -> None:
    held, scheduled, free = accept("a@x.example", "b@x.example", "c@x.example")
    retrying(free)
    control.carry_out(order(Action.HOLD), Entry.objects.filter(pk=held))
    at = timezone.now() + HOUR
    Entry.objects.filter(pk=scheduled).update(scheduled_at=at, next_attempt_at=at)
    tally = carry_out(Action.RETRY)
    assert (tally.done, dict(tally.left)) == (1, {"on_hold": 1, "scheduled": 1})
    assert Entry.objects.get(pk=scheduled).next_attempt_at == at
    assert "1 on hold, to be released first" in tally.words


def test_a_retry_at_a_time_is_not_put_behind_the_expiry(accept: Accept) -> None:
    soon, late = accept("a@x.example", "b@x.example")
    Entry.objects.filter(pk=late).update(expires_at=timezone.now() + HOUR)
    at = timezone.now() + 2 * HOUR
    tally = carry_out(Action.RETRY, at=at)
    assert (tally.done, dict(tally.left)) == (1, {"expires_first": 1})
    assert Entry.objects.get(pk=soon).next_attempt_at == at


def test_a_retry_at_a_time_wakes_before_it_where_the_sender_is_to_hear_of_the_delay(accept: Accept) -> None:
    accept("a@x.example")
    at = timezone.now() + 6 * HOUR  # QUEUE_DELAY_DSN_AFTER is four hours
    carry_out(Action.RETRY, at=at)
    entry = Entry.objects.get()
    assert entry.retry_at == at
    assert entry.next_attempt_at == entry.created_at + 4 * HOUR


def test_a_route_is_set_also_for_what_a_worker_has_and_taken_back_by_an_empty_one(
    accept: Accept, settings: Any
) -> None:
    settings.DELIVERY_MODE = "live"
    free, busy = accept("a@x.example", "b@x.example")
    leased(busy)
    assert carry_out(Action.REROUTE, route="relay.example.com:2525").done == 2
    assert set(Entry.objects.values_list("route", flat=True)) == {"relay.example.com:2525"}
    assert carry_out(Action.REROUTE, route="relay.example.com:2525").left == {"unchanged": 2}
    assert carry_out(Action.REROUTE, route="").done == 2
    summaries = [event.summary for event in Event.objects.filter(kind="changed", entry_id=free).order_by("pk")]
    assert summaries == [
        "Goes to relay.example.com:2525 from the next attempt on, by root.",
        "Goes by the rules again from the next attempt on, by root.",
    ]


@pytest.mark.parametrize("mode", ["live", "sandbox"])
def test_no_route_leads_out_of_the_sandbox(accept: Accept, settings: Any, mode: str) -> None:
    settings.DELIVERY_MODE = "live"
    test, other, busy = accept("a@sim.test", is_test=True) + accept("b@x.example", "c@sim.test")
    leased(busy)
    settings.DELIVERY_MODE = mode
    tally = carry_out(Action.REROUTE, route="relay.example.com")
    simulated = [test] if mode == "live" else [test, other, busy]
    assert (tally.done, dict(tally.left)) == (3 - len(simulated), {"sandbox": len(simulated)})
    assert tally.words.endswith("of the sandbox, whose mail goes to the simulated internet whatever the route)")
    assert not Entry.objects.filter(pk__in=simulated).exclude(route="").exists()
    assert not Event.objects.filter(kind="changed", entry_id__in=simulated).exists()


def test_an_earlier_expiry_pulls_the_last_attempt_forward(accept: Accept) -> None:
    (entry_id,) = accept("a@x.example")
    retrying(entry_id, 3 * HOUR)
    until = timezone.now() + HOUR
    assert carry_out(Action.EXPIRE, expires_at=until, max_attempts=9).done == 1
    entry = Entry.objects.get()
    assert (entry.expires_at, entry.next_attempt_at, entry.max_attempts) == (until, until, 9)
    assert "attempted 9 times at most, by root." in Event.objects.get(kind="changed").summary


def test_an_expiry_before_the_senders_own_time_is_not_set(accept: Accept) -> None:
    accept("a@x.example")
    at = timezone.now() + 2 * HOUR
    Entry.objects.update(scheduled_at=at, next_attempt_at=at)
    assert carry_out(Action.EXPIRE, expires_at=timezone.now() + HOUR).left == {"scheduled": 1}
    assert carry_out(Action.EXPIRE, expires_at=timezone.now() + 3 * HOUR).done == 1
    assert Entry.objects.get().next_attempt_at == at


@pytest.mark.parametrize("action", [Action.EXPIRE, Action.FAIL, Action.DELETE, Action.RETRY])
def test_what_a_worker_delivers_now_is_left_alone_by(accept: Accept, action: Action) -> None:
    (entry_id,) = accept("a@x.example")
    leased(entry_id)
    before = Entry.objects.values().get()
    reason = "at_worker" if action is Action.RETRY else "in_hands"
    assert carry_out(action, max_attempts=3).left == {reason: 1}
    assert Entry.objects.values().get() == before


def test_a_failure_is_a_bounce_with_a_report_that_gives_the_reason_and_not_the_name(accept: Accept) -> None:
    accept("a@x.example", "b@x.example", sender="bob@elsewhere.example")
    Entry.objects.filter(recipient="a@x.example").update(attempts=1, last_reply="450 try later")
    message = Message.objects.get()
    assert carry_out(Action.FAIL, reason="wrong list").done == 2
    message.refresh_from_db()
    assert message.status == "bounced"
    report = Message.objects.exclude(pk=message.pk).get()
    assert (report.source, report.recipients) == ("dsn", ["bob@elsewhere.example"])
    octets = content.read(report.pk).replace(b"\r\n", b" ")
    assert b"gave the message up: wrong list." in octets and b"450 try later" in octets
    assert b"root" not in octets
    assert Event.objects.filter(kind="bounced", actor="root").count() == 2
    assert Event.objects.filter(kind="dsn_sent", message_id=message.pk).count() == 1
    assert [step.title for step in timeline(message.pk)] == ["Accepted", "Bounced", "Bounced", "DSN sent"]


def test_a_failure_without_a_report_tells_nobody(accept: Accept) -> None:
    accept("a@x.example", sender="bob@elsewhere.example")
    assert carry_out(Action.FAIL, dsn=False).done == 1
    assert Message.objects.get().status == "failed"
    assert Event.objects.get(kind="failed").summary == "Given up by root. The sender gets no report."


def test_a_failure_of_mail_from_the_null_path_says_why_no_report_was_sent(accept: Accept) -> None:
    accept("a@x.example", sender=None)
    assert carry_out(Action.FAIL).done == 1
    assert "null path" in Event.objects.get(kind="dsn_withheld").summary


def test_what_ends_is_held_no_more(accept: Accept) -> None:
    accept("a@x.example")
    carry_out(Action.HOLD)
    carry_out(Action.DELETE)
    entry = Entry.objects.get()
    assert (entry.status, entry.held_at, entry.hold_reason) == ("failed", None, "")


def paused(domain: str, by: dt.timedelta = HOUR / 2) -> None:
    now = timezone.now()
    Destination.objects.create(domain=domain, learned=1.0, failures=7, paused_until=now + by, used_at=now)


def test_a_retry_now_lifts_the_pause_of_its_destination_and_of_no_other(accept: Accept, settings: Any) -> None:
    settings.DELIVERY_MODE = "live"  # mail of the sandbox waits for no destination
    accept("a@x.example")
    for domain in ("x.example", "y.example"):
        paused(domain)
    assert carry_out(Action.RETRY, reason="it is back").done == 1
    known = Destination.objects.get(domain="x.example")
    assert (known.paused_until, known.failures, known.learned) == (None, 7, 1.0)  # one delivery tries
    assert Destination.objects.get(domain="y.example").paused_until is not None
    assert Event.objects.get(kind="retry_requested").summary == (
        "root asked for an attempt now: it is back. The pause of its destination is lifted."
    )
    line = TrailEntry.objects.get()
    assert (line.kind, line.actor, line.subject) == ("destination.resumed", "root", "x.example")
    assert line.detail == "The pause is lifted for one attempt, by root: it is back: retry now."


@pytest.mark.parametrize("values", [{"held_at": timezone.now()}, {"is_sandbox": True}, {}])
def test_a_pause_stays_where_nothing_that_waits_for_its_end_is_to_be_tried(
    accept: Accept, settings: Any, values: dict[str, Any]
) -> None:
    settings.DELIVERY_MODE = "live"
    accept("a@x.example")
    Entry.objects.update(**values)
    paused("x.example")
    at = {} if values else {"at": timezone.now() + HOUR}
    carry_out(Action.RETRY, **at)
    assert Destination.objects.get().paused_until is not None
    assert not TrailEntry.objects.exists()
    assert not Event.objects.filter(summary__contains="pause").exists()


def test_another_route_lifts_the_pause_that_was_learned_on_the_old_one(
    accept: Accept, settings: Any, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DELIVERY_MODE = "live"
    due, later, other = accept("a@x.example", "b@x.example", "c@y.example")
    retrying(later)
    paused("x.example")
    rung: list[int] = []
    monkeypatch.setattr("queue.handoff.QueueHandoff.ring", lambda _self, ids: rung.extend(ids))
    monkeypatch.setattr("mailflow.handoff.current", QueueHandoff)
    with django_capture_on_commit_callbacks(execute=True):
        assert carry_out(Action.REROUTE, route="relay.example.com").done == 3
    assert Destination.objects.get().paused_until is None
    assert rung == [due]  # what waits for a time of its own goes on waiting for it
    summaries = dict(Event.objects.filter(kind="changed").values_list("entry_id", "summary"))
    assert [summaries[pk].endswith("The pause of its destination is lifted.") for pk in (due, later, other)] == [
        True, True, False,
    ]  # fmt: skip
