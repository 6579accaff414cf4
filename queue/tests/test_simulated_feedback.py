"""What the simulated internet sends back: complaints (RFC 5965) and reports of delivery (RFC 3461)."""

from __future__ import annotations

import email
from collections.abc import Callable
from typing import Any, cast

import pytest

from accounts.models import User
from mailflow import content
from mailflow.mailboxes import read_copy
from mailflow.models import Event, FiledMessage, Message
from queue.engine import Engine
from queue.models import Attempt, Entry, Suppression
from queue.tests.conftest import drain, open_entries, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]
Parsed = email.message.Message


def deliver() -> None:
    engine = Engine()
    engine.start()
    try:
        wait_until(lambda: open_entries() == 0)
    finally:
        drain(engine)


def parts_of(octets: bytes) -> list[Parsed]:
    return cast(list[Parsed], email.message_from_bytes(octets).get_payload())


def test_a_complaint_comes_back_by_the_front_door(alice: User, accept: Accept) -> None:
    accept("complained@sim.test", "ok@sim.test")
    deliver()
    complaint = Message.objects.get(source="reception")
    assert (complaint.reverse_path, complaint.recipients, complaint.helo) == ("", ["alice@example.com"], "mx.sim.test")
    whole = email.message_from_bytes(content.read(complaint.pk))
    assert whole.get_content_type() == "multipart/report" and whole.get_param("report-type") == "feedback-report"
    text, feedback, original = parts_of(content.read(complaint.pk))
    assert (text.get_content_type(), feedback.get_content_type()) == ("text/plain", "message/feedback-report")
    fields = cast(list[Parsed], feedback.get_payload())[0]
    assert (fields["Feedback-Type"], fields["Version"]) == ("abuse", "1")
    assert fields["Original-Mail-From"] == "<alice@example.com>"
    assert fields["Original-Rcpt-To"] == "<complained@sim.test>"
    sent = Message.objects.get(source="submission")
    assert original.get_content_type() == "text/rfc822-headers"
    assert f"id {sent.pk}" in original.as_string()
    assert read_copy(FiledMessage.objects.get()).endswith(content.read(complaint.pk))


def test_a_complaint_of_a_test_in_production_reaches_no_mailbox(alice: User, accept: Accept, settings: Any) -> None:
    settings.DEMO = False
    settings.DELIVERY_MODE = "live"
    accept("complained@sim.test", is_test=True)
    deliver()
    entry = Entry.objects.get(message__source="reception")
    assert entry.is_sandbox and entry.is_test
    assert Attempt.objects.get(entry=entry).transport == "sandbox"
    assert not FiledMessage.objects.exists()


def test_nothing_comes_back_to_the_null_path(alice: User, accept: Accept) -> None:
    accept("complained@sim.test", sender=None, notify="SUCCESS")
    deliver()
    assert Message.objects.count() == 1


def test_a_host_that_announces_dsn_sends_the_report_of_delivery(alice: User, accept: Accept) -> None:
    accept("ok@sim.test", notify="SUCCESS", original_recipient="rfc822;Ok@sim.test", envelope_id="QQ")
    deliver()
    report = Message.objects.get(source="reception")
    status = parts_of(content.read(report.pk))[1].as_string()
    assert "Reporting-MTA: dns; mx.sim.test" in status and "Action: delivered" in status
    assert "Original-Envelope-Id: QQ" in status and "Original-Recipient: rfc822; Ok@sim.test" in status
    assert FiledMessage.objects.count() == 1


def test_nothing_is_sent_back_where_nothing_was_asked_for(alice: User, accept: Accept) -> None:
    accept("ok@sim.test", "captured@sim.test", "a@foreign.example", notify="FAILURE")
    deliver()
    assert Message.objects.count() == 1


def test_a_complaint_puts_its_reader_on_the_suppression_list(alice: User, accept: Accept, settings: Any) -> None:
    settings.VERP = "all"
    Message.objects.all().delete()
    accept("complained@sim.test")
    Message.objects.update(user_id=alice.pk, organization_id=alice.organization_id)
    deliver()
    row = Suppression.objects.get()
    assert (row.address, row.reason) == ("complained@sim.test", Suppression.Reason.COMPLAINT)
    complaint = Message.objects.get(source="reception")
    assert complaint.recipients[0].startswith("bounces+")
    assert Event.objects.filter(kind="complaint", recipient="complained@sim.test").exists()
