"""Mail without a sender that fails: one report to the postmaster for many, and none about such a report."""

from __future__ import annotations

import datetime as dt
import email
from email.message import Message as Parsed
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Alias, Domain, User
from mailflow import content
from mailflow.models import Event, FiledMessage, Message
from queue import double_bounces
from queue.models import DoubleBounce, Entry
from queue.tests.conftest import running_engine, wait_until
from queue.tests.world import BOB, World, refusal

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def system(alice: User, settings: Any) -> World:
    settings.SMTP_HOSTNAME = "mail.example.com"
    return World(alice)


def fail(system: World, recipient: str = BOB) -> Message:
    """Let a message without a sender fail."""
    system.answer(recipient, refusal(550, "5.1.1 no such user"))
    system.accept(recipient, source="reception", sender="")
    message = Message.objects.filter(source="reception").order_by("-pk")[0]
    system.run()
    return message


def report_now(system: World) -> list[Message]:
    """Do what the sweep does, deliver what came of it, and return all reports."""
    double_bounces.report_due()
    system.run()
    return list(Message.objects.filter(source="dsn").order_by("pk"))


def parsed(message: Message) -> Parsed:
    return email.message_from_bytes(content.read(message.pk))


def text_of(message: Message) -> str:
    part = next(part for part in parsed(message).walk() if part.get_content_type() == "text/plain")
    return bytes(part.get_payload(decode=True) or b"").decode()


def words(message: Message, kind: str) -> list[str]:
    return list(Event.objects.filter(kind=kind, message_id=message.pk).values_list("summary", flat=True))


def test_the_postmaster_hears_what_failed_and_why(system: World) -> None:
    message = fail(system)
    (report,) = report_now(system)
    assert (report.reverse_path, report.recipients) == ("", ["postmaster@mail.example.com"])
    assert Entry.objects.get(message=report).notify == "NEVER"
    whole = parsed(report)
    assert whole["Auto-Submitted"] == "auto-generated" and whole["To"] == "postmaster@mail.example.com"
    assert whole["Subject"] == "A message without a sender could not be delivered"
    text = text_of(report)
    assert message.pk in text and f"{BOB}: 550 5.1.1 no such user" in text
    (head,) = (part for part in whole.walk() if part.get_content_type() == "text/rfc822-headers")
    assert b"Subject: Invitation" in bytes(head.get_payload(decode=True) or b"")
    assert words(message, "dsn_withheld") == [
        f"No failure report was sent for {BOB}: the message came from the null path, which is never reported to; "
        "the postmaster will be told of it."
    ]
    assert words(message, "dsn_sent") == [
        "The postmaster <postmaster@mail.example.com> is told that it could not be delivered."
    ]
    assert FiledMessage.objects.get().mailbox.user == system.alice  # nobody else could read it


def test_our_own_report_that_cannot_be_given_back_is_such_mail(system: World) -> None:
    system.answer(BOB, refusal(550, "5.1.1 no such user"))
    system.answer("gone@other.example", refusal(550, "5.1.1 gone too"))
    system.send(BOB, sender="gone@other.example")
    system.run()
    *_, report = report_now(system)
    assert "It was a report of our own." in text_of(report) and "gone too" in text_of(report)


def test_many_are_told_in_one_report_and_the_next_waits(system: World) -> None:
    failed = [fail(system, f"u{number}@dest.example") for number in range(8)]
    (report,) = report_now(system)
    assert parsed(report)["Subject"] == "8 messages without a sender could not be delivered"
    assert all(message.pk in text_of(report) for message in failed)
    fail(system)
    assert len(report_now(system)) == 1  # an hour has not passed
    DoubleBounce.objects.filter(told_at__isnull=False).update(told_at=timezone.now() - dt.timedelta(hours=2))
    assert len(report_now(system)) == 2
    assert len(report_now(system)) == 2


def test_a_message_is_told_of_once_however_many_of_its_recipients_fail(system: World) -> None:
    system.answer(BOB, refusal(550, "5.1.1 no such user"))
    system.answer("x@other.example", refusal(550, "5.1.1 neither"))
    system.accept(BOB, "x@other.example", source="reception", sender="")
    system.run()
    assert DoubleBounce.objects.count() == 1


def test_a_report_that_fails_is_the_end_of_it(system: World, settings: Any) -> None:
    settings.POSTMASTER_ADDRESS = "ops@other.example"
    system.answer("ops@other.example", refusal(550, "5.1.1 nobody"))
    fail(system)
    (report,) = report_now(system)
    report.refresh_from_db()
    assert (report.recipients, report.status) == (["ops@other.example"], "bounced")
    assert words(report, "dsn_withheld") == [
        "No failure report was sent for ops@other.example: the message came from the null path, which is never "
        "reported to."
    ]
    DoubleBounce.objects.update(told_at=timezone.now() - dt.timedelta(days=1))
    assert len(report_now(system)) == 1 and DoubleBounce.objects.count() == 1


def test_nor_is_it_told_of_where_an_alias_sent_it_on(system: World, settings: Any) -> None:
    settings.POSTMASTER_ADDRESS = "ops@example.com"
    Alias.objects.create(domain=Domain.objects.get(), local_part="ops", targets=["ops@other.example"])
    system.answer("ops@other.example", refusal(550, "5.1.1 nobody"))
    fail(system)
    report_now(system)
    assert Message.objects.get(source="forward").status == "bounced"
    assert DoubleBounce.objects.count() == 1


def test_without_anybody_to_read_it_there_is_no_report(system: World) -> None:
    User.objects.update(is_active=False)
    message = fail(system)
    assert report_now(system) == [] and not DoubleBounce.objects.exists()
    assert words(message, "dsn_withheld")[0].endswith("never reported to, and there is no postmaster to tell.")


def test_what_a_stranger_wrote_cannot_break_the_report(system: World) -> None:
    system.answer(BOB, refusal(550, "5.1.1 no\r\nBcc: x@y.example\x1b[31m\u202e"))
    octets = b"Subject: \xff\xfe\r\n\tb\r\nX: " + b"y" * 2000 + b"\r\n\r\nbody\r\n"
    system.accept(BOB, source="reception", sender="", octets=octets)
    system.run()
    (report,) = report_now(system)
    whole = parsed(report)
    assert whole["Bcc"] is None and "\x1b" not in text_of(report) and "\u202e" not in text_of(report)


def test_the_sweep_of_an_engine_does_it(system: World, settings: Any) -> None:
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    fail(system)
    with running_engine(system.transport, system.resolver):
        wait_until(lambda: Message.objects.filter(source="dsn", status="delivered").exists())
