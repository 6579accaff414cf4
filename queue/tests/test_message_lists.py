"""R3's further lists of messages, the change of a status, and the removal of a record."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Domain, Organization, TrailEntry, User
from mailflow import content
from mailflow.models import ContentChunk, Event, Message
from queue.models import Entry
from queue.tests.mail import accepted, client_of, file

pytestmark = pytest.mark.django_db


@pytest.fixture
def stranger(db: None) -> User:
    return User.objects.create_user("m", "m@other.test", organization=Organization.objects.create(name="Other"))


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.net")


def get(user: User, path: str) -> Any:
    return client_of(user).get(path)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [item["id"] for item in answer.json()["items"]]


def end(message: Message, status: str = "delivered") -> None:
    Entry.objects.filter(message=message).update(status=status, next_attempt_at=None, finished_at=timezone.now())
    Message.objects.filter(pk=message.pk).update(status=status, finished_at=timezone.now())


def reply_to(*ids: str, own: str) -> str:
    return f"From: a@example.com\r\nSubject: Re\r\nMessage-ID: {own}\r\nReferences: {' '.join(ids)}\r\n"


@pytest.mark.parametrize("prefix", ["/messages", "/api/v1/messages"])
@pytest.mark.parametrize("q", ["Important", "important", "BOB@", "sender", "<17@"])
def test_search_finds_a_text_in_subject_addresses_and_ids(alice: User, prefix: str, q: str) -> None:
    head = "From: Sender <alice@example.com>\r\nSubject: Very IMPORTANT\r\nMessage-ID: <17@example.com>\r\n"
    message = accepted("bob@y.example", by=alice, header_section=head)
    accepted("other@y.example", by=alice, header_section="From: x@example.com\r\nSubject: x\r\n")
    assert ids(get(alice, f"{prefix}/search?q={q}")) == [message.pk]


@pytest.mark.parametrize("query", ["", "?q=", f"?q={'x' * 201}", "?q=%00"])
def test_a_search_for_nothing_is_refused(alice: User, query: str) -> None:
    answer = get(alice, f"/api/v1/messages/search{query}")
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"] == "q"


def test_a_search_finds_nobody_elses_mail(alice: User, stranger: User) -> None:
    accepted("bob@y.example", by=alice, subject="secret")
    assert ids(get(stranger, "/messages/search?q=secret")) == []


def test_statistics_have_r3s_figures(alice: User, stranger: User) -> None:
    for status in ("delivered", "bounced", "failed"):
        end(accepted("bob@y.example", by=alice), status)
    accepted("bob@y.example", by=alice)
    total = sum(Message.objects.values_list("size_octets", flat=True))
    assert get(alice, "/messages/stats").json() == {
        "total_messages": 4, "delivered_messages": 1, "failed_messages": 2, "pending_messages": 1,
        "total_size_bytes": total,
    }  # fmt: skip
    tomorrow = timezone.now().date() + dt.timedelta(days=1)
    assert get(alice, f"/messages/stats?since={tomorrow}").json()["total_messages"] == 0
    assert get(alice, "/messages/stats?since=2025-01-01").json()["total_messages"] == 4
    assert get(stranger, "/messages/stats").json()["total_messages"] == 0
    assert get(alice, "/messages/stats?since=once").status_code == 400


def test_recent_ones_are_the_newest(alice: User) -> None:
    made = [accepted("bob@y.example", by=alice).pk for _ in range(3)]
    assert ids(get(alice, "/messages/recent?limit=2")) == made[:0:-1]
    assert len(ids(get(alice, "/messages/recent"))) == 3


def test_messages_of_a_domain_are_those_from_or_to_it(alice: User, stranger: User) -> None:
    domain = Domain.objects.get(name="example.com")
    message = accepted("bob@y.example", by=alice)
    accepted("bob@y.example", by=alice, sender="x@elsewhere.example")
    assert ids(get(alice, f"/messages/domain/{domain.pk}?page=1&page_size=20")) == [message.pk]
    assert get(stranger, f"/messages/domain/{domain.pk}").status_code == 404
    assert get(alice, "/messages/domain/999999").status_code == 404


def test_a_thread_is_what_answers_the_same_first_message(alice: User, stranger: User) -> None:
    first = accepted("b@y.example", by=alice, header_section="From: a@example.com\r\nMessage-ID: <1@x>\r\n")
    second = accepted("b@y.example", by=alice, header_section=reply_to("<1@x>", own="<2@x>"))
    third = accepted("b@y.example", by=alice, header_section=reply_to("<1@x>", "\r\n <2@x>", own="<3@x>"))
    by_reply = accepted(
        "b@y.example", by=alice, header_section="From: a@example.com\r\nIn-Reply-To: <1@x> (Tuesday)\r\n"
    )
    accepted("b@y.example", by=alice)
    thread = get(alice, f"/messages/{first.pk}").json()["thread_id"]
    assert ids(get(alice, f"/messages/thread/{thread}")) == [first.pk, second.pk, third.pk, by_reply.pk]
    assert get(stranger, f"/messages/thread/{thread}").status_code == 404
    assert get(alice, "/messages/thread/thread-id-123").status_code == 404


def test_every_list_costs_the_same_however_long_it_is(alice: User, django_assert_max_num_queries: Any) -> None:
    domain = Domain.objects.get(name="example.com")
    for number in range(12):
        accepted("b@y.example", by=alice, header_section=reply_to("<1@x>", own=f"<{number + 2}@x>"))
    thread = Message.objects.all()[0].thread_id
    client = client_of(alice)
    for path in ("search?q=Re", "recent", f"domain/{domain.pk}", f"thread/{thread}"):
        with django_assert_max_num_queries(14):
            assert len(client.get(f"/messages/{path}").json()["items"]) >= 10


# --- a status set by hand ---------------------------------------------------------------------------------------------


def test_staff_put_a_status_right_and_the_trail_says_who(alice: User, root: User) -> None:
    message = accepted("bob@y.example", by=alice)
    end(message, "failed")
    path = f"/messages/{message.pk}/status?new_status=delivered&forwarded_to=user@example.com"
    answer = client_of(root).patch(path)
    assert answer.status_code == 200, answer.content
    assert (answer.json()["status"], answer.json()["forwarded_to"]) == ("delivered", "user@example.com")
    trail, event = TrailEntry.objects.get(kind="message.status"), Event.objects.get(kind="changed")
    assert trail.actor == event.actor == "root" and "from failed to delivered" in trail.detail == event.summary


def test_only_staff_may_and_only_where_the_queue_is_done(alice: User, root: User) -> None:
    message = accepted("bob@y.example", by=alice)
    path = f"/messages/{message.pk}/status?new_status=delivered"
    assert client_of(alice).patch(path).status_code == 403
    assert client_of(root).patch(path).status_code == 409
    assert client_of(root).patch("/messages/msg_none/status?new_status=delivered").status_code == 404


@pytest.mark.parametrize("query", ["", "new_status=done", "new_status=delivered&forwarded_to=nobody"])
def test_a_wrong_status_is_refused_naming_the_field(alice: User, root: User, query: str) -> None:
    message = accepted("bob@y.example", by=alice)
    answer = client_of(root).patch(f"/messages/{message.pk}/status?{query}")
    assert answer.status_code == 400 and answer.json()["errors"][0]["field"] in ("new_status", "forwarded_to")


# --- removal ----------------------------------------------------------------------------------------------------------


def test_a_record_is_deleted_with_its_history_and_octets(alice: User) -> None:
    message = accepted("bob@y.example", by=alice)
    end(message)
    assert client_of(alice).delete(f"/messages/{message.pk}").status_code == 204
    for left in (Message, Entry, ContentChunk):
        assert not left.objects.exists()
    assert not Event.objects.filter(message_id=message.pk).exists()
    assert TrailEntry.objects.get(kind="message.deleted").subject == message.pk
    assert client_of(alice).delete(f"/messages/{message.pk}").status_code == 404


def test_a_message_on_its_way_is_not_deleted(alice: User) -> None:
    message = accepted("bob@y.example", by=alice)
    assert client_of(alice).delete(f"/messages/{message.pk}").status_code == 409
    assert content.read(message.pk)


def test_a_recipient_cannot_delete_the_senders_record_and_keeps_the_copy(
    alice: User, stranger: User, settings: Any
) -> None:
    settings.SMTP_STORAGE_TYPE = "database"
    bob = User.objects.create_user("bob", "bob@example.com", organization=alice.organization)
    message = accepted("bob@example.com", by=alice)
    file(message, bob)
    end(message)
    assert client_of(bob).delete(f"/messages/{message.pk}").status_code == 403
    assert client_of(stranger).delete(f"/messages/{message.pk}").status_code == 404
    assert client_of(alice).delete(f"/messages/{message.pk}").status_code == 204
    assert get(bob, f"/emails/{message.pk}").json()["body"]
