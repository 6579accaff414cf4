"""`POST send`: R1's and R5's requests, what is refused and why, and what it costs a key."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from accounts import credentials, keys
from accounts.models import ApiKey, DailyUsage, Domain, Organization, TrailEntry, User
from mailflow import content, receiver
from mailflow.errors import Unavailable
from mailflow.handoff import MemoryHandoff
from mailflow.models import Message
from mailflow.smtp.reply import Reply

pytestmark = pytest.mark.django_db(transaction=True)  # the group commit writes in a thread of its own

R1 = {
    "sender": "from@example.com",
    "recipient": "to@example.com",
    "subject": "Test Subject",
    "body": "Email body content",
}
R5 = {
    "to": "user@example.com",
    "subject": "Newsletter",
    "html_body": "<h2>Latest Updates</h2>",
    "text_body": "Latest Updates",
    "headers": {"Reply-To": "noreply@example.com", "X-Priority": "1"},
}


@pytest.fixture(autouse=True)
def _only_the_accept_leg(memory_handoff: MemoryHandoff) -> None:
    credentials.remembered.clear()


@pytest.fixture
def key(alice: User) -> str:
    return keys.create("test", alice, daily_limit=3)[1]


def send(path: str = "/api/v1/send", *, body: Any, key: str = "", basic: str = "", **headers: str) -> Any:
    if key:
        headers["X-API-Key"] = key
    client = Client()
    if basic:
        headers["Authorization"] = f"Basic {b64encode(basic.encode()).decode()}"
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post(path, text, content_type="application/json", headers=headers)


def fields_of(answer: Any) -> set[str]:
    return {error["field"] for error in answer.json()["errors"]}


def parsed(message: Message) -> Any:
    return message_from_bytes(content.read(message.pk), policy=policy.default)


@pytest.mark.parametrize("path", ["/send", "/send/", "/api/send", "/api/v1/send", "/api/v1/send/"])
def test_r1s_request_is_queued_at_every_path(alice: User, path: str) -> None:
    answer = send(path, body=R1, basic="alice:correct horse")
    assert answer.status_code == 202, answer.content
    assert answer.json()["status"] == "queued" and answer.json()["message"] == "Email queued for delivery"
    message = Message.objects.get(pk=answer.json()["email_id"])
    assert (message.reverse_path, message.recipients) == ("from@example.com", ["to@example.com"])
    assert message.source == "http" and message.protocol == "HTTP" and message.user_id == alice.pk
    assert parsed(message).get_content() == "Email body content\r\n"


def test_r5s_request_is_queued(key: str, settings: LazySettings) -> None:
    answer = send(body=R5, key=key)
    assert answer.status_code == 202
    message = Message.objects.get()
    read = parsed(message)
    assert read["From"] == settings.SMTP_FROM_ADDRESS == message.reverse_path
    assert (read["Reply-To"], read["X-Priority"]) == ("noreply@example.com", "1")
    assert [part.get_content_type() for part in read.iter_parts()] == ["text/plain", "text/html"]
    assert message.api_key_id == ApiKey.objects.get().pk
    assert message.pk in read["Received"]


def test_the_house_s_default_sender_is_not_a_tenant_s(alice: User, settings: LazySettings) -> None:
    settings.SMTP_FROM_ADDRESS = "noreply@house.example"
    key = keys.create("some", alice, daily_limit=9)[1]
    answer = send(body={**R5, "sender": "noreply@house.example"}, key=key)
    assert answer.status_code == 422 and fields_of(answer) == {"sender"}
    assert send(body=R5, key=key).status_code == 202
    assert Message.objects.get().reverse_path == "alice@example.com"
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    assert send(body=R5, key=key).status_code == 202
    assert Message.objects.latest("created_at").reverse_path == "noreply@house.example"


@pytest.mark.parametrize("is_test", [True, False])
def test_what_is_sent_with_a_key_for_tests_is_a_test(alice: User, memory_handoff: MemoryHandoff, is_test: bool) -> None:
    key = keys.create("some", alice, daily_limit=3, test=is_test)[1]
    assert send(body=R5, key=key).status_code == 202
    assert [accepted.origin.is_test for accepted in memory_handoff.accepted] == [is_test]


def test_the_answer_is_czech_for_whom_asks_so(key: str) -> None:
    answer = send(body=R5, key=key, **{"Accept-Language": "cs"})
    assert answer.json()["message"] == "E-mail byl úspěšně přidán do fronty"


def test_every_answer_bears_the_version_and_a_request_id_that_traces_the_message(key: str) -> None:
    answer = send(body=R5, key=key, **{"X-Request-ID": "req_abc12345"})
    assert answer["X-API-Version"] == "1.0" and answer["X-Request-ID"] == "req_abc12345"
    assert Message.objects.get().trace_id == "req_abc12345"


def test_lists_fit_wherever_an_address_does_and_nobody_gets_it_twice(key: str) -> None:
    body = {
        **R5,
        "to": ["a@example.com", "B <b@example.org>"],
        "cc": "c@example.com",
        "bcc": ["d@x.test", "a@example.com"],
    }
    assert send(body=body, key=key).status_code == 202
    message = Message.objects.get()
    assert message.recipients == ["a@example.com", "b@example.org", "c@example.com", "d@x.test"]
    assert b"d@x.test" not in content.read(message.pk)


def test_without_a_sender_a_person_sends_from_the_own_address(alice: User) -> None:
    assert send(body=R5, basic="alice@example.com:correct horse").status_code == 202
    assert Message.objects.get().reverse_path == "alice@example.com"


def test_an_administrator_may_send_as_anyone() -> None:
    User.objects.create_superuser("admin", "admin@example.net", "password")
    assert send(body=R1, basic="admin:password").status_code == 202


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": "nobody"}, "to"), ({"to": ["a@example.com", "b@"]}, "to.1"), ({"to": ""}, "to"),
        ({"to": ["nobody"]}, "to.0"), ({"tags": "a b"}, "tags"), ({"reply_to": "x"}, "reply_to"),
        ({"to": []}, "to"), ({"to": None}, "to"),
        ({"to": 5}, "to"), ({"to": "a@example.com, b@example.com"}, "to"), ({"cc": "x"}, "cc"),
        ({"subject": "a\r\nBcc: x@example.com"}, "subject"), ({"subject": {"a": 1}}, "subject"),
        ({"headers": {"X-A": "1\n2"}}, "headers.X-A"),
        ({"headers": {"DKIM-Signature": "v=1"}}, "headers.DKIM-Signature"),
        ({"headers": {"Received": "x"}}, "headers.Received"), ({"headers": {"Bcc": "x@example.com"}}, "headers.Bcc"),
        ({"headers": {"X Y": "x"}}, "headers.X Y"), ({"headers": "x"}, "headers"),
        ({"headers": {"X": [1]}}, "headers.X"), ({"tags": [2024]}, "tags.0"),
        ({"attachments": [{"filename": 5, "content": "eA=="}]}, "attachments.0.filename"),
        ({"headers": {f"X-{n}": "1" for n in range(101)}}, "headers"), ({"sender": "root@other.test"}, "sender"),
        ({"sender": "nobody"}, "sender"), ({"recipient": "b@example.com"}, "recipient"), ({"body": "twice"}, "body"),
        ({"text_body": None, "html_body": None}, "body"), ({"attachments": [{"name": "a"}]}, "attachments.0.filename"),
        ({"attachments": "a"}, "attachments"),
        ({"attachments": [{"filename": "a", "content": "%"}]}, "attachments.0.content"),
        ({"attachments": [{"filename": "../a", "content": ""}]}, "attachments.0.filename"),
        ({"attachments": [{"filename": "a", "content": "", "content_type": "a\r\nb"}]}, "attachments.0.content_type"),
        (
            {"attachments": [{"filename": "a", "content": "", "content_type": "multipart/mixed"}]},
            "attachments.0.content_type",
        ),
        ({"attachments": [{"filename": "a", "content": "", "content_id": "<x>"}]}, "attachments.0.content_id"),
        ({"attachments": [{"filename": "a", "content": "", "content_id": "x"}] * 2}, "attachments"),
        ({"attachments": [{"filename": "a", "content": ""}] * 101}, "attachments"),
        ({"tags": ["a b"]}, "tags.0"), ({"tags": [f"t{n}" for n in range(11)]}, "tags"), ({"tags": {"a": 1}}, "tags"),
        ({"metadata": [1]}, "metadata"), ({"metadata": {"a": {}}}, "metadata.a"),
        ({"metadata": {"a": "x" * 501}}, "metadata.a"),
        ({"metadata": {"a": "\0"}}, "metadata.a"), ({"metadata": {str(n): 1 for n in range(51)}}, "metadata"),
        ({"scheduled_at": "soon"}, "scheduled_at"), ({"scheduled_at": "2020-01-01T00:00:00Z"}, "scheduled_at"),
        ({"template": "welcome"}, "text_body"), ({"template_data": {}}, "template_data"),
        ({"template": True}, "template"), ({"template": 1.0}, "template"), ({"raw": "!"}, "raw"),
        ({"raw": "RnJvbTogYQ0KDQo="}, "subject"),
        ({"to": [f"u{n}@example.com" for n in range(1001)]}, "to"), ({"subject": "\ud800"}, "subject"),
        ({"text_body": "\ud800"}, "text_body"), ({"scheduled_at": "2030-01-01"}, "scheduled_at"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_naming_the_field_and_costs_nothing(
    key: str, change: dict[str, Any], field: str
) -> None:
    answer = send(body={**R5, **change}, key=key)
    assert answer.status_code == 422 and answer["Content-Type"] == "application/problem+json"
    assert field in fields_of(answer), answer.json()
    assert not fields_of(answer) & {f"{field}.0", ""}, answer.json()
    assert answer.json()["code"] == "VALIDATION_ERROR" and field in answer.json()["detail"]
    assert answer["X-RateLimit-Remaining"] == "3"
    assert not DailyUsage.objects.filter(count__gt=0).exists() and not Message.objects.exists()


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"x"', "[1]", b"\xff\xfe", '{"a": NaN}'])
def test_a_body_that_is_no_object_is_refused(key: str, body: str | bytes) -> None:
    assert send(body=body, key=key).status_code == 422


def test_a_number_of_thousands_of_digits_is_refused_in_plain_words(key: str) -> None:
    answer = send(body='{"to": ' + "9" * 5000 + "}", key=key)
    assert answer.status_code == 422 and "4,300 digits" in answer.json()["detail"]
    assert b"sys." not in answer.content


def test_a_number_that_no_database_keeps_is_the_clients_mistake(key: str) -> None:
    assert send(body='{"to": "a@example.com", "text_body": "x", "metadata": {"a": 1e400}}', key=key).status_code == 422


@pytest.mark.parametrize(("to", "field"), [("a@x.example, b@x.example", "to"), (["a@x.example;b@x.example"], "to.0")])
def test_several_addresses_in_one_text_are_refused_saying_what_is_meant(key: str, to: Any, field: str) -> None:
    [error] = send(body={**R5, "to": to}, key=key).json()["errors"]
    assert error["field"] == field and error["message"].startswith("Several addresses are a list")


def test_another_organizations_domain_is_not_ones_own(key: str) -> None:
    other = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.test", organization=other, is_trusted=True)
    assert fields_of(send(body={**R5, "sender": "x@other.test"}, key=key)) == {"sender"}


def test_without_credentials_the_answer_says_which_to_add(alice: User) -> None:
    answer = send(body=R1)
    assert answer.status_code == 401 and answer["WWW-Authenticate"].startswith('Basic realm="')
    assert "-u username:password" in answer.json()["detail"] and "X-API-Key" in answer.json()["detail"]


def test_wrong_credentials_are_refused_and_leave_a_trail(alice: User) -> None:
    assert send(body=R1, key="sk_live_" + "0" * 40).status_code == 401
    assert send(body=R1, basic="alice:wrong").status_code == 401
    assert send(body=R1, Authorization="Basic ???").status_code == 401
    assert send(body=R1, Authorization="Basic YWxpY2U=").status_code == 401
    trail = TrailEntry.objects.filter(kind="auth.failed").order_by("pk")
    assert list(trail.values_list("actor", "subject")) == [("", "X-API-Key"), ("alice", "HTTP Basic")]


def test_a_key_in_the_url_is_not_looked_at(key: str) -> None:
    assert send(f"/api/v1/send?api_key={key}&X-API-Key={key}", body=R5).status_code == 401


def test_the_daily_limit_lets_so_many_through_and_says_when_to_come_again(key: str) -> None:
    answers = [send(body=R5, key=key) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert [answer["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[3]["X-RateLimit-Limit"] == "3" and 0 < int(answers[3]["Retry-After"]) <= 86400
    assert int(answers[3]["X-RateLimit-Reset"]) % 86400 == 0
    assert answers[3].json()["code"] == "RATE_LIMITED"
    assert Message.objects.count() == 3


def test_a_switched_off_organization_cannot_send(key: str) -> None:
    Organization.objects.update(is_active=False)
    assert send(body=R5, key=key).status_code == 401


def test_a_message_over_the_size_limit_is_too_large_and_costs_nothing(key: str, settings: LazySettings) -> None:
    settings.SMTP_MAX_MESSAGE_SIZE = 1000
    answer = send(body={**R5, "text_body": "x " * 2000}, key=key)
    assert answer.status_code == 413
    assert not DailyUsage.objects.filter(count__gt=0).exists()


@pytest.mark.parametrize(
    "error", [Unavailable(Reply(452, "3.1", "No room"), "disk full"), OperationalError("gone: secret")]
)
def test_when_nothing_can_be_stored_the_client_is_asked_to_come_again(
    key: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: receiver.Submission) -> None:
        raise error

    monkeypatch.setattr(receiver, "accept_blocking", fail)
    answer = send(body=R5, key=key)
    assert answer.status_code == 503 and int(answer["Retry-After"]) > 0
    assert b"disk" not in answer.content and b"secret" not in answer.content
    assert not DailyUsage.objects.filter(count__gt=0).exists()


def test_a_bug_is_answered_without_its_cause_and_logged(
    key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: receiver.Submission) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(receiver, "accept_blocking", fail)
    with caplog.at_level(logging.ERROR):
        answer = send(body=R5, key=key)
    assert answer.status_code == 500 and b"hunter2" not in answer.content
    assert answer.json()["request_id"] == answer["X-Request-ID"]
    assert "unexpected_error" in caplog.text


def test_an_accepted_send_leaves_one_line_with_the_ids(key: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        answer = send(body=R5, key=key)
    line = next(
        r.msg for r in caplog.records if isinstance(r.msg, dict) and r.msg["event"] == "Email queued for delivery"
    )
    assert line["message_id"] == answer.json()["email_id"] and line["request_id"] == answer["X-Request-ID"]
    assert line["api_key_id"] == str(ApiKey.objects.get().pk) and line["recipient"] == "user@example.com"


def test_other_methods_are_refused_as_a_problem(key: str) -> None:
    answer = Client().get("/api/v1/send", headers={"X-API-Key": key})
    assert answer.status_code == 405 and answer.json()["code"] == "METHOD_NOT_ALLOWED"


def test_addresses_beyond_ascii_are_sent_in_utf8_and_declared(key: str) -> None:
    body = {
        **R5,
        "to": ["用户@例え.jp", "Bob <bob@例え.jp>"],
        "cc": "Žofie <z\u030cofie@Example.com>",
        "subject": "Příliš",
    }
    assert send(body=body, key=key).status_code == 202
    message = Message.objects.get()
    assert message.recipients == ["用户@xn--r8jz45g.jp", "bob@xn--r8jz45g.jp", "žofie@example.com"]
    assert message.is_smtputf8 and message.subject == "Příliš"
    octets = content.read(message.pk)
    assert "To: 用户@例え.jp,\r\n Bob <bob@xn--r8jz45g.jp>\r\n".encode() in octets
    assert "<žofie@example.com>\r\n".encode() in octets and b"Subject: =?utf-8?" in octets


def test_internationalised_domains_alone_need_nothing_of_the_next_hop(key: str) -> None:
    body = {**R5, "to": "Jörg <bob@例え.jp>", "bcc": "c@παράδειγμα.δοκιμή", "reply_to": "d@straße.de", "headers": {}}
    assert send(body=body, key=key).status_code == 202
    message = Message.objects.get()
    assert message.recipients == ["bob@xn--r8jz45g.jp", "c@xn--hxajbheg2az3al.xn--jxalpdlp"]
    assert not message.is_smtputf8 and content.read(message.pk).isascii()


def test_a_blind_copy_beyond_ascii_is_declared_and_stays_blind(key: str) -> None:
    assert send(body={**R5, "bcc": "用户@例え.jp"}, key=key).status_code == 202
    assert Message.objects.get().is_smtputf8 and content.read(Message.objects.get().pk).isascii()


def test_a_person_sends_from_an_own_address_in_any_script(alice: User) -> None:
    assert alice.organization is not None
    Domain.objects.create(name="例え.jp", organization=alice.organization, is_trusted=True)
    User.objects.filter(pk=alice.pk).update(email="用户@例え.jp")
    for sender in (None, "用户 <用户@xn--r8jz45g.jp>", "其他@例え.jp"):
        answer = send(body={**R5, "sender": sender}, basic="用户@例え。JP:correct horse")
        assert answer.status_code == 202, answer.content
    paths = Message.objects.order_by("pk").values_list("reverse_path", flat=True)
    assert list(paths) == ["用户@xn--r8jz45g.jp", "用户@xn--r8jz45g.jp", "其他@xn--r8jz45g.jp"]
    assert fields_of(send(body={**R5, "sender": "用户@other.test"}, basic="alice:correct horse")) == {"sender"}


@pytest.mark.parametrize("address", ["ü\u202e@example.com", "a@💩.la", "ü ü@example.com", "ü" * 33 + "@example.com"])
def test_an_address_that_nobody_can_read_is_refused_naming_the_field(key: str, address: str) -> None:
    assert fields_of(send(body={**R5, "cc": [address]}, key=key)) == {"cc.0"}


# --- what a key may be used for ---


def bound(alice: User, **limits: Any) -> str:
    return keys.create("bound", alice, daily_limit=9, **limits)[1]


def test_a_key_that_may_only_read_does_not_send(alice: User) -> None:
    answer = send(body=R5, key=bound(alice, scopes=["read"]))
    assert answer.status_code == 403 and "scope 'send'" in answer.json()["detail"]
    assert answer.json()["code"] == "FORBIDDEN" and not Message.objects.exists()


def test_a_key_that_may_only_send_does_not_read(alice: User) -> None:
    key = bound(alice, scopes=["send"])
    assert send(body=R1, key=key).status_code == 202
    answer = Client(headers={"X-API-Key": key}).get("/api/v1/emails")
    assert answer.status_code == 403 and "scope 'read'" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("limits", "sender", "status"),
    [
        ({"allowed_domains": ["example.com"]}, "shop@example.com", 202),
        ({"allowed_domains": ["example.net"]}, "shop@example.com", 422),
        ({"allowed_addresses": ["shop@example.com"]}, "Shop <shop@example.com>", 202),
        ({"allowed_addresses": ["shop@example.com"]}, "alice@example.com", 422),
        ({"allowed_addresses": ["shop@example.com"]}, "shop@foreign.example", 422),
        ({"allowed_domains": ["foreign.example"]}, "shop@foreign.example", 422),  # its user does not hold it
    ],
)
def test_a_sender_outside_of_the_keys_is_refused_by_name(
    alice: User, limits: dict[str, Any], sender: str, status: int
) -> None:
    answer = send(body={**R1, "sender": sender}, key=bound(alice, **limits))
    assert answer.status_code == status
    if status == 422:
        assert fields_of(answer) == {"sender"} and not Message.objects.exists()
        assert DailyUsage.objects.count() == 0


@pytest.mark.parametrize(
    ("limits", "sender"),
    [
        ({}, "noreply@example.com"),
        ({"allowed_domains": ["example.com"]}, "noreply@example.com"),
        ({"allowed_addresses": ["alice@example.com"]}, "alice@example.com"),
        ({"allowed_addresses": ["shop@example.com", "x@example.com"]}, "shop@example.com"),
        ({"allowed_domains": ["other.example"]}, None),
        ({"allowed_addresses": ["shop@foreign.example"]}, None),
    ],
)
def test_without_a_sender_a_key_takes_one_that_it_may_use(
    alice: User, limits: dict[str, Any], sender: str | None
) -> None:
    answer = send(body=R5, key=bound(alice, **limits))
    if sender is None:
        assert answer.status_code == 422 and fields_of(answer) == {"sender"}
    else:
        assert answer.status_code == 202 and Message.objects.get().reverse_path == sender


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"allowed_domains": ["example.com"]}, 202), ({"allowed_addresses": ["shop@example.com"]}, 422)],
)
def test_a_whole_message_bears_no_sender_outside_of_the_keys(alice: User, limits: dict[str, Any], status: int) -> None:
    raw = b64encode(b"From: alice@example.com\r\nTo: bob@elsewhere.example\r\n\r\nHello\r\n").decode()
    answer = send(body={"raw": raw}, key=bound(alice, **limits))
    assert answer.status_code == status, answer.content
    if status == 422:
        assert fields_of(answer) == {"raw"} and "shop@example.com only" in answer.json()["detail"]


def test_an_expired_key_is_no_key(alice: User) -> None:
    key = bound(alice, expires_at=timezone.now() - timedelta(seconds=1))
    answer = send(body=R1, key=key)
    assert answer.status_code == 401 and "expired" in answer.json()["detail"]


def test_the_use_of_a_key_is_noted(alice: User) -> None:
    send(body=R1, key=bound(alice))
    assert ApiKey.objects.get().last_used_at is not None
