"""`emails` in the API: R2's shape over what is filed in the caller's mailboxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client

from accounts.models import Organization, User
from mailflow.models import ContentChunk
from queue.tests.mail import accepted, client_of, file


@pytest.fixture
def bob(alice: User) -> User:
    return User.objects.create_user("bob", "bob@example.com", organization=alice.organization)


def ids(user: User, path: str) -> list[str]:
    answer = client_of(user).get(path)
    assert answer.status_code == 200, answer.content
    return [email["id"] for email in answer.json()["emails"]]


@pytest.mark.parametrize("path", ["/emails", "/emails/"])
def test_r2s_path_answers_in_r2s_shape(alice: User, path: str) -> None:
    message = accepted("alice@example.com", sender="from@x.example", subject="Test Subject", text="Email content\r\n")
    filed = file(message, alice)
    body = client_of(alice).get(path).json()
    assert body["count"] == 1
    (email,) = body["emails"]
    assert email["received_at"].endswith("Z") and email["size_bytes"] == filed.size_octets
    assert {name: email[name] for name in ("id", "sender", "recipient", "subject", "body", "folder", "read")} == {
        "id": message.pk, "sender": "from@x.example", "recipient": "alice@example.com", "subject": "Test Subject",
        "body": "Email content\n", "folder": "INBOX", "read": False,
    }  # fmt: skip


def test_the_canonical_path_answers_in_r3s_shape(alice: User) -> None:
    file(accepted("alice@example.com"), alice)
    body = client_of(alice).get("/api/v1/emails").json()
    assert len(body["items"]) == body["total"] == 1 and body["page_size"] == 20


def test_one_message_comes_with_its_headers(alice: User) -> None:
    message = accepted("alice@example.com", subject="Hello")
    file(message, alice)
    body = client_of(alice).get(f"/emails/{message.pk}").json()
    assert body["id"] == message.pk and body["headers"]["Subject"] == "Hello" and body["body"]


def test_what_has_left_the_spool_is_read_from_the_storage(alice: User, settings: LazySettings, tmp_path: Path) -> None:
    settings.SMTP_STORAGE_TYPE, settings.SMTP_STORAGE_PATH = "maildir", tmp_path
    message = accepted("alice@example.com", subject="Kept")
    file(message, alice)
    ContentChunk.objects.all().delete()
    client = client_of(alice)
    assert client.get("/emails").json()["emails"][0]["subject"] == "Kept"
    assert client.get(f"/emails/{message.pk}").json()["subject"] == "Kept"


def test_each_sees_the_own_mailbox(alice: User, bob: User) -> None:
    message = accepted("bob@example.com", by=alice)
    file(message, bob)
    assert ids(bob, "/emails") == [message.pk] and ids(alice, "/emails") == []
    assert client_of(alice).get(f"/emails/{message.pk}").status_code == 404


def test_staff_see_all_mailboxes_or_the_one_they_name(alice: User, bob: User) -> None:
    root = User.objects.create_superuser("root", "root@example.net")
    first, second = accepted("alice@example.com"), accepted("bob@example.com")
    file(first, alice)
    file(second, bob)
    assert ids(root, "/emails") == [second.pk, first.pk]
    for name in ("alice", "alice@example.com", str(alice.pk)):
        assert ids(root, f"/emails?user={name}") == [first.pk] == ids(root, f"/emails?user_id={name}")
    assert client_of(root).get("/emails?user=nobody").status_code == 404


def test_others_may_name_only_themselves(alice: User, bob: User) -> None:
    User.objects.create_user("mallory", "m@other.test", organization=Organization.objects.create(name="Other"))
    assert ids(alice, "/emails?user=alice") == []
    assert client_of(alice).get("/emails?user=bob").status_code == 403  # a colleague
    for name in ("mallory", "nobody", "a%00b"):
        assert client_of(alice).get(f"/emails?user={name}").status_code == 404


def test_an_unknown_message_is_a_404(alice: User) -> None:
    assert client_of(alice).get("/emails/EMAIL_ID").status_code == 404
    assert client_of(alice).get("/emails/a%00b").status_code == 404
    assert Client().get("/emails/EMAIL_ID").status_code == 401


def test_a_list_of_fifty_costs_as_many_queries_as_a_list_of_one(
    alice: User, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    client = client_of(alice)
    for count in (1, 49):
        for _ in range(count):
            file(accepted("alice@example.com"), alice)
        with django_assert_max_num_queries(5):
            assert client.get("/emails").json()["emails"]


def test_without_a_from_field_the_sender_is_the_envelopes(alice: User) -> None:
    file(accepted("alice@example.com", sender="s@elsewhere.example", header_section="Subject: bare\r\n"), alice)
    answer = client_of(alice).get("/emails").json()
    assert answer["emails"][0]["sender"] == "s@elsewhere.example"
