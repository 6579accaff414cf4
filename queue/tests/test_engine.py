"""The relay leg as a whole: accepted entries end delivered, deferred or bounced, and nothing is lost on the way."""

from __future__ import annotations

import datetime as dt
import email
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from accounts.models import Alias, Domain, User
from mailflow.mailboxes import read_copy
from mailflow.models import Event, FiledMessage, Message
from queue import control
from queue.control import Action, Order
from queue.models import Attempt, Entry
from queue.outcome import from_reply
from queue.tests.conftest import drain, open_entries, running_engine, wait_until
from queue.transports.memory import MemoryTransport

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]

LATER = from_reply(451, "4.7.1 greylisted, come back", transport="smtp", next_hop="mx.x.example[192.0.2.1]:25")
NEVER = from_reply(550, "5.1.1 no such user here", transport="smtp", next_hop="mx.x.example[192.0.2.1]:25")


@pytest.fixture
def resolver() -> MemoryResolver:
    found = MemoryResolver()
    for domain in ("x.example", "y.example", "slow.example"):
        found.hosts[domain] = ["198.41.0.4"]  # never connected to: the transport is in memory
    return found


def test_mail_for_a_mailbox_is_filed_unread_in_the_inbox(alice: User, accept: Accept) -> None:
    ids = accept("alice@example.com", sender="s@x.example")
    with running_engine() as engine:
        engine.ring(ids)
        wait_until(lambda: open_entries() == 0)
    filed = FiledMessage.objects.select_related("mailbox").get()
    message = Message.objects.get()
    assert (filed.mailbox.name, filed.uid, filed.flags, filed.message_id) == ("INBOX", 1, [], message.pk)
    octets = read_copy(filed)
    assert octets.startswith(b"Return-Path: <s@x.example>\r\nReceived: ")
    assert octets.endswith(b"\r\n\r\nx\r\n")
    assert message.status == Message.Status.DELIVERED
    assert Attempt.objects.get().transport == "local"
    assert sorted(Event.objects.values_list("kind", flat=True)) == ["accepted", "delivered"]
    alice.refresh_from_db()
    assert alice.used_octets == len(octets) == filed.size_octets


def test_without_any_ring_the_sweep_finds_what_is_due(alice: User, accept: Accept) -> None:
    accept("alice@example.com")
    with running_engine():
        wait_until(lambda: open_entries() == 0)


def test_foreign_recipients_of_one_message_and_domain_travel_together(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = MemoryTransport()
    ids = accept("a@x.example", "b@x.example", "c@y.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: open_entries() == 0)
    assert sorted(sorted(job.recipients) for job, _ in transport.jobs) == [
        ["a@x.example", "b@x.example"],
        ["c@y.example"],
    ]
    assert transport.is_closed


def test_a_deferred_recipient_is_retried_and_then_delivered(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.RETRY_SCHEDULE = [dt.timedelta(0)]
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    transport = MemoryTransport()
    transport.script["a@x.example"] = deque([LATER, LATER])
    ids = accept("a@x.example", "b@x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: open_entries() == 0)
    attempts = list(Attempt.objects.filter(entry__recipient="a@x.example").order_by("number"))
    assert [(attempt.number, attempt.outcome) for attempt in attempts] == [
        (1, "deferred"),
        (2, "deferred"),
        (3, "delivered"),
    ]
    assert attempts[0].reply == "4.7.1 greylisted, come back"
    assert Message.objects.get().status == Message.Status.DELIVERED
    assert Event.objects.filter(kind="deferred").count() == 2


def test_a_refused_recipient_comes_back_as_a_report_in_the_senders_mailbox(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = MemoryTransport()
    transport.script["gone@x.example"] = deque([NEVER])
    ids = accept("gone@x.example", "b@x.example", sender="alice@example.com")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: FiledMessage.objects.exists() and open_entries() == 0)
    original = Message.objects.exclude(source="dsn").get()
    assert original.status == Message.Status.BOUNCED
    assert "no such user here" in original.error_message
    report = email.message_from_bytes(read_copy(FiledMessage.objects.get()))
    assert report.get_content_type() == "multipart/report"
    status = report.get_payload()[1].as_string()  # type: ignore[union-attr, index]
    assert "gone@x.example" in status and "5.1.1" in status and "b@x.example" not in status
    assert Message.objects.get(source="dsn").reverse_path == ""
    assert Event.objects.get(kind="dsn_sent").message_id == original.pk


@pytest.mark.parametrize(
    ("sender", "notify"), [(None, ""), ("alice@example.com", "NEVER"), ("alice@example.com", "DELAY")]
)
def test_nobody_is_told_where_nobody_asked(
    alice: User, accept: Accept, resolver: MemoryResolver, sender: str | None, notify: str
) -> None:
    transport = MemoryTransport()
    transport.script["gone@x.example"] = deque([NEVER])
    ids = accept("gone@x.example", sender=sender, notify=notify)
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: open_entries() == 0)
    assert Message.objects.count() == 1
    assert Event.objects.get(kind="dsn_withheld").summary.startswith("No failure report was sent")


def test_the_end_of_the_attempts_bounces(alice: User, accept: Accept, resolver: MemoryResolver, settings: Any) -> None:
    settings.RETRY_SCHEDULE = [dt.timedelta(0)]
    settings.QUEUE_MAX_ATTEMPTS = 2
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    transport = MemoryTransport()
    transport.script["a@x.example"] = deque([LATER] * 9)
    accept("a@x.example")
    with running_engine(transport, resolver):
        wait_until(lambda: FiledMessage.objects.exists() and open_entries() == 0)
    assert Entry.objects.get(recipient="a@x.example").attempts == 2


def test_an_alias_forwards_by_the_front_door(alice: User, accept: Accept, resolver: MemoryResolver) -> None:
    domain = Domain.objects.get()
    Alias.objects.create(domain=domain, local_part="sales", targets=["alice@example.com", "out@x.example"])
    transport = MemoryTransport()
    ids = accept("sales@example.com", sender="s@y.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: FiledMessage.objects.exists() and open_entries() == 0)
    forwarded = Message.objects.get(source="forward")
    assert forwarded.recipients == ["alice@example.com", "out@x.example"]
    assert [job.recipients for job, _ in transport.jobs] == [["out@x.example"]]
    assert Event.objects.get(kind="forwarded").message_id == Message.objects.get(source="submission").pk


def test_an_alias_that_bites_its_own_tail_ends_in_a_report(alice: User, accept: Accept) -> None:
    domain = Domain.objects.get()
    Alias.objects.create(domain=domain, local_part="ring", targets=["ring@example.com"])
    ids = accept("ring@example.com", sender="alice@example.com")
    with running_engine() as engine:
        engine.ring(ids)
        wait_until(lambda: FiledMessage.objects.exists() and open_entries() == 0, 30)
    assert "forwarded this message before" in Entry.objects.get(status="bounced").last_reply


def test_aliases_that_point_at_each_other_end_after_one_round(alice: User, accept: Accept) -> None:
    domain = Domain.objects.get()
    for name in ("one", "two"):
        Alias.objects.create(domain=domain, local_part=name, targets=["one@example.com", "two@example.com"])
    ids = accept("one@example.com", sender=None)
    with running_engine() as engine:
        engine.ring(ids)
        wait_until(lambda: open_entries() == 0)
    assert Message.objects.count() <= 4


def test_what_the_sender_asked_of_reports_goes_along_with_a_forward(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    Alias.objects.create(domain=Domain.objects.get(), local_part="sales", targets=["out@x.example"])
    ids = accept("sales@example.com", sender="s@y.example", notify="NEVER")
    with running_engine(MemoryTransport(), resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: Entry.objects.filter(recipient="out@x.example", status="delivered").exists())
    forwarded = Entry.objects.get(recipient="out@x.example")
    assert (forwarded.notify, forwarded.original_recipient) == ("NEVER", "rfc822;sales@example.com")


def test_a_mailbox_that_is_gone_meanwhile_bounces(alice: User, accept: Accept) -> None:
    ids = accept("bob@example.com", sender="alice@example.com")
    with running_engine() as engine:
        engine.ring(ids)
        wait_until(lambda: FiledMessage.objects.exists() and open_entries() == 0)
    assert Attempt.objects.get(entry__recipient="bob@example.com").enhanced_code == "5.1.1"


def test_a_full_mailbox_defers(alice: User, accept: Accept) -> None:
    User.objects.update(quota_mb=1, used_octets=1 << 20)
    ids = accept("alice@example.com", sender="s@x.example")
    with running_engine() as engine:
        engine.ring(ids)
        wait_until(lambda: Entry.objects.get().status == Entry.Status.RETRY)
    assert Entry.objects.get().last_reply == "The mailbox of <alice@example.com> is full; try again later."


def test_a_slow_domain_holds_up_no_other(alice: User, accept: Accept, resolver: MemoryResolver, settings: Any) -> None:
    settings.SMTP_POOL_SIZE = 2
    slow, fast = MemoryTransport(), MemoryTransport()
    slow.gate.clear()

    class ByDomain:
        name = "test"

        async def deliver(self, job: Any, route: Any) -> Any:
            return await (slow if job.recipients[0].endswith("slow.example") else fast).deliver(job, route)

        async def close(self) -> None: ...

    ids = [entry for number in range(10) for entry in accept(f"u{number}@slow.example")] + accept("a@x.example")
    try:
        with running_engine(ByDomain(), resolver) as engine:
            engine.ring(ids)
            wait_until(lambda: Entry.objects.get(recipient="a@x.example").status == "delivered")
            wait_until(lambda: len(slow.jobs) >= 2)
            assert len(slow.jobs) == 2
            slow.gate.set()
            wait_until(lambda: open_entries() == 0)
    finally:
        slow.gate.set()


def test_a_hold_takes_out_what_waits_in_a_worker_for_its_turn(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.SMTP_POOL_SIZE, settings.QUEUE_LEASE_SECONDS = 2, 2
    transport = MemoryTransport()
    transport.gate.clear()
    ids = [entry for number in range(10) for entry in accept(f"u{number}@slow.example")]
    try:
        with running_engine(transport, resolver) as engine:
            engine.ring(ids)
            wait_until(lambda: len(transport.jobs) == 2 and Entry.objects.exclude(lease="").count() == 10)
            control.carry_out(Order(Action.HOLD, "root"), Entry.objects.all())
            wait_until(lambda: Entry.objects.filter(Entry.IS_HELD, lease="", next_attempt_at=None).count() == 8)
            transport.gate.set()
            wait_until(lambda: Entry.objects.filter(status="delivered").count() == 2)
            assert len(transport.jobs) == 2
            control.carry_out(Order(Action.RELEASE, "root"), Entry.objects.all())
            engine.sweep()
            wait_until(lambda: open_entries() == 0)
    finally:
        transport.gate.set()


def test_a_domain_with_more_mail_than_its_lane_holds_up_no_other(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.lanes.MAX_WAITING", 5)
    monkeypatch.setattr("queue.claimer.CLAIM_BATCH", 5)
    settings.SMTP_POOL_SIZE = 1
    transport = MemoryTransport()
    transport.gate.clear()
    ids = [entry for number in range(40) for entry in accept(f"u{number}@slow.example")]
    ids += accept("alice@example.com")
    try:
        with running_engine(transport, resolver) as engine:
            engine.ring(ids)
            wait_until(lambda: Entry.objects.get(recipient="alice@example.com").status == "delivered")
            assert Entry.objects.exclude(lease="").count() <= 15
            transport.gate.set()
            wait_until(lambda: open_entries() == 0)
    finally:
        transport.gate.set()
    assert len(transport.jobs) == 40


def test_entries_that_are_under_way_here_are_not_begun_again(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = MemoryTransport()
    transport.gate.clear()
    ids = accept("a@x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: transport.jobs)
        Entry.objects.update(next_attempt_at=timezone.now())  # as after an outage longer than the lease
        engine.sweep()
        wait_until(lambda: Entry.objects.filter(next_attempt_at__gt=timezone.now()).exists())
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    assert len(transport.jobs) == 1


def test_a_result_that_cannot_be_written_is_deferred_and_stops_no_other(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = MemoryTransport()
    # A code that no column takes: the commit of the batch fails for good, whatever its other results are.
    broken = from_reply(250, "2.0.0 taken", transport="smtp")
    transport.script["a@x.example"] = deque([replace(broken, code="not a number")])  # type: ignore[arg-type]
    ids = accept("a@x.example") + accept("b@x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: Entry.objects.get(recipient="b@x.example").status == "delivered")
        wait_until(lambda: Entry.objects.get(recipient="a@x.example").status in ("retry", "delivered"))


def test_a_drained_engine_gives_back_what_it_did_not_begin(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.SMTP_POOL_SIZE = 1
    transport = MemoryTransport()
    transport.gate.clear()
    ids = accept("a@x.example") + accept("b@x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: transport.jobs and Entry.objects.exclude(lease="").count() == 2)
        transport.gate.set()
        drain(engine, 60)
    assert not Entry.objects.exclude(lease="").exists()
    assert Entry.objects.get(recipient="a@x.example").status == "delivered"


def test_a_delivery_whose_lease_ran_out_is_still_written_down_once(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = MemoryTransport()
    transport.gate.clear()
    ids = accept("a@x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: transport.jobs)
        Entry.objects.update(lease="somebody else", next_attempt_at=timezone.now() + dt.timedelta(hours=1))
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    assert Entry.objects.get().status == "delivered"


def test_dns_trouble_defers_and_never_bounces(alice: User, accept: Accept, resolver: MemoryResolver) -> None:
    resolver.fail.add("mx x.example")
    ids = accept("a@x.example")
    with running_engine(MemoryTransport(), resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: Entry.objects.get().status == Entry.Status.RETRY)


def test_a_database_in_trouble_delays_and_loses_nothing(
    alice: User, accept: Accept, resolver: MemoryResolver, caplog: pytest.LogCaptureFixture
) -> None:
    transport = MemoryTransport()
    transport.gate.clear()
    ids = accept("a@x.example")
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: transport.jobs)
        _sql("ALTER TABLE queue_attempt RENAME TO queue_attempt_away")
        try:
            transport.gate.set()
            wait_until(lambda: "queue.settle_failed" in caplog.text)
        finally:
            _sql("ALTER TABLE queue_attempt_away RENAME TO queue_attempt")
        wait_until(lambda: open_entries() == 0)
    assert Attempt.objects.get().outcome == "delivered"
    assert len(transport.jobs) == 1


def _sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def put_off_for_a_moment() -> dt.datetime:
    """Let what waits come due in a moment, and return when.

    A time that is over before it is written, as on a busy machine, is behind what the engine looks for.
    """
    found = timezone.now()
    while found <= timezone.now():
        at = timezone.now() + dt.timedelta(seconds=0.3)
        if not Entry.objects.filter(lease="", status="pending").update(next_attempt_at=at):
            break  # it was in time, and has been found
        found = at
    return found


def test_what_comes_due_between_two_sweeps_does_not_wait_for_the_next(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SWEEP_INTERVAL_SECONDS = 3600
    monkeypatch.setattr("queue.upkeep.PUNCTUAL_SECONDS", 0.05)
    transport = MemoryTransport()
    with running_engine(transport, resolver):
        with transaction.atomic():
            accept("a@x.example")
            Entry.objects.update(next_attempt_at=timezone.now() + dt.timedelta(hours=1))
        due_at = put_off_for_a_moment()
        wait_until(lambda: open_entries() == 0)
    assert Attempt.objects.get().started_at >= due_at
