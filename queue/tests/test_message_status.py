"""A message's status, told from its entries."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction
from django.db.models import Max
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailflow.models import Message
from queue import message_status
from queue.models import Entry
from queue.tests.conftest import wait_until

Accept = Callable[..., list[int]]


def _end(entry_id: int, status: str, reply: str = "") -> None:
    Entry.objects.filter(pk=entry_id).update(
        status=status, next_attempt_at=None, finished_at=timezone.now(), last_reply=reply
    )


def _refresh() -> Message:
    with transaction.atomic():
        message_status.refresh(set(Message.objects.values_list("pk", flat=True)))
    return Message.objects.get()


def test_a_message_with_an_open_entry_is_processing(accept: Accept) -> None:
    first, _ = accept("a@x.example", "b@x.example")
    _end(first, "delivered")
    message = _refresh()
    assert (message.status, message.finished_at) == ("processing", None)


@pytest.mark.parametrize(
    ("ends", "status", "reason"),
    [
        (["delivered", "delivered", "delivered"], "delivered", ""),
        (["delivered", "failed", "delivered"], "failed", "reply 1"),
        (["failed", "bounced", "delivered"], "bounced", "reply 1"),
        (["bounced", "failed", "bounced"], "bounced", "reply 0"),
    ],
)
def test_an_ended_message_has_the_status_of_its_worst_entry(
    accept: Accept, ends: list[str], status: str, reason: str
) -> None:
    for number, (entry_id, end) in enumerate(
        zip(accept("a@x.example", "b@x.example", "c@x.example"), ends, strict=True)
    ):
        _end(entry_id, end, f"reply {number}" if end != "delivered" else "250 OK")
    message = _refresh()
    assert (message.status, message.error_message) == (status, reason)
    assert message.finished_at == Entry.objects.aggregate(last=Max("finished_at"))["last"]


def test_a_message_without_entries_keeps_its_status(accept: Accept) -> None:
    accept("a@x.example")
    Message.objects.update(status="delivered")
    Entry.objects.all().delete()
    assert _refresh().status == "delivered"


def test_forty_messages_need_no_more_statements_than_one(accept: Accept) -> None:
    counts = []
    for _ in range(2):
        for _ in range(20):
            accept("a@x.example")
        ids = set(Message.objects.values_list("pk", flat=True))
        with transaction.atomic(), CaptureQueriesContext(connection) as captured:
            message_status.refresh(ids)
        counts.append(len(captured))
    assert counts[0] == counts[1] <= 2


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_ending_two_entries_at_once_the_last_sees_both(
    accept: Accept, postgresql_only: None, transactional_db: None
) -> None:
    first, second = accept("a@x.example", "b@x.example")
    message_id = Message.objects.get().pk

    def end_second() -> None:
        try:
            with transaction.atomic():
                _end(second, "delivered")
                message_status.refresh([message_id])
        finally:
            connection.close()

    other = threading.Thread(target=end_second)
    with transaction.atomic():
        _end(first, "delivered")
        message_status.refresh([message_id])
        other.start()
        wait_until(_somebody_waits_for_us)  # the other is past its own change, and cannot see this one yet
    other.join()
    assert Message.objects.get().status == "delivered"


def _somebody_waits_for_us() -> bool:
    """Others of the server have tests of their own, which wait for each other."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
        )
        return bool(cursor.fetchone()[0])
