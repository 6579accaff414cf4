"""The sandbox's clock: five days of retries, deadlines and delays in a moment, beside workers, and nothing twice."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.utils import timezone

from accounts.models import User
from mailflow.models import Event, FiledMessage, Message
from mailflow.smtp.envelope import DeliverBy
from queue import claim, control, delivery
from queue.control import Action, Order
from queue.engine import Engine
from queue.models import Attempt, Entry, SandboxClock
from queue.patrol import Patrol
from queue.simulation import advance as advance_module
from queue.simulation import clock
from queue.simulation.advance import Advance, Summary
from queue.tests.conftest import drain, open_entries, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def schedule(settings: Any) -> None:
    settings.RETRY_SCHEDULE = [dt.timedelta(minutes=5), HOUR, DAY, 3 * DAY]


def advance(by: dt.timedelta) -> Summary:
    return Advance(clock.now() + by, actor="test").run()


def attempts(recipient: str) -> list[Attempt]:
    return list(Attempt.objects.filter(entry__recipient=recipient).order_by("number"))


def waits(found: list[Attempt]) -> list[dt.timedelta]:
    """Return the time between each attempt and the next, without the jitter of up to a fifth."""
    return [after.started_at - before.ended_at for before, after in itertools.pairwise(found)]


def between(wait: dt.timedelta, delay: dt.timedelta) -> bool:
    return delay <= wait <= delay * 1.2 + dt.timedelta(minutes=1)  # on a busy machine things take their time


def told() -> list[str]:
    return sorted(Event.objects.filter(kind="dsn_sent").values_list("summary", flat=True))


# --- five days ---


def test_mail_that_is_deferred_three_times_arrives_with_the_fourth_attempt(alice: User, accept: Accept) -> None:
    accept("defer+3@sim.test")
    summary = advance(5 * DAY)
    found = attempts("defer+3@sim.test")
    assert [one.outcome for one in found] == ["deferred", "deferred", "deferred", "delivered"]
    delays = [dt.timedelta(minutes=5), HOUR, DAY]
    assert all(between(wait, delay) for wait, delay in zip(waits(found), delays, strict=True))
    assert Message.objects.exclude(source="dsn").get().status == Message.Status.DELIVERED
    assert summary.ended_at - summary.started_at >= 5 * DAY
    assert (summary.is_complete, summary.waiting, summary.in_other_hands) == (True, 0, 0)
    assert {one.next_hop for one in found} == {"mx.sim.test[192.0.2.25]:25"}
    assert all(one.tls.startswith("TLS") for one in found)


def test_mail_that_is_deferred_for_ever_comes_back_after_the_last_attempt(alice: User, accept: Accept) -> None:
    accept("defer+10@sim.test")
    advance(5 * DAY)
    found = attempts("defer+10@sim.test")
    assert [one.outcome for one in found] == ["deferred"] * 5
    assert found[-1].ended_at - found[0].ended_at > 4 * DAY
    entry = Entry.objects.get(recipient="defer+10@sim.test")
    assert (entry.status, entry.attempts) == ("bounced", 5)
    assert entry.finished_at is not None and entry.finished_at - entry.created_at > 4 * DAY
    assert told() == [
        "A delay report for defer+10@sim.test goes to the sender <alice@example.com>.",
        "A failure report for defer+10@sim.test goes to the sender <alice@example.com>.",
    ]
    assert FiledMessage.objects.count() == 2  # both reports reached the sender


def test_an_entry_expires_when_the_end_of_its_time_comes_first(alice: User, accept: Accept, settings: Any) -> None:
    settings.RETRY_SCHEDULE = [2 * DAY]
    settings.QUEUE_MAX_ATTEMPTS = 9
    accept("full@sim.test", sender=None)
    advance(6 * DAY)
    assert len(attempts("full@sim.test")) == 3
    assert re.search(r"would come after the end of its time \(20[-0-9]{8} [:0-9]{8} UTC\)\.", bounced_words())


def bounced_words() -> str:
    return Event.objects.get(kind="bounced").summary


def test_an_end_that_a_person_set_is_told_as_that(alice: User, accept: Accept, settings: Any) -> None:
    settings.RETRY_SCHEDULE = [2 * DAY]
    accept("full@sim.test", sender=None)
    until = timezone.now() + DAY
    control.carry_out(Order(Action.EXPIRE, "root", expires_at=until), Entry.objects.all())
    advance(3 * DAY)
    assert f"the end of its time ({until:%Y-%m-%d %H:%M:%S} UTC), which root set." in bounced_words()


def test_a_new_time_of_its_sender_has_an_end_of_its_own(alice: User, accept: Accept, settings: Any) -> None:
    settings.RETRY_SCHEDULE = [9 * DAY]
    accept("full@sim.test", sender=None)
    Entry.objects.update(scheduled_at=timezone.now() + DAY, next_attempt_at=timezone.now() + DAY)
    control.carry_out(Order(Action.EXPIRE, "root", expires_at=timezone.now() + 2 * DAY), Entry.objects.all())
    control.reschedule(Message.objects.get(), timezone.now() + 3 * DAY, actor="alice", now=timezone.now())
    advance(9 * DAY)
    assert "the end of its time" in bounced_words() and "root" not in bounced_words()


def test_a_hundred_messages_are_through_in_a_moment(alice: User, accept: Accept) -> None:
    for _ in range(100):
        accept("defer+3@sim.test", sender=None)
    summary = advance(5 * DAY)
    assert (summary.tally.attempts, summary.tally.deferred, summary.tally.delivered) == (400, 300, 100)
    assert Counter(Attempt.objects.values_list("number", flat=True)) == {1: 100, 2: 100, 3: 100, 4: 100}


def test_the_sender_is_told_of_a_delay_once_and_at_its_time(alice: User, accept: Accept) -> None:
    accept("defer+4@sim.test")
    advance(2 * DAY)
    advance(DAY)
    assert told() == ["A delay report for defer+4@sim.test goes to the sender <alice@example.com>."]
    entry = Entry.objects.get(recipient="defer+4@sim.test")
    assert entry.delay_told_at is not None
    assert dt.timedelta(0) <= entry.delay_told_at - entry.created_at - 4 * HOUR < dt.timedelta(minutes=1)
    event = Event.objects.get(kind="dsn_sent")
    assert abs(event.created_at - entry.delay_told_at) < dt.timedelta(minutes=1)


def test_a_deadline_in_mode_r_returns_the_mail_when_it_comes(alice: User, accept: Accept) -> None:
    accept("full@sim.test", deliver_by=DeliverBy(1800, "R"))
    advance(HOUR)
    entry = Entry.objects.get(recipient="full@sim.test")
    assert (entry.status, entry.attempts) == ("bounced", 2)
    assert entry.finished_at is not None and entry.deliver_by_at is not None
    assert dt.timedelta(0) <= entry.finished_at - entry.deliver_by_at < dt.timedelta(minutes=1)
    assert told() == ["A failure report for full@sim.test goes to the sender <alice@example.com>."]


def test_a_deadline_in_mode_n_tells_the_sender_and_goes_on(alice: User, accept: Accept) -> None:
    accept("defer+3@sim.test", deliver_by=DeliverBy(1800, "N"))
    advance(HOUR / 1.5)
    assert told() == ["A delay report for defer+3@sim.test goes to the sender <alice@example.com>."]
    advance(2 * DAY)
    assert Entry.objects.get(recipient="defer+3@sim.test").status == "delivered"
    assert len(told()) == 1


def test_the_time_that_is_left_is_told_to_the_host_by_the_sandboxs_clock(alice: User, accept: Accept) -> None:
    advance(5 * DAY)
    accept("ok@sim.test", deliver_by=DeliverBy(1800, "R"))
    advance(HOUR)
    assert Entry.objects.get(recipient="ok@sim.test").status == "delivered"


def test_greylisting_and_hosts_that_spoil_sessions_are_seen_through(alice: User, accept: Accept) -> None:
    names = ["greylist", "slow", "no-tls", "tls-broken", "disconnect+1", "timeout+1", "rejected+5.6.0", "elsewhere"]
    accept(*(f"{name}@sim.test" for name in names), "captured@foreign.example", sender=None)
    advance(5 * DAY)
    ends = dict(Entry.objects.values_list("recipient", "status"))
    assert {recipient.partition("@")[0] for recipient, end in ends.items() if end == "bounced"} == {
        "tls-broken",
        "rejected+5.6.0",
    }
    assert set(ends.values()) == {"delivered", "bounced"}
    count = Counter(Attempt.objects.values_list("entry__recipient", flat=True))
    assert (count["greylist@sim.test"], count["disconnect+1@sim.test"], count["timeout+1@sim.test"]) == (2, 2, 2)
    assert attempts("rejected+5.6.0@sim.test")[0].enhanced_code == "5.6.0"
    assert "handshake" in attempts("tls-broken@sim.test")[-1].reply
    assert attempts("no-tls@sim.test")[0].tls == ""


# --- what moves and what does not ---


def test_live_mail_is_not_moved(alice: User, accept: Accept, settings: Any) -> None:
    settings.DELIVERY_MODE = "live"
    (live,) = accept("a@foreign.example")
    Entry.objects.filter(pk=live).update(next_attempt_at=timezone.now() + HOUR)
    accept("defer+1@sim.test", sender=None, is_test=True)
    before = Entry.objects.filter(pk=live).values().get()
    advance(5 * DAY)
    assert Entry.objects.filter(pk=live).values().get() == before
    assert claim.claim("w", limit=9, now=timezone.now(), lease=HOUR, ahead=5 * DAY) == []
    assert open_entries() == 1


def test_a_lease_ends_by_real_time(alice: User, accept: Accept) -> None:
    ids = accept("full@sim.test")
    held = claim.claim("w", limit=9, now=timezone.now(), lease=HOUR)
    assert [parcel.entry_id for parcel in held] == ids
    assert claim.claim("x", limit=9, now=timezone.now(), lease=HOUR, ahead=5 * DAY) == []
    later = timezone.now() + HOUR
    assert len(claim.claim("x", limit=9, now=later, lease=HOUR, ahead=5 * DAY)) == 1


def test_new_mail_lives_by_the_clock_from_its_beginning(alice: User, accept: Accept) -> None:
    advance(5 * DAY)
    accept("defer+1@sim.test")
    entry = Entry.objects.get()
    assert entry.created_at - entry.message.created_at > 4.9 * DAY
    assert entry.expires_at - entry.created_at == 5 * DAY
    advance(HOUR)
    assert Entry.objects.get(pk=entry.pk).status == "delivered"
    assert told() == []


def test_a_worker_follows_the_clock(alice: User, accept: Accept, settings: Any) -> None:
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    accept("defer+1@sim.test", sender=None)
    engine = Engine()
    engine.start()
    try:
        wait_until(lambda: Entry.objects.get().status == "retry")
        clock.move_to(clock.now() + HOUR, actor="test")
        wait_until(lambda: Entry.objects.get().status == "delivered")
    finally:
        drain(engine)
    first, second = attempts("defer+1@sim.test")
    assert second.started_at - first.ended_at > dt.timedelta(minutes=59)


def test_the_clock_is_never_put_back_by_an_advance(alice: User) -> None:
    clock.move_to(clock.now() + DAY, actor="test")
    clock.move_to(clock.now() - HOUR, actor="test")
    assert abs(clock.ahead() - DAY) < dt.timedelta(minutes=1)


def test_a_reset_takes_what_waits_along(alice: User, accept: Accept) -> None:
    accept("full@sim.test", deliver_by=DeliverBy(10 * 86400, "N"))
    advance(3 * DAY)
    before = Entry.objects.get(recipient="full@sim.test")
    left = before.next_attempt_at - clock.now()  # type: ignore[operator]
    assert clock.reset(actor="test") == 1
    after = Entry.objects.get(recipient="full@sim.test")
    assert clock.ahead() == clock.REAL_TIME
    assert after.next_attempt_at is not None
    assert abs((after.next_attempt_at - timezone.now()) - left) < dt.timedelta(seconds=30)
    assert after.expires_at - after.created_at == 5 * DAY
    assert after.deliver_by_at is not None and after.deliver_by_at - after.created_at == 10 * DAY
    advance(5 * DAY)
    assert Entry.objects.get(recipient="full@sim.test").status == "bounced"


def test_what_a_worker_has_in_hand_when_the_clock_goes_back_does_not_wait_for_days(alice: User, accept: Accept) -> None:
    accept("full@sim.test")
    clock.move_to(clock.now() + 3 * DAY, actor="test")
    (parcel,) = claim.claim("w", limit=9, now=timezone.now(), lease=HOUR, ahead=clock.ahead())
    clock.reset(actor="test")
    trouble = delivery.trouble(parcel, timezone.now(), "smtp", OSError())
    delivery.write_down([trouble], worker="w")
    entry = Entry.objects.get()
    assert entry.next_attempt_at is not None and entry.next_attempt_at < timezone.now() + HOUR
    assert Attempt.objects.get().ended_at < timezone.now() + HOUR


def test_a_person_asks_for_an_attempt_now_while_the_clock_is_ahead(alice: User, accept: Accept) -> None:
    accept("defer+1@sim.test", sender=None)
    advance(dt.timedelta(seconds=1))
    clock.move_to(clock.now() + dt.timedelta(minutes=1), actor="test")
    control.retry_now(Entry.objects.all(), actor="root")
    advance(dt.timedelta(seconds=1))
    assert Entry.objects.get().status == "delivered"


@pytest.fixture
def days_ahead(db: None) -> dt.timedelta:
    clock.move_to(clock.now() + 5 * DAY, actor="test")
    return clock.ahead()


def test_scheduled_mail_is_moved_by_the_clock_and_keeps_its_time_to_live(
    alice: User, accept: Accept, days_ahead: dt.timedelta
) -> None:
    accept("ok@sim.test")
    now = timezone.now()
    Entry.objects.update(scheduled_at=now + HOUR, next_attempt_at=now + HOUR + days_ahead)
    at = now + 2 * DAY
    assert control.reschedule(Message.objects.get(), at, actor="alice", now=now) == 1
    entry = Entry.objects.get()
    assert (entry.scheduled_at, entry.next_attempt_at) == (at, at + days_ahead)
    assert entry.expires_at == at + days_ahead + 5 * DAY
    assert control.retry_now(Entry.objects.all(), actor="root") == 0  # the sender's own time stays


def test_what_people_set_for_later_is_due_then_by_the_clock(
    alice: User, accept: Accept, days_ahead: dt.timedelta
) -> None:
    accept("defer+1@sim.test", sender=None)
    now = timezone.now()
    control.carry_out(Order(Action.RETRY, "root", at=now + 2 * HOUR), Entry.objects.all())
    assert Entry.objects.get().next_attempt_at == now + 2 * HOUR + days_ahead
    assert claim.claim("w", limit=9, now=timezone.now(), lease=HOUR, ahead=days_ahead) == []
    control.carry_out(Order(Action.EXPIRE, "root", expires_at=now + HOUR), Entry.objects.all())
    entry = Entry.objects.get()
    assert entry.expires_at == entry.next_attempt_at == now + HOUR + days_ahead
    tally = control.carry_out(Order(Action.RETRY, "root", at=now + 2 * HOUR), Entry.objects.all())
    assert tally.left == {"expires_first": 1}


def test_what_is_held_and_released_waits_on_by_the_clock(alice: User, accept: Accept, days_ahead: dt.timedelta) -> None:
    accept("ok@sim.test", sender=None)
    for waited_for in (days_ahead / 2, days_ahead + HOUR):
        at = timezone.now() + waited_for
        Entry.objects.update(next_attempt_at=at, retry_at=None)
        control.carry_out(Order(Action.HOLD, "root"), Entry.objects.all())
        assert Entry.objects.get().retry_at == (at if waited_for > days_ahead else None)
        control.carry_out(Order(Action.RELEASE, "root"), Entry.objects.all())
        due_at = Entry.objects.get().next_attempt_at
        assert due_at is not None and (due_at == at) == (waited_for > days_ahead)
        assert (due_at <= clock.now()) == (waited_for < days_ahead)


def test_live_mail_keeps_real_time_in_peoples_hands(
    alice: User, accept: Accept, settings: Any, days_ahead: dt.timedelta
) -> None:
    settings.DELIVERY_MODE = "live"
    accept("a@x.example", sender=None)
    accept("ok@sim.test", sender=None, is_test=True)
    at = timezone.now() + HOUR
    assert control.carry_out(Order(Action.RETRY, "root", at=at), Entry.objects.all()).done == 2
    due = dict(Entry.objects.values_list("is_sandbox", "next_attempt_at"))
    assert due == {False: at, True: at + days_ahead}


# --- several at once, and ends in the middle ---


def test_two_advances_and_two_workers_at_once_make_no_attempt_twice(alice: User, accept: Accept, settings: Any) -> None:
    settings.SWEEP_INTERVAL_SECONDS = 0.2
    for _ in range(30):
        accept("defer+3@sim.test", "bounced@sim.test", "ok@sim.test")
    until = clock.now() + 5 * DAY
    errors: list[BaseException] = []

    def pass_the_time() -> None:
        try:
            Advance(until, actor="test").run()
        except BaseException as error:  # noqa: BLE001  (told below)
            errors.append(error)
        finally:
            connection.close()

    engines = [Engine(), Engine()]
    threads = [threading.Thread(target=pass_the_time) for _ in range(2)]
    for engine in engines:
        engine.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)  # on however slow a machine
    for engine in engines:
        drain(engine)
    advance(HOUR)  # what a worker had in hand last
    assert errors == []
    assert open_entries() == 0
    numbers = Counter(Attempt.objects.filter(entry__recipient="defer+3@sim.test").values_list("number", flat=True))
    assert numbers == {1: 30, 2: 30, 3: 30, 4: 30}
    assert Attempt.objects.filter(entry__recipient="bounced@sim.test").count() == 30
    assert Event.objects.filter(kind="dsn_sent", summary__startswith="A delay").count() == 30
    assert Event.objects.filter(kind="dsn_sent", summary__startswith="A failure").count() == 30
    assert FiledMessage.objects.count() == 60


def test_what_is_let_go_of_after_the_look_is_not_passed_over(
    alice: User, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept("defer+3@sim.test", sender=None)
    (held,) = claim.claim("w", limit=9, now=timezone.now(), lease=HOUR)
    look = advance_module._look

    def look_before_the_worker_settles() -> tuple[dt.datetime | None, bool, bool]:
        seen = look()
        if seen[1]:
            delivery.write_down([delivery.trouble(held, timezone.now(), "smtp", OSError())], worker="w")
        return seen

    monkeypatch.setattr(advance_module, "_look", look_before_the_worker_settles)
    advance(5 * DAY)
    assert Entry.objects.get().status == "delivered"
    assert Counter(Attempt.objects.values_list("number", flat=True)) == {1: 1, 2: 1, 3: 1, 4: 1}


def test_what_an_advance_has_in_hand_is_not_taken_for_the_mistake_of_a_clock(alice: User, accept: Accept) -> None:
    accept("ok@sim.test")
    now = timezone.now()
    claim.claim("simulate:x:1:a", limit=9, now=now + dt.timedelta(seconds=1), lease=claim.SIMULATED_LEASE)
    patrol = Patrol("w", dt.timedelta(seconds=2))
    patrol.step(now, only_mends=True)
    assert Entry.objects.get().lease == "simulate:x:1:a"


def test_an_interrupted_advance_gives_back_what_it_has(alice: User, accept: Accept) -> None:
    for _ in range(5):
        accept("defer+3@sim.test", sender=None)

    def interrupt(_at: dt.datetime, tally: Any) -> None:
        if Attempt.objects.filter(number=2).exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Advance(clock.now() + 5 * DAY, actor="test", tell=interrupt).run()
    assert not Entry.objects.exclude(lease="").filter(next_attempt_at__isnull=False).exists()
    advance(5 * DAY)
    assert Counter(Attempt.objects.values_list("number", flat=True)) == {1: 5, 2: 5, 3: 5, 4: 5}


def test_what_a_killed_advance_had_in_hand_is_taken_up_at_once(alice: User, accept: Accept) -> None:
    accept("ok@sim.test", sender=None)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    name = Advance(None, actor="test")._worker.split(":")
    name[2] = str(child.pid)
    claim.claim(":".join(name), limit=9, now=timezone.now(), lease=HOUR)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    summary = advance(HOUR)
    assert (summary.tally.delivered, summary.waiting) == (1, 0)


# --- the command ---


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("simulate", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_tells_what_happened_day_by_day(alice: User, accept: Accept) -> None:
    accept("defer+3@sim.test", "bounced+5.2.2@sim.test")
    out = run("--advance", "5d")
    assert "day 1 00:00: 4 attempts, 1 delivered, 2 deferred, 1 bounced, 1 report written\n" in out
    assert "\nday 1 01:" in out and "\nday 2 0" in out
    assert "time passed                5d" in out and "still waiting               0" in out
    shown = run("--show")
    assert "ahead of real time" in shown and "0 sandbox entries" in shown
    assert "The sandbox is back in real time" in run("--reset")
    assert "which is real time" in run()


def test_until_idle_ends_when_nothing_waits(alice: User, accept: Accept) -> None:
    accept("full@sim.test", sender=None)
    run("--until-idle")
    assert open_entries() == 0
    assert 4 * DAY < clock.ahead() < 5 * DAY
    assert SandboxClock.objects.get().changed_by.startswith("simulate")


@pytest.mark.parametrize("wrong", ["5", "d5", "5d!", "0h", "", "99999d", "-1d"])
def test_a_span_that_is_none_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(CommandError, match=r"span of time|between|expected one argument"):
        call_command("simulate", f"--advance={wrong}")
