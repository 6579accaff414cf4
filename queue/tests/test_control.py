"""Retrying and removing queue entries by hand."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, transaction
from django.utils import timezone

from mailflow import handoff
from mailflow.models import Event, Message
from queue import control
from queue.control import batches
from queue.models import Entry

Accept = Callable[..., list[int]]
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def rung(db: None, settings: object) -> Iterator[Callable[[], list[int]]]:
    """Put the in-memory handoff in place when first called; then tell what it was asked to ring."""

    def ask() -> list[int]:
        settings.HANDOFF = "mailflow.handoff.MemoryHandoff"  # type: ignore[attr-defined]
        current = handoff.current()
        if not isinstance(current, handoff.MemoryHandoff):
            handoff.current.cache_clear()
            current = handoff.current()
        assert isinstance(current, handoff.MemoryHandoff)
        return current.rung

    yield ask
    handoff.current.cache_clear()


def _later(*entry_ids: int, lease: str = "", by: dt.timedelta = HOUR) -> None:
    Entry.objects.filter(pk__in=entry_ids).update(status="retry", next_attempt_at=timezone.now() + by, lease=lease)


def test_a_waiting_entry_becomes_due_and_the_workers_are_rung(
    accept: Accept, rung: Callable[[], list[int]], django_capture_on_commit_callbacks: Callable[..., object]
) -> None:
    (entry_id,) = accept("a@x.example")
    _later(entry_id)
    rung()
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
        assert control.retry_now(Entry.objects.all(), actor="root") == 1
    entry = Entry.objects.get()
    assert entry.next_attempt_at is not None
    assert entry.next_attempt_at <= timezone.now()
    assert rung() == [entry_id]


def test_a_retry_leaves_an_event_that_names_who_asked(accept: Accept) -> None:
    (entry_id,) = accept("a@x.example")
    control.retry_now(Entry.objects.all(), actor="root")
    event = Event.objects.get(kind="retry_requested")
    assert (event.entry_id, event.recipient, event.actor, event.trace_id) == (entry_id, "a@x.example", "root", "trace")
    assert event.message_id == Message.objects.get().pk


@pytest.mark.parametrize("act", [control.retry_now, control.remove])
def test_an_entry_that_a_worker_delivers_now_is_left_alone(accept: Accept, act: Callable[..., int]) -> None:
    (entry_id,) = accept("a@x.example")
    _later(entry_id, lease="worker-1")
    before = Entry.objects.get()
    assert act(Entry.objects.all(), actor="root") == 0
    after = Entry.objects.get()
    assert (after.status, after.lease, after.next_attempt_at) == (before.status, "worker-1", before.next_attempt_at)
    assert not Event.objects.filter(kind__in=["retry_requested", "deleted"]).exists()


@pytest.mark.parametrize("act", [control.retry_now, control.remove])
def test_an_expired_lease_counts_as_none(accept: Accept, act: Callable[..., int]) -> None:
    (entry_id,) = accept("a@x.example")
    _later(entry_id, lease="worker-1", by=-HOUR)
    assert act(Entry.objects.all(), actor="root") == 1
    assert Entry.objects.get().lease == ""


@pytest.mark.parametrize("act", [control.retry_now, control.remove])
def test_an_ended_entry_stays_as_it_is(accept: Accept, act: Callable[..., int]) -> None:
    accept("a@x.example")
    Entry.objects.update(status="delivered", next_attempt_at=None, finished_at=timezone.now())
    assert act(Entry.objects.all(), actor="root") == 0
    assert Entry.objects.get().status == "delivered"


def test_a_removed_entry_ends_as_failed_with_an_event_and_its_message_with_it(accept: Accept) -> None:
    accept("a@x.example", "b@x.example")
    assert control.remove(Entry.objects.all(), actor="root") == 2
    for entry in Entry.objects.all():
        assert (entry.status, entry.next_attempt_at) == ("failed", None)
        assert entry.finished_at is not None
    message = Message.objects.get()
    assert (message.status, message.error_message) == ("failed", "Removed from the queue by root.")
    assert message.finished_at is not None
    assert Event.objects.filter(kind="deleted", actor="root").count() == 2


def test_removing_one_of_two_recipients_leaves_the_message_processing(accept: Accept) -> None:
    first, _ = accept("a@x.example", "b@x.example")
    assert control.remove(Entry.objects.filter(pk=first), actor="root") == 1
    assert Message.objects.get().status == "processing"


def test_more_entries_than_one_transaction_takes_are_all_removed(
    accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 3)
    accept(*(f"r{number}@x.example" for number in range(8)))
    assert control.remove(Entry.objects.order_by("recipient"), actor="root") == 8
    assert Message.objects.get().status == "failed"


def test_a_selection_joined_with_messages_is_taken_too(accept: Accept) -> None:
    accept("a@x.example", "b@x.example")
    chosen = Entry.objects.filter(message__subject="test").select_related("message").distinct()
    assert control.retry_now(chosen, actor="root") == 2


@pytest.mark.django_db(transaction=True)
def test_an_entry_whose_row_somebody_holds_is_left_alone_without_waiting(
    accept: Accept, postgresql_only: None, transactional_db: None
) -> None:
    held, free = accept("a@x.example", "b@x.example")
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                Entry.objects.select_for_update().get(pk=held)
                locked.set()
                done.wait(60)
        finally:
            connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(60)
    try:
        assert control.remove(Entry.objects.all(), actor="root") == 1
    finally:
        done.set()
        holder.join()
    assert Entry.objects.get(pk=held).status == "pending"
    assert Entry.objects.get(pk=free).status == "failed"
