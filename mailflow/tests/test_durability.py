"""What the accept leg does when it cannot store: it says so, keeps nothing by halves, and goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.backends.signals import connection_created

from accounts.models import User
from accounts.names import parse_address
from mailflow import content, receiver
from mailflow.errors import Unavailable
from mailflow.handoff import MemoryHandoff
from mailflow.listener.server import Listener
from mailflow.models import ContentChunk, Event, Message
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.spool import group
from mailflow.spool.accepted import Origin
from mailflow.spool.commit import Item
from mailflow.tests.test_listener import connect, send_mail

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fresh_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer thread of the test's own, so that its database connection is opened inside of the test."""
    monkeypatch.setattr(group, "_instance", None)


def submission(subject: str = "x", body: bytes = b"body\r\n") -> receiver.Submission:
    return receiver.Submission(
        source=Message.Source.HTTP.value,
        envelope=Envelope(None, [Recipient(parse_address("alice@example.com"))]),
        origin=Origin(protocol="HTTP", trace_id="trace"),
        content=f"Subject: {subject}\r\n\r\n".encode() + body,
    )


@pytest.fixture
def away() -> Iterator[Callable[[bool], None]]:
    """Take the table of messages away and bring it back: every commit fails meanwhile."""
    state = {"away": False}

    def switch(gone: bool) -> None:
        if gone == state["away"]:
            return
        old, new = ("mailflow_message", "mailflow_message_away")[:: 1 if gone else -1]
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")
        state["away"] = gone

    yield switch
    switch(False)


def test_a_database_in_trouble_is_answered_451_and_service_resumes(
    listener: Listener, away: Callable[[bool], None], fresh_spool: None
) -> None:
    with connect(listener) as client:
        away(True)
        assert send_mail(client).startswith("451 4.3.0")
        away(False)
        assert not ContentChunk.objects.exists()
        assert not Event.objects.filter(kind="accepted").exists()
        assert send_mail(client).startswith("250")
    assert Message.objects.count() == 1


def test_a_database_in_trouble_is_answered_503_by_http(
    client: Any, alice: User, memory_handoff: MemoryHandoff, away: Callable[[bool], None], fresh_spool: None
) -> None:
    client.force_login(alice)
    mail = {"to": "alice@example.com", "subject": "x", "text_body": "y"}
    away(True)
    answer = client.post("/api/v1/send", mail, content_type="application/json")
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert "mailflow_message" not in answer.content.decode()
    away(False)
    assert client.post("/api/v1/send", mail, content_type="application/json").status_code == 202
    assert Message.objects.count() == 1


def test_a_full_disk_is_answered_452_and_service_resumes(listener: Listener, fresh_spool: None) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("SQLite can be told how large its file may become; PostgreSQL's disk cannot be filled here")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # no free pages from earlier tests
        cursor.execute("PRAGMA page_count")
        pages = cursor.fetchone()[0]

    def limit(sender: Any, connection: Any, **_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA max_page_count={pages + 2}")

    connection_created.connect(limit)
    try:
        with connect(listener) as client:
            assert send_mail(client, b"Subject: large\r\n\r\n" + b"z" * 400_000 + b"\r\n").startswith("452 4.3.1")
            assert not Message.objects.exists()
            assert not ContentChunk.objects.exists()
            connection_created.disconnect(limit)
            group.use(None)  # the event of the refusal may have opened a connection with the limit already
            assert send_mail(client, b"Subject: large\r\n\r\n" + b"z" * 400_000 + b"\r\n").startswith("250")
    finally:
        connection_created.disconnect(limit)
    assert Message.objects.count() == 1


def test_one_message_that_the_database_cannot_take_fails_alone(
    alice: User, memory_handoff: MemoryHandoff, fresh_spool: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["msg_same", "msg_same", "msg_other"])
    monkeypatch.setattr(receiver, "new_message_id", lambda: next(ids))
    accepted = [receiver.examine(submission(str(number))) for number in range(3)]
    spool = group.current()
    assert isinstance(spool, group.GroupCommit)
    waiters = [group.Waiter() for _ in accepted]
    with spool._changed:  # all three wait before the writer looks
        for one, waiter in zip(accepted, waiters, strict=True):
            spool._waiting.append(group._Waiting(Item(one), waiter))
            spool._octets += len(one.content)
        spool._wake()
    assert waiters[0].wait(60).message_id == "msg_same"
    assert waiters[2].wait(60).message_id == "msg_other"
    with pytest.raises(Unavailable):
        waiters[1].wait(60)
    assert content.read("msg_same").endswith(b"Subject: 0\r\n\r\nbody\r\n")


def test_many_threads_share_transactions_and_each_gets_its_own_receipt(
    alice: User, memory_handoff: MemoryHandoff, fresh_spool: None
) -> None:
    receipts: dict[int, str] = {}

    def send(number: int) -> None:
        for round_number in range(5):
            receipts[number * 10 + round_number] = receiver.accept_blocking(
                submission(f"{number}-{round_number}")
            ).message_id

    threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = dict(Message.objects.values_list("pk", "subject"))
    assert {receipts[n * 10 + r]: f"{n}-{r}" for n in range(10) for r in range(5)} == stored


def test_a_large_message_that_cannot_be_stored_leaves_no_message(
    alice: User, memory_handoff: MemoryHandoff, away: Callable[[bool], None], fresh_spool: None
) -> None:
    away(True)
    with pytest.raises(Unavailable):
        receiver.accept_blocking(submission(body=b"x" * 70 + b"\r\n" + b"y\r\n" * 800_000))
    away(False)
    assert not Message.objects.exists()


def test_too_much_waiting_is_refused_at_once(
    alice: User, memory_handoff: MemoryHandoff, fresh_spool: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "MAX_WAITING_OCTETS", 100)
    spool = group.current()
    assert isinstance(spool, group.GroupCommit)
    spool._octets = 90
    with pytest.raises(Unavailable) as refusal:
        receiver.accept_blocking(submission())
    assert str(refusal.value.reply).startswith("451 4.3.0")


def test_a_refusal_by_http_leaves_an_event_with_its_reason(
    client: Any, alice: User, memory_handoff: MemoryHandoff, fresh_spool: None
) -> None:
    client.force_login(alice)
    stranger = {"sender": "boss@elsewhere.example", "to": "alice@example.com", "subject": "x", "text_body": "y"}
    assert client.post("/api/v1/send", stranger, content_type="application/json").status_code == 422
    own = {"to": "alice@example.com", "subject": "x", "text_body": "y"}
    assert client.post("/api/v1/send", own, content_type="application/json").status_code == 202
    refused = Event.objects.get(kind="refused")
    assert "verified domains" in refused.summary
    assert (refused.actor, refused.reply) == ("alice", "422 VALIDATION_ERROR")
    accepted = Event.objects.get(kind="accepted")
    assert [decision["stage"] for decision in accepted.decisions] == ["sender", "content", "content", "content"]
