"""`messages` in the API: R3's shape, whose mail one sees, and a fixed number of queries."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Domain, Organization, User
from mailflow import content, events
from mailflow.events import NewEvent
from mailflow.models import ContentChunk, Event, Message
from queue.models import Attempt, Entry
from queue.tests.mail import accepted, client_of, file

R3_FIELDS = {
    "id", "message_id", "thread_id", "domain_id", "sender_email", "recipient_email", "forwarded_to", "subject",
    "body_preview", "status", "error_message", "size_bytes", "has_attachments", "created_at", "updated_at",
}  # fmt: skip


@pytest.fixture
def bob(alice: User) -> User:
    """A colleague of Alice."""
    return User.objects.create_user("bob", "bob@example.com", organization=alice.organization)


@pytest.fixture
def mallory(db: None) -> User:
    """Somebody of another organization."""
    return User.objects.create_user("mallory", "m@other.test", organization=Organization.objects.create(name="Other"))


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.net")


def listed(user: User, query: str = "", path: str = "/api/v1/messages") -> list[str]:
    answer = client_of(user).get(f"{path}?{query}")
    assert answer.status_code == 200, answer.content
    return [item["id"] for item in answer.json()["items"]]


@pytest.mark.parametrize("path", ["/messages", "/messages/", "/api/v1/messages", "/api/v1/messages/"])
def test_the_list_has_r3s_shape_the_newest_first(alice: User, path: str) -> None:
    first, second = (accepted("x@y.example", by=alice, subject=subject) for subject in ("one", "two"))
    body = client_of(alice).get(path).json()
    assert [item["id"] for item in body["items"]] == [second.pk, first.pk]
    assert {name: body[name] for name in ("total", "page", "page_size", "total_pages")} == {
        "total": 2, "page": 1, "page_size": 20, "total_pages": 1,
    }  # fmt: skip
    item = body["items"][0]
    assert item.keys() >= R3_FIELDS
    assert item["id"] == item["message_id"] == second.pk and item["subject"] == "two"
    assert (item["sender_email"], item["recipient_email"]) == ("alice@example.com", "x@y.example")
    assert item["body_preview"] == "Hello, this is the text." and item["has_attachments"] is False
    assert item["domain_id"] == Domain.objects.get().pk and item["status"] == "processing"
    assert item["size_bytes"] == second.size_octets and item["error_message"] is None


def test_pages_come_by_page_or_by_offset(alice: User) -> None:
    ids = [accepted("x@y.example", by=alice).pk for _ in range(5)][::-1]
    assert listed(alice, "page=2&page_size=2") == ids[2:4]
    assert listed(alice, "offset=4&limit=2") == ids[4:]
    assert listed(alice, "page=9") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page=0", "page"), ("page_size=1001", "page_size"), ("limit=x", "limit"), ("offset=-1", "offset"),
        ("status=lost", "status"), ("date_from=yesterday", "date_from"), ("date_to=2025-13-01", "date_to"),
        ("domain_id=x", "domain_id"), ("domain_id=99999", "domain_id"), ("page=٣", "page"),
        ("recipient=a%00b", "recipient"),
    ],
)  # fmt: skip
def test_a_wrong_query_is_refused_naming_the_field(alice: User, query: str, field: str) -> None:
    answer = client_of(alice).get(f"/api/v1/messages?{query}")
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_filters_narrow_the_list(alice: User) -> None:
    old = accepted("x@y.example", by=alice)
    new = accepted("z@y.example", "w@example.com", by=alice, sender="sales@example.com")
    Message.objects.filter(pk=old.pk).update(created_at=dt.datetime(2025, 6, 1, 12, tzinfo=dt.UTC), status="delivered")
    assert listed(alice, "status=delivered") == [old.pk]
    assert listed(alice, "date_from=2025-01-01&date_to=2025-06-01") == [old.pk]
    assert listed(alice, "date_from=2025-06-01T12:00:01Z") == [new.pk]
    assert listed(alice, "sender_email=SALES@example.com") == [new.pk]
    assert listed(alice, "recipient=Z@y.example") == [new.pk] == listed(alice, "recipient_email=w@example.com")
    assert listed(alice, f"domain_id={Domain.objects.get().pk}") == [new.pk, old.pk]
    assert listed(alice, "recipient=nobody@y.example") == []


@pytest.mark.parametrize("wanted", ["grüße@bücher.example", "GRÜßE@BÜCHER.example", "grüße@xn--bcher-kva.example"])
def test_an_address_beyond_ascii_is_found_as_people_write_it(alice: User, wanted: str) -> None:
    message = accepted("grüße@bücher.example", by=alice, sender="grüße@bücher.example")
    accepted("x@y.example", by=alice)
    for name in ("recipient", "recipient_email", "sender_email"):
        assert listed(alice, f"{name}={quote(wanted)}") == [message.pk]
    assert listed(alice, f"recipient={quote('gruse@bücher.example')}") == []


def test_each_sees_own_mail_and_staff_see_all(alice: User, bob: User, mallory: User, root: User) -> None:
    message = accepted("x@y.example", by=alice)
    assert listed(alice) == [message.pk] == listed(root)
    for stranger in (bob, mallory):
        assert listed(stranger) == []
        for path in ("", "/timeline", "/raw"):
            assert client_of(stranger).get(f"/api/v1/messages/{message.pk}{path}").status_code == 404


def test_an_administrator_of_the_organization_sees_all_of_its_mail(alice: User, bob: User, mallory: User) -> None:
    message = accepted("x@y.example", by=alice)
    User.objects.update(is_organization_admin=True)
    bob.refresh_from_db()
    assert listed(bob) == [message.pk] and listed(mallory) == []


def test_whoever_received_a_message_sees_it_but_no_other_recipient(alice: User, bob: User) -> None:
    message = accepted("secret@y.example", "bob@example.com", by=alice)
    file(message, bob)
    events.record([
        NewEvent("delivered", "to the secret one", message_id=message.pk, recipient="secret@y.example"),
        NewEvent("delivered", "to Bob", message_id=message.pk, recipient="bob@example.com"),
    ])  # fmt: skip
    client = client_of(bob)
    for path in ("", f"/{message.pk}", f"/{message.pk}/timeline"):
        answer = client.get(f"/api/v1/messages{path}")
        assert answer.status_code == 200 and b"bob@example.com" in answer.content
        assert b"secret" not in answer.content
    assert listed(bob, "recipient=secret@y.example") == [] and listed(bob, "recipient=bob@example.com") == [message.pk]
    assert b"secret" in client_of(alice).get(f"/api/v1/messages/{message.pk}/timeline").content


def test_a_message_shows_each_recipients_own_result(alice: User) -> None:
    message = accepted("a@y.example", "b@y.example", by=alice)
    Entry.objects.filter(recipient="a@y.example").update(
        status="delivered", attempts=1, last_reply="250 2.0.0 ok", finished_at=timezone.now(), next_attempt_at=None
    )
    body = client_of(alice).get(f"/messages/{message.pk}").json()
    done, waiting = body["recipients"]
    assert (done["recipient"], done["status"], done["last_reply"]) == ("a@y.example", "delivered", "250 2.0.0 ok")
    assert done["waiting_for"] is None and done["finished_at"] is not None
    assert waiting["status"] == "pending" and waiting["waiting_for"] and waiting["next_attempt_at"]
    assert body["internet_message_id"].endswith("@example.com>") and body["recipient_count"] == 2


def test_where_an_alias_sent_it_is_told(alice: User) -> None:
    message = accepted("sales@example.com", by=alice)
    entry, now = Entry.objects.get(), timezone.now()
    Attempt.objects.create(
        id=1,
        entry=entry,
        number=1,
        started_at=now,
        ended_at=now,
        outcome="delivered",
        transport="local",
        next_hop="x@y.example",
    )
    events.record(
        [NewEvent("forwarded", "an alias", message_id=message.pk, entry_id=entry.pk, recipient=entry.recipient)]
    )
    assert client_of(alice).get("/messages").json()["items"][0]["forwarded_to"] == "x@y.example"


def test_the_timeline_tells_events_and_attempts_in_order(alice: User) -> None:
    message = accepted("a@y.example", by=alice)
    entry, now = Entry.objects.get(), timezone.now() + dt.timedelta(seconds=5)
    Attempt.objects.create(
        id=1, entry=entry, number=1, started_at=now, ended_at=now, outcome="deferred", transport="smtp",
        next_hop="mx[192.0.2.1]:25", code=451, reply="4.3.0 later",
    )  # fmt: skip
    body = client_of(alice).get(f"/api/v1/messages/{message.pk}/timeline").json()
    assert body["total"] == 2 == len(body["items"]) and body["message_id"] == message.pk
    accept, attempt = body["items"]
    assert accept["at"] < attempt["at"] and accept["words"] and attempt["reply"] == "451 4.3.0 later"
    assert Event.objects.get().decisions == accept["decisions"]


def test_raw_is_the_message_as_it_was_kept(alice: User) -> None:
    message = accepted("a@y.example", by=alice)
    answer = client_of(alice).get(f"/api/v1/messages/{message.pk}/raw")
    assert answer["Content-Type"] == "message/rfc822" and answer.content == content.read(message.pk)
    ContentChunk.objects.all().delete()
    assert client_of(alice).get(f"/api/v1/messages/{message.pk}/raw").status_code == 404


@pytest.mark.parametrize("message_id", ["msg_abc123", "123", "a%00b", "%F0%9F%98%80", "x" * 300])
def test_an_unknown_message_is_a_404_that_says_so(alice: User, message_id: str) -> None:
    answer = client_of(alice).get(f"/api/v1/messages/{message_id}")
    assert answer.status_code == 404 and answer.json()["code"] == "NOT_FOUND"


def test_nobody_reads_without_credentials(db: None) -> None:
    for path in ("/messages", "/messages/x", "/messages/x/raw", "/messages/x/timeline"):
        assert Client().get(path).status_code == 401


def test_a_list_of_fifty_costs_as_many_queries_as_a_list_of_one(
    alice: User, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    client = client_of(alice)
    for count in (1, 49):
        for _ in range(count):
            accepted("a@y.example", "b@example.com", by=alice)
        with django_assert_max_num_queries(9):
            assert client.get("/api/v1/messages?page_size=50").json()["items"]


@pytest.mark.parametrize("accept", ["message/rfc822", "text/plain", "image/png, */*;q=0.1"])
def test_a_file_is_answered_whatever_accept_says_of_its_type(alice: User, accept: str) -> None:
    message = accepted("a@y.example", by=alice)
    browser = client_of(alice)
    answer = browser.get(f"/api/v1/messages/{message.pk}/raw", headers={"Accept": accept})
    assert answer.status_code == 200 and answer["Content-Type"] == "message/rfc822"
    answer = browser.get("/api/v1/messages/msg_x/raw", headers={"Accept": accept})
    assert answer.status_code == 404 and answer["Content-Type"] == "application/problem+json"
    assert browser.get("/api/v1/messages?format=xml").status_code == 200, "no parameter of ours"
