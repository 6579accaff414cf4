"""Reports through the relay leg: as NOTIFY and BY ask, once, written with what they tell of (RFC 3461, RFC 2852)."""

from __future__ import annotations

import datetime as dt
import email
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from django.db.models import Q
from django.utils import timezone

from accounts.dns.memory import MemoryResolver
from accounts.models import Alias, Domain, User
from mailflow import content
from mailflow.mailboxes import read_copy
from mailflow.models import Event, FiledMessage, Message
from mailflow.smtp.envelope import DeliverBy
from queue import claim, control, delivery, settle
from queue.finding import Finder
from queue.models import Attempt, Entry
from queue.outcome import Outcome, from_reply
from queue.tests.conftest import open_entries, running_engine, wait_until
from queue.transports.memory import MemoryTransport

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]
Group = email.message.Message

HOP = "mx.x.example[192.0.2.1]:25"
TAKEN = from_reply(250, "2.0.0 taken", transport="smtp", next_hop=HOP)
LATER = from_reply(451, "4.3.0 come back", transport="smtp", next_hop=HOP)
NEVER = from_reply(550, "5.1.1 no such user here", transport="smtp", next_hop=HOP)
DAY = dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def patient(settings: Any) -> None:
    settings.RETRY_SCHEDULE = [DAY]


@pytest.fixture
def resolver() -> MemoryResolver:
    found = MemoryResolver()
    for domain in ("x.example", "y.example"):
        found.hosts[domain] = ["198.41.0.4"]  # never connected to: the transport is in memory
    return found


def having(*extensions: str) -> Outcome:
    return replace(TAKEN, announced=frozenset(extensions))


def answering(**answers: Outcome) -> MemoryTransport:
    """Answer for each local part at x.example, again and again."""
    transport = MemoryTransport()
    for name, outcome in answers.items():
        transport.script[f"{name}@x.example"] = deque([outcome] * 9)
    return transport


def deliver(ids: list[int], transport: MemoryTransport | None = None, resolver: MemoryResolver | None = None) -> None:
    """Deliver until nothing is due."""
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(nothing_is_due)


def nothing_is_due() -> bool:
    """In one query: between two of them what was leased may have ended, and what came of it be due."""
    is_leased = ~Q(lease="") & Q(next_attempt_at__isnull=False)
    return not Entry.objects.filter(Q(next_attempt_at__lte=timezone.now()) | is_leased).exists()


def sweep(transport: MemoryTransport | None = None, resolver: MemoryResolver | None = None) -> None:
    deliver([], transport, resolver)


def later(by: dt.timedelta) -> None:
    """Let time pass: everything that the entries know is so much earlier."""
    for entry in Entry.objects.filter(next_attempt_at__isnull=False):
        for name in ("created_at", "next_attempt_at", "expires_at", "retry_at", "deliver_by_at", "delay_told_at"):
            if (at := getattr(entry, name)) is not None:
                setattr(entry, name, at - by)
        entry.save()


def reports() -> list[list[Group]]:
    """Return the delivery-status groups of each report that was written, in order: the message's, the recipients'."""
    found = []
    for message in Message.objects.filter(source="dsn").order_by("pk"):
        parsed = email.message_from_bytes(content.read(message.pk))
        parts = cast(list[Group], parsed.get_payload())
        found.append(cast(list[Group], parts[1].get_payload()))
    return found


def told() -> list[tuple[str, str, str]]:
    """Return action, status and recipient of all that was reported."""
    return [
        (one["Action"], one["Status"], one["Final-Recipient"].removeprefix("rfc822; "))
        for groups in reports()
        for one in groups[1:]
    ]


def words(kind: str) -> list[str]:
    return list(Event.objects.filter(kind=kind).order_by("pk").values_list("summary", flat=True))


# --- success ---


@pytest.mark.parametrize("notify", ["SUCCESS", "FAILURE,SUCCESS,DELAY"])
def test_a_sender_who_asks_hears_of_a_delivery_into_a_mailbox(alice: User, accept: Accept, notify: str) -> None:
    ids = accept("alice+tag@example.com", notify=notify, original_recipient="rfc822;List@y.example", envelope_id="QQ 1")
    deliver(ids)
    assert told() == [("delivered", "2.0.0", "alice+tag@example.com")]
    ((message, bob),) = reports()
    assert (message["Original-Envelope-Id"], bob["Original-Recipient"]) == ("QQ 1", "rfc822; List@y.example")
    dsn = Message.objects.get(source="dsn")
    assert (dsn.reverse_path, dsn.recipients) == ("", ["alice@example.com"])
    assert Entry.objects.get(message=dsn).notify == "NEVER"
    assert words("dsn_sent") == [
        "A report of delivery for alice+tag@example.com goes to the sender <alice@example.com>."
    ]


@pytest.mark.parametrize("notify", ["", "NEVER", "FAILURE", "DELAY,FAILURE"])
def test_nobody_else_hears_of_a_delivery(alice: User, accept: Accept, resolver: MemoryResolver, notify: str) -> None:
    deliver(accept("alice@example.com", "a@x.example", notify=notify), answering(a=having()), resolver)
    assert told() == [] and not Event.objects.filter(kind__startswith="dsn").exists()


def test_the_null_path_hears_of_nothing(alice: User, accept: Accept) -> None:
    deliver(accept("alice@example.com", sender=None, notify="SUCCESS"))
    assert told() == []
    assert words("dsn_withheld") == [
        "No report of delivery was sent for alice@example.com: the message came from the null path, which is never "
        "reported to."
    ]


def test_only_a_next_hop_without_dsn_leaves_the_report_to_us(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = answering(old=having(), new=having("DSN"))
    deliver(accept("old@x.example", "new@x.example", notify="SUCCESS"), transport, resolver)
    assert told() == [("relayed", "2.0.0", "old@x.example")]
    assert reports()[0][1]["Remote-MTA"] == "dns; mx.x.example"
    assert (
        "answers for the sender's wishes from here (DSN)"
        in Event.objects.get(kind="delivered", recipient="new@x.example").summary
    )


def test_what_ended_the_same_way_at_once_is_one_report_and_each_way_is_another(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = answering(a=TAKEN, b=TAKEN, c=NEVER, d=NEVER)
    names = [f"{name}@x.example" for name in "abcd"]
    deliver(accept(*names, notify="SUCCESS,FAILURE", dsn_return="FULL"), transport, resolver)
    assert sorted(len(groups) for groups in reports()) == [3, 3]
    assert sorted(told()) == [
        ("failed", "5.1.1", "c@x.example"),
        ("failed", "5.1.1", "d@x.example"),
        ("relayed", "2.0.0", "a@x.example"),
        ("relayed", "2.0.0", "b@x.example"),
    ]


def test_8bit_mail_comes_back_whole_in_a_report_that_needs_no_8bitmime(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    mime = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    body = "Grüße aus der schönen Stadt Köln\r\n".encode()
    ids = accept("c@x.example", header=mime, body=body, body_type="8BITMIME", dsn_return="FULL")
    deliver(ids, answering(c=NEVER), resolver)
    wait_until(lambda: FiledMessage.objects.exists())
    (row,) = Message.objects.filter(source="dsn")
    filed = read_copy(FiledMessage.objects.get())
    assert row.body_type == "" and filed.isascii()
    original = list(email.message_from_bytes(filed).walk())[-1]
    assert original.get_payload(decode=True) == body


def test_a_report_arrives_in_the_senders_mailbox(alice: User, accept: Accept, resolver: MemoryResolver) -> None:
    deliver(accept("a@x.example", notify="SUCCESS"), answering(a=TAKEN), resolver)
    wait_until(lambda: FiledMessage.objects.exists())
    assert b"Subject: Passed on: test\r\n" in read_copy(FiledMessage.objects.get())


# --- aliases (RFC 3461 §5.2.7) ---


def alias(name: str, *targets: str) -> None:
    Alias.objects.create(domain=Domain.objects.get(), local_part=name, targets=list(targets))


def test_behind_an_alias_of_one_address_the_target_answers(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    alias("sales", "out@x.example")
    transport = answering(out=having("DSN", "DELIVERBY"))
    ids = accept(
        "sales@example.com",
        notify="SUCCESS",
        envelope_id="QQ",
        dsn_return="HDRS",
        deliver_by=DeliverBy(3600, "NT"),
    )
    deliver(ids, transport, resolver)
    ((job, _),) = transport.jobs
    assert (job.envelope_id, job.dsn_return) == ("QQ", "HDRS")
    request = job.dsn_requests["out@x.example"]
    assert (request.notify, request.original_recipient) == ("SUCCESS", "rfc822;sales@example.com")
    assert job.deadline is not None and job.deadline.mode == "NT"
    assert abs((job.deadline.at - timezone.now()).total_seconds() - 3600) < 60
    assert told() == [("relayed", "2.0.0", "out@x.example")]  # the trace


def test_an_alias_of_several_is_expanded_and_its_targets_report_no_success(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    alias("all", "alice@example.com", "out@x.example", "gone@x.example")
    transport = answering(out=TAKEN, gone=NEVER)
    deliver(accept("all@example.com", notify="SUCCESS,FAILURE"), transport, resolver)
    assert told() == [("expanded", "2.0.0", "all@example.com"), ("failed", "5.1.1", "gone@x.example")]
    assert [one["Original-Recipient"] for groups in reports() for one in groups[1:]] == [
        None,
        "rfc822; all@example.com",
    ]
    assert set(Entry.objects.filter(message__source="forward").values_list("notify", flat=True)) == {"FAILURE"}


@pytest.mark.parametrize(("notify", "passed"), [("SUCCESS", "NEVER"), ("NEVER", "NEVER"), ("", ""), ("DELAY", "DELAY")])
def test_what_is_left_of_notify_goes_on_to_several_targets(
    alice: User, accept: Accept, resolver: MemoryResolver, notify: str, passed: str
) -> None:
    alias("all", "a@x.example", "b@x.example")
    deliver(accept("all@example.com", notify=notify), answering(a=TAKEN, b=TAKEN), resolver)
    assert set(Entry.objects.filter(message__source="forward").values_list("notify", flat=True)) == {passed}
    assert [action for action, _, _ in told()] == (["expanded"] if notify == "SUCCESS" else [])


# --- delays ---


@pytest.mark.parametrize("notify", ["", "DELAY", "FAILURE,DELAY"])
def test_a_sender_is_told_once_that_mail_is_delayed(
    alice: User, accept: Accept, resolver: MemoryResolver, notify: str
) -> None:
    transport = answering(a=LATER)
    deliver(accept("a@x.example", notify=notify), transport, resolver)
    entry = Entry.objects.get(recipient="a@x.example")
    assert entry.retry_at is not None and entry.next_attempt_at == entry.created_at + dt.timedelta(hours=4)
    assert told() == []
    later(dt.timedelta(hours=4))
    sweep(transport, resolver)
    assert told() == [("delayed", "4.3.0", "a@x.example")]
    (bob,) = reports()[0][1:]
    assert bob["Diagnostic-Code"] == "smtp; 451 4.3.0 come back" and bob["Will-Retry-Until"]
    waiting = Entry.objects.get(recipient="a@x.example")
    assert (waiting.attempts, waiting.retry_at, len(transport.jobs)) == (1, None, 1)
    assert waiting.next_attempt_at is not None and waiting.next_attempt_at > timezone.now() + dt.timedelta(hours=19)
    later(DAY * 1.5)
    sweep(transport, resolver)
    assert (len(told()), len(transport.jobs)) == (1, 2)


@pytest.mark.parametrize(("notify", "sender"), [("FAILURE,SUCCESS", "alice@example.com"), ("", None)])
def test_nobody_is_told_of_a_delay_against_notify_or_at_the_null_path(
    alice: User, accept: Accept, resolver: MemoryResolver, notify: str, sender: str | None
) -> None:
    deliver(accept("a@x.example", notify=notify, sender=sender), answering(a=LATER), resolver)
    entry = Entry.objects.get(recipient="a@x.example")
    assert entry.retry_at is None
    later(DAY * 1.5)
    sweep(answering(a=LATER), resolver)
    assert told() == [] and words("dsn_withheld") == []


def test_without_the_setting_nobody_is_told_of_a_delay(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.QUEUE_DELAY_DSN_AFTER_SECONDS = 0
    deliver(accept("a@x.example"), answering(a=LATER), resolver)
    later(DAY * 1.5)
    sweep(answering(a=LATER), resolver)
    assert told() == []


def test_an_attempt_asked_for_by_hand_is_made_though_the_sender_waits_to_be_told(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    from_hand = answering(a=LATER)
    ids = accept("a@x.example")
    deliver(ids, from_hand, resolver)
    assert control.retry_now(Entry.objects.filter(status="retry"), actor="root") == 1
    sweep(from_hand, resolver)
    assert len(from_hand.jobs) == 2


# --- deadlines (RFC 2852) ---


def test_the_deadline_is_reckoned_from_mail_however_long_the_content_took(alice: User, accept: Accept) -> None:
    asked_at = timezone.now() - dt.timedelta(minutes=9)
    (entry,) = accept("a@x.example", deliver_by=DeliverBy(600, "R", asked_at))
    assert Entry.objects.get(pk=entry).deliver_by_at == asked_at + dt.timedelta(minutes=10)


@pytest.mark.parametrize(("seconds", "mode"), [(1, "R"), (600, "RT"), (-600, "N")])
def test_an_alias_moves_no_deadline(
    alice: User, accept: Accept, resolver: MemoryResolver, seconds: int, mode: str
) -> None:
    Alias.objects.create(domain=Domain.objects.get(), local_part="sales", targets=["bob@x.example"])
    asked_at = timezone.now() + dt.timedelta(seconds=30.5)  # so that the shortest is not over before the alias is read
    deliver(accept("sales@example.com", deliver_by=DeliverBy(seconds, mode, asked_at)), answering(bob=LATER), resolver)
    forwarded = Entry.objects.get(recipient="bob@x.example")
    assert forwarded.deliver_by_at == asked_at + dt.timedelta(seconds=seconds)
    assert forwarded.deliver_by_mode == mode


@pytest.mark.parametrize("notify", ["", "FAILURE"])
def test_mail_that_is_wanted_back_ends_at_its_deadline(
    alice: User, accept: Accept, resolver: MemoryResolver, notify: str
) -> None:
    transport = answering(a=LATER)
    deliver(accept("a@x.example", notify=notify, deliver_by=DeliverBy(600, "R")), transport, resolver)
    entry = Entry.objects.get(recipient="a@x.example")
    assert entry.next_attempt_at == entry.deliver_by_at == entry.created_at + dt.timedelta(minutes=10)
    later(dt.timedelta(minutes=10))
    sweep(transport, resolver)
    assert told() == [("failed", "5.4.7", "a@x.example")]
    (message, bob) = reports()[0]
    assert message["Deliver-By-Date"] and bob["Diagnostic-Code"] == "smtp; 451 4.3.0 come back"
    ended = Entry.objects.get(recipient="a@x.example")
    assert (ended.status, ended.attempts, Attempt.objects.filter(entry=ended).count()) == ("bounced", 1, 1)
    assert ended.last_reply == "The time that the sender allowed (BY) is over. 4.3.0 come back"
    assert "given up without another attempt; the sender wanted it delivered by" in words("bounced")[0]
    assert len(transport.jobs) == 1


@pytest.mark.parametrize(
    ("notify", "sender"), [("NEVER", "alice@example.com"), ("DELAY", "alice@example.com"), ("", None)]
)
def test_mail_that_is_wanted_back_ends_without_a_report_where_none_may_be_sent(
    alice: User, accept: Accept, resolver: MemoryResolver, notify: str, sender: str | None
) -> None:
    ids = accept("a@x.example", notify=notify, sender=sender, deliver_by=DeliverBy(600, "R"))
    later(dt.timedelta(minutes=11))
    transport = answering(a=TAKEN)
    deliver(ids, transport, resolver)
    assert (told(), transport.jobs) == ([], [])
    assert Entry.objects.get().status == "bounced"
    assert words("dsn_withheld")[0].startswith("No failure report was sent for a@x.example: ")


def test_mail_for_a_mailbox_is_not_filed_behind_its_deadline(alice: User, accept: Accept) -> None:
    ids = accept("alice@example.com", sender="s@y.example", notify="NEVER", deliver_by=DeliverBy(600, "R"))
    later(dt.timedelta(minutes=11))
    deliver(ids)
    assert not FiledMessage.objects.exists()
    assert Message.objects.get().status == "bounced"


def test_an_attempt_that_ends_behind_the_deadline_is_the_last_unless_it_delivered(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = answering(a=LATER, b=TAKEN)
    transport.gate.clear()
    ids = accept("a@x.example", "b@x.example", deliver_by=DeliverBy(600, "R"))
    with running_engine(transport, resolver) as engine:
        engine.ring(ids)
        wait_until(lambda: transport.jobs)
        parcels = [engine._held.parcels[entry_id] for entry_id in ids]
        for parcel in parcels:  # the clock of what is in flight
            object.__setattr__(parcel, "deliver_by_at", timezone.now())
        transport.gate.set()
        wait_until(lambda: open_entries() == 0)
    assert ("failed", "5.4.7", "a@x.example") in told()
    assert Entry.objects.get(recipient="b@x.example").status == "delivered"


def test_in_mode_n_the_sender_is_told_at_the_deadline_and_delivery_goes_on(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    transport = answering(a=LATER)
    deliver(accept("a@x.example", deliver_by=DeliverBy(600, "N")), transport, resolver)
    later(dt.timedelta(minutes=10))
    sweep(transport, resolver)
    assert told() == [("delayed", "4.4.7", "a@x.example")]
    assert "the time that the sender set (BY) has passed; attempt 2 of 5 follows" in words("deferred")[-1]
    later(DAY * 1.5)
    sweep(answering(a=TAKEN), resolver)
    assert Entry.objects.get(recipient="a@x.example").status == "delivered"
    assert len(told()) == 1


def test_in_mode_n_a_deadline_that_nobody_is_to_hear_of_leaves_its_event(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    deliver(accept("a@x.example", notify="FAILURE", deliver_by=DeliverBy(600, "N")), answering(a=LATER), resolver)
    later(dt.timedelta(minutes=10))
    sweep(answering(a=LATER), resolver)
    assert told() == []
    assert words("dsn_withheld") == ["No delay report was sent for a@x.example: the sender asked for none (NOTIFY)."]
    assert Entry.objects.get(recipient="a@x.example").status == "retry"


@pytest.mark.parametrize(
    ("mode", "hop", "notify", "relayed"),
    [
        ("N", having(), "", True),
        ("N", having("DSN"), "FAILURE", True),
        ("N", having("DELIVERBY"), "", False),
        ("N", having(), "NEVER", False),
        ("NT", having("DSN", "DELIVERBY"), "FAILURE", True),
        ("RT", having("DSN", "DELIVERBY"), "", True),
        ("RT", having("DSN", "DELIVERBY"), "NEVER", False),
        ("R", having("DSN", "DELIVERBY"), "SUCCESS", False),
        ("R", having("DELIVERBY"), "SUCCESS", True),
    ],
)
def test_relaying_is_told_for_a_trace_and_where_the_deadline_is_lost(
    alice: User, accept: Accept, resolver: MemoryResolver, mode: str, hop: Outcome, notify: str, relayed: bool
) -> None:
    ids = accept("a@x.example", notify=notify, deliver_by=DeliverBy(600, mode))
    deliver(ids, answering(a=hop), resolver)
    assert told() == ([("relayed", "2.0.0", "a@x.example")] if relayed else [])


def test_behind_the_deadline_relaying_is_no_news(alice: User, accept: Accept, resolver: MemoryResolver) -> None:
    deliver(accept("a@x.example", deliver_by=DeliverBy(-600, "N")), answering(a=having()), resolver)
    assert told() == []


def test_a_deadline_does_not_wait_for_room_in_a_slow_domains_lane(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queue.lanes.MAX_WAITING", 3)
    settings.SMTP_POOL_SIZE = 1
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    transport = MemoryTransport()
    transport.gate.clear()
    ids = [entry for number in range(4) for entry in accept(f"u{number}@x.example")]
    try:
        with running_engine(transport, resolver) as engine:
            engine.ring(ids)
            wait_until(lambda: len(engine._held.parcels) == 4)
            overdue = accept("table@x.example", sender=None, deliver_by=DeliverBy(600, "R"))
            Entry.objects.filter(pk__in=overdue).update(deliver_by_at=timezone.now())
            wait_until(lambda: Entry.objects.get(pk=overdue[0]).status == "bounced")
            transport.gate.set()
            wait_until(lambda: open_entries() == 0)
    finally:
        transport.gate.set()
    assert len(transport.jobs) == 4


def test_what_waits_in_a_lane_is_taken_out_at_its_deadline(
    alice: User, accept: Accept, resolver: MemoryResolver, settings: Any
) -> None:
    settings.SMTP_POOL_SIZE = 1
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    transport = MemoryTransport()
    transport.gate.clear()
    first = accept("u@x.example")
    late = accept("late@x.example", sender=None, deliver_by=DeliverBy(600, "R"))
    try:
        with running_engine(transport, resolver) as engine:
            engine.ring([*first, *late])
            wait_until(lambda: transport.jobs and len(engine._held.parcels) == 2)
            object.__setattr__(engine._held.parcels[late[0]], "deliver_by_at", timezone.now())
            Entry.objects.filter(pk__in=late).update(deliver_by_at=timezone.now())
            wait_until(lambda: Entry.objects.get(pk=late[0]).status == "bounced")
            assert Entry.objects.get(pk=first[0]).status == "pending"
            transport.gate.set()
            wait_until(lambda: open_entries() == 0)
    finally:
        transport.gate.set()
    assert len(transport.jobs) == 1


# --- partial failure ---


class Killed(BaseException):
    """Ends a worker in the middle of its work."""


def claimed(worker: str, ids: list[int], lease: dt.timedelta) -> delivery.Sorted:
    return delivery.claim_due(worker, lambda: Finder(worker).claim_rung(ids, limit=9, lease=lease))


def test_a_worker_killed_between_delivery_and_report_neither_loses_nor_doubles_it(
    alice: User, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = accept("alice@example.com", sender="s@y.example", notify="SUCCESS")
    lease = dt.timedelta(seconds=60)

    def attempt(worker: str) -> None:
        found = claimed(worker, ids, lease)
        settle.settle(delivery.deliver_ours(found.ours), worker=worker)

    def kill(_ids: object) -> None:
        raise Killed

    with monkeypatch.context() as moment:
        moment.setattr("queue.message_status.refresh", kill)  # the last step of the transaction
        with pytest.raises(Killed):
            attempt("one")
    assert (told(), FiledMessage.objects.count(), Entry.objects.get().status) == ([], 0, "pending")
    attempt("two")
    assert not Entry.objects.filter(pk__in=ids, status="delivered").exists()  # the lease of the dead one stands
    later(lease)
    attempt("two")
    attempt("three")
    assert told() == [("delivered", "2.0.0", "alice@example.com")]
    assert FiledMessage.objects.count() == 1


def test_of_two_workers_at_a_deadline_one_reports(alice: User, accept: Accept) -> None:
    ids = accept("a@x.example", deliver_by=DeliverBy(600, "R"))
    later(dt.timedelta(minutes=10))
    lease = dt.timedelta(0)  # over at once: both have it
    results = [claimed(worker, ids, lease).decided for worker in ("one", "two")]
    for worker, found in zip(("one", "two"), results, strict=True):
        settle.settle(found, worker=worker)
    settle.settle(results[1], worker="two")
    assert told() == [("failed", "5.4.7", "a@x.example")]


def test_a_message_pruned_of_its_content_is_reported_all_the_same(
    alice: User, accept: Accept, resolver: MemoryResolver
) -> None:
    ids = accept("a@x.example", notify="FAILURE", deliver_by=DeliverBy(600, "R"))
    content.delete([Message.objects.get().pk])
    later(dt.timedelta(minutes=10))
    deliver(ids, answering(), resolver)
    assert told() == [("failed", "5.4.7", "a@x.example")]


def test_a_parcel_knows_its_deadline(alice: User, accept: Accept) -> None:
    ids = accept("a@x.example", deliver_by=DeliverBy(600, "NT"))
    (parcel,) = claim.load(ids)
    assert (parcel.deliver_by_mode, parcel.retry_at, parcel.delay_told_at) == ("NT", None, None)
    assert parcel.deliver_by_at == parcel.created_at + dt.timedelta(minutes=10)
