"""The Idempotency-Key: the same request is one message, whenever and however often it comes."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from accounts import keys
from accounts.models import DailyUsage, User
from mailflow import content, idempotency, receiver
from mailflow.errors import Unavailable
from mailflow.handoff import MemoryHandoff
from mailflow.models import IdempotencyKey, Message
from mailflow.smtp.reply import Reply

pytestmark = pytest.mark.django_db(transaction=True)

BODY = {"to": "user@example.com", "subject": "Hello", "text_body": "Hello"}


@pytest.fixture(autouse=True)
def _only_the_accept_leg(memory_handoff: MemoryHandoff) -> None:
    return None


@pytest.fixture
def key(alice: User) -> str:
    return keys.create("test", alice, daily_limit=100)[1]


def send(key: str, body: Any = BODY, *, name: str = "order-1", path: str = "/api/v1/send") -> Any:
    headers = {"X-API-Key": key, "Idempotency-Key": name}
    return Client().post(path, json.dumps(body), content_type="application/json", headers=headers)


def test_a_repeat_answers_the_same_and_sends_nothing(key: str) -> None:
    first, second = send(key), send(key, dict(reversed(BODY.items())))
    assert first.status_code == second.status_code == 202
    assert first.json()["email_id"] == second.json()["email_id"]
    assert Message.objects.count() == 1 == DailyUsage.objects.get().count


def test_another_body_under_the_key_is_refused(key: str) -> None:
    send(key)
    answer = send(key, {**BODY, "subject": "Other"})
    assert answer.status_code == 422 and answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert Message.objects.count() == 1


def test_two_users_may_use_the_same_key(key: str, alice: User) -> None:
    bob = User.objects.create_user("bob", "bob@example.com", "x", organization=alice.organization)
    assert send(key).status_code == send(keys.create("other", bob, daily_limit=5)[1]).status_code == 202
    assert Message.objects.count() == 2


def test_a_refused_request_leaves_the_key_free(key: str) -> None:
    assert send(key, {**BODY, "to": "nobody"}).status_code == 422
    assert send(key).status_code == 202


@pytest.mark.parametrize("name", ["", "x" * 256, "a\tb"])
def test_a_key_that_cannot_be_one_is_refused(key: str, name: str) -> None:
    assert send(key, name=name).status_code == 422


def test_of_many_at_once_one_message_comes(key: str) -> None:
    def one(_: int) -> Any:
        try:
            return send(key)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["email_id"] for answer in answers}) == 1 == Message.objects.count()


def test_a_request_that_broke_off_before_the_message_is_carried_out_by_the_next(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: receiver.Submission) -> None:
        raise Unavailable(Reply(451, "3.0", "x"), "in doubt", in_doubt=True)

    with monkeypatch.context() as patch:
        patch.setattr(receiver, "accept_blocking", fail)
        assert send(key).status_code == 503
    bound = IdempotencyKey.objects.get().message_id
    assert send(key).json()["email_id"] == bound == Message.objects.get().pk


def test_a_request_that_broke_off_behind_the_message_is_found(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = receiver.accept_blocking

    def accept_and_fail(submission: receiver.Submission) -> None:
        accept(submission)
        raise Unavailable(Reply(451, "3.0", "x"), "the answer was lost", in_doubt=True)

    with monkeypatch.context() as patch:
        patch.setattr(receiver, "accept_blocking", accept_and_fail)
        assert send(key).status_code == 503
    assert send(key).json()["email_id"] == Message.objects.get().pk


def test_a_failed_commit_leaves_the_key_free(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: receiver.Submission) -> None:
        raise Unavailable(Reply(452, "3.1", "x"), "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(receiver, "accept_blocking", fail)
        assert send(key).status_code == 503
    assert not IdempotencyKey.objects.exists()


def test_a_request_that_is_under_way_elsewhere_is_waited_for_and_then_reported(
    key: str, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "WAIT_SECONDS", 0.1)
    idempotency.reserve(alice.pk, "order-1", idempotency.digest(BODY))
    answer = send(key)
    assert answer.status_code == 409 and answer["Retry-After"] == "1"
    IdempotencyKey.objects.update(claimed_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))  # its process died
    assert send(key).status_code == 202


def test_a_batch_that_broke_off_half_way_is_completed(key: str, alice: User) -> None:
    messages = [{**BODY, "subject": str(number)} for number in range(4)] + [{"to": "nobody"}]
    first = send(key, {"messages": messages}, path="/api/v1/send/batch").json()
    ids = [result.get("email_id") for result in first["results"]]
    content.delete([ids[0], ids[2]])
    Message.objects.filter(pk__in=[ids[0], ids[2]]).delete()
    IdempotencyKey.objects.update(queued=None)
    again = send(key, {"messages": messages}, path="/api/v1/send/batch").json()
    assert [result.get("email_id") for result in again["results"]] == ids
    assert Message.objects.count() == 4


def test_a_repetition_sends_nothing_anew_when_the_message_was_removed_meanwhile(key: str) -> None:
    first = send(key).json()["email_id"]
    Message.objects.all().delete()
    answers = [send(key) for _ in range(2)]
    assert [(answer.status_code, answer.json()["email_id"]) for answer in answers] == [(202, first)] * 2
    assert not Message.objects.exists()


def test_a_repeated_batch_sends_nothing_anew_either(key: str) -> None:
    messages = [BODY, {**BODY, "to": "nobody"}, BODY]
    first = send(key, {"messages": messages}, path="/api/v1/send/batch").json()
    Message.objects.all().delete()
    assert send(key, {"messages": messages}, path="/api/v1/send/batch").json() == first
    assert not Message.objects.exists()
