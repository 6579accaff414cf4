"""What a plan allows in a day, by SMTP and by HTTP, and who is not counted."""

from __future__ import annotations

import base64
import json
import smtplib
from typing import Any

import pytest
from django.test import Client

from accounts import keys
from accounts.billing import plans
from accounts.models import DailyUsage, OrganizationUsage, Plan, User
from mailflow.listener.server import Listener
from mailflow.models import Event, Message
from mailflow.tests.wire import until

pytestmark = pytest.mark.django_db(transaction=True)
MAIL = b"From: alice@example.com\r\nSubject: x\r\n\r\nx\r\n"


@pytest.fixture
def free(db: None) -> Plan:
    plans.message_limits.forget()
    return Plan.objects.create(name="Free", is_default=True, max_messages_a_day=2)


def submit(listener: Listener) -> tuple[int, bytes]:
    with smtplib.SMTP("127.0.0.1", listener.ports[0]) as client:  # type: ignore[attr-defined]
        client.login("alice", "correct horse")
        client.mail("alice@example.com")
        client.rcpt("bob@example.org")
        return client.data(MAIL)


def test_a_session_hears_which_plan_and_limit_it_was_and_an_event_stays(listener: Listener, free: Plan) -> None:
    codes = [submit(listener) for _ in range(3)]
    assert [code for code, _ in codes] == [250, 250, 452]
    assert b"4.7.1" in codes[2][1] and b"The plan Free allows 2 messages a day" in codes[2][1]
    assert Message.objects.count() == 2 == OrganizationUsage.objects.get().count
    until(Event.objects.filter(kind="refused").exists)
    event = Event.objects.get(kind="refused")
    assert event.rule == "plan_limit" and "The plan Free allows" in event.summary
    assert (event.kind, event.sender, event.recipient) == ("refused", "alice@example.com", "bob@example.org")
    assert event.organization_id == User.objects.get(username="alice").organization_id


def test_mail_from_outside_is_not_counted(listener: Listener, free: Plan) -> None:
    for _ in range(3):
        with smtplib.SMTP("127.0.0.1", listener.ports[0]) as client:  # type: ignore[attr-defined]
            assert client.sendmail("x@y.example", ["alice@example.com"], MAIL) == {}
    assert not OrganizationUsage.objects.exists()


def test_a_request_is_429_and_says_when_to_come_again(alice: User, free: Plan, memory_handoff: Any) -> None:
    text = keys.create("k", alice, daily_limit=50)[1]
    body = json.dumps({"to": "bob@example.org", "text_body": "x"})
    answers = [
        Client().post("/api/v1/send", body, content_type="application/json", headers={"X-API-Key": text})
        for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    problem = answers[2].json()
    assert problem["code"] == "RATE_LIMITED" and "plan Free" in problem["detail"] and int(answers[2]["Retry-After"]) > 0
    assert DailyUsage.objects.get().count == 2, "what the plan refused is not the key's either"


def test_what_a_key_s_own_limit_keeps_back_costs_the_plan_nothing(alice: User, free: Plan, memory_handoff: Any) -> None:
    text = keys.create("k", alice, daily_limit=1)[1]
    body = json.dumps({"to": "bob@example.org", "text_body": "x"})
    for expected in (202, 429, 429, 429):
        answer = Client().post("/api/v1/send", body, content_type="application/json", headers={"X-API-Key": text})
        assert answer.status_code == expected
        assert expected == 202 or "The key's limit" in answer.json()["detail"]
    assert OrganizationUsage.objects.get().count == 1


def test_without_a_limit_nothing_is_written_for_it(alice: User, memory_handoff: Any) -> None:
    plans.message_limits.forget()
    credentials = base64.b64encode(b"alice:correct horse").decode()
    body = json.dumps({"to": "bob@example.org", "text_body": "x"})
    client = Client(headers={"Authorization": f"Basic {credentials}"})
    assert client.post("/api/v1/send", body, content_type="application/json").status_code == 202
    assert not OrganizationUsage.objects.exists()
