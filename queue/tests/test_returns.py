"""What came back and what follows: matched, believed or not, told once (docs/adr/0015)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Alias, Domain, Organization, User, WebhookDelivery
from accounts.webhooks import endpoints, outbox
from mailflow import content
from mailflow.mailboxes import read_copy
from mailflow.models import Event, FiledMessage, Message
from mailflow.tests.wire import Client, running_listener
from queue.models import Entry, SoftBounce, Suppression
from queue.tests import bounce_samples as samples
from queue.tests.world import BOB, CAROL, TAKEN, World, refusal

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def system(alice: User, settings: Any) -> World:
    settings.VERP = "all"
    return World(alice)


def status(message: Message) -> str:
    message.refresh_from_db()
    return message.status


def events(kind: str) -> list[Event]:
    return list(Event.objects.filter(kind=kind).order_by("pk"))


def on_the_list() -> list[tuple[str, str]]:
    return list(Suppression.objects.order_by("address").values_list("address", "reason"))


def inbox() -> list[FiledMessage]:
    return list(FiledMessage.objects.order_by("uid"))


# --- the return path --------------------------------------------------------------------------------------------------


def test_mail_leaves_with_a_return_path_of_its_own_and_is_kept_with_its_senders(system: World) -> None:
    message = system.send(BOB)
    assert system.path.startswith("bounces+") and system.path.endswith("@example.com")
    assert message.reverse_path == "alice@example.com"
    job, _ = system.transport.jobs[-1]
    assert job.content == content.read(message.pk)


def test_recipients_of_one_transaction_share_one_that_names_the_message(system: World) -> None:
    system.send(BOB, CAROL, "dave@other.example")
    paths = {job.recipients[0]: job.reverse_path for job, _ in system.transport.jobs}
    assert len(paths[BOB]) > len(paths["dave@other.example"])


def test_a_retry_looks_the_same_to_a_host_that_greylists(system: World, settings: Any) -> None:
    settings.RETRY_SCHEDULE = [dt.timedelta(0)]
    settings.SWEEP_INTERVAL_SECONDS = 0.05
    system.answer(BOB, refusal(451, "4.7.1 greylisted"), TAKEN)
    system.send(BOB)
    first, second = (job.reverse_path for job, _ in system.transport.jobs)
    assert first == second


@pytest.mark.parametrize(
    ("mode", "source", "made"),
    [("all", "submission", True), ("http", "submission", False), ("http", "http", True), ("off", "http", False),
     ("all", "reception", False)],
)  # fmt: skip
def test_the_setting_says_whose_mail_has_one(system: World, settings: Any, mode: str, source: str, made: bool) -> None:
    settings.VERP = mode
    system.send(BOB, source=source)
    assert system.path.startswith("bounces+") is made


@pytest.mark.parametrize("change", [{"accepts_mail": False}, {"is_active": False}])
def test_a_domain_that_takes_no_mail_has_none(system: World, change: dict[str, bool]) -> None:
    Domain.objects.update(**change)
    system.send(BOB)
    assert system.path == "alice@example.com"


def test_a_foreign_domain_has_none(system: World) -> None:
    system.send(BOB, sender="someone@elsewhere.example")
    assert system.path == "someone@elsewhere.example"


def test_mail_without_a_sender_stays_without(system: World) -> None:
    system.send(BOB, sender="")
    assert system.path == ""


def test_our_own_failure_report_goes_to_the_sender_and_not_to_the_made_path(system: World) -> None:
    system.answer(BOB, refusal(550, "5.1.1 nobody"))
    system.send(BOB)
    assert Message.objects.get(source="dsn").recipients == ["alice@example.com"]


# --- a bounce by the return path --------------------------------------------------------------------------------------


def test_a_bounce_ends_what_was_delivered_and_a_person_sees_it(system: World) -> None:
    message = system.send(BOB)
    assert status(message) == "delivered"
    bounce = system.receive(system.path, samples.rfc3464(to=system.path))
    assert status(message) == "bounced" and "User unknown" in message.error_message
    entry = Entry.objects.get(message=message)
    assert (entry.status, entry.last_reply.startswith("550 5.1.1")) == ("bounced", True)
    (event,) = events("bounce_received")
    assert (event.message_id, event.entry_id, event.recipient, event.rule) == (
        message.pk, entry.pk, BOB, "bounce.hard",
    )  # fmt: skip
    assert event.summary.startswith(
        f"{BOB}: taken at first, then returned by store.dest.example (5.1.1). "
        f"The report came as message {bounce.pk} (RFC 3464): it came by the return path of this recipient."
    )
    assert f"{BOB} is on the suppression list from now on until" in event.summary
    assert "User unknown" in event.reply
    row = Suppression.objects.get()
    assert (row.address, row.reason, row.source_message_id) == (BOB, "hard_bounce", message.pk)
    assert row.organization == system.alice.organization and row.expires_at is not None
    (filed,) = inbox()
    assert filed.message_id == bounce.pk and read_copy(filed).startswith(b"Return-Path: <>\r\nReceived: ")
    assert f"read as a bounce about {message.pk}" in Event.objects.get(kind="delivered", message_id=bounce.pk).summary
    assert not Message.objects.filter(source="dsn").exists()


def test_webhooks_hear_of_what_comes_back_later_too(system: World) -> None:
    endpoints.create(system.alice.organization, "https://example.com/", ["message.sent", "message.failed"])
    outbox.forget()
    message = system.send(BOB)
    system.receive(system.path, samples.rfc3464(to=system.path))
    told = WebhookDelivery.objects.filter(payload__contains=message.pk).order_by("pk")
    assert [delivery.event for delivery in told] == ["message.sent", "message.failed"]
    assert BOB in told[1].payload and "User unknown" in told[1].payload


def test_a_bounce_that_comes_twice_counts_once(system: World) -> None:
    system.send(BOB)
    path = system.path
    system.receive(path, samples.rfc3464())
    system.receive(path, samples.rfc3464())
    assert len(events("bounce_received")) == 1 and len(inbox()) == 2


@pytest.mark.parametrize(
    "sample",
    [samples.EXIM_AS_TEXT, samples.OFFICE_365, samples.GMAIL, samples.QMAIL, samples.EXCHANGE_AS_TEXT],
    ids=["exim", "office 365", "gmail", "qmail", "exchange"],
)
def test_every_common_form_ends_it(system: World, sample: bytes) -> None:
    message = system.send(BOB)
    system.receive(system.path, sample)
    assert status(message) == "bounced"


def test_where_nobody_reads_the_senders_address_the_bounce_is_read_and_not_kept(system: World) -> None:
    message = system.send(BOB, sender="noreply@example.com")
    bounce = system.receive(system.path, samples.rfc3464())
    assert status(message) == "bounced" and inbox() == []
    assert (status(bounce), Entry.objects.get(message=bounce).last_reply) == (
        "delivered", "read here; there is no mailbox that could keep it for a person",
    )  # fmt: skip


def test_a_full_mailbox_is_no_reason_to_refuse_a_bounce(system: World) -> None:
    message = system.send(BOB)
    User.objects.update(quota_mb=1, used_octets=2 << 20)
    bounce = system.receive(system.path, samples.rfc3464())
    assert (status(message), status(bounce), inbox()) == ("bounced", "delivered", [])


def test_an_alias_gets_its_bounces_forwarded(system: World) -> None:
    Alias.objects.create(domain=Domain.objects.get(), local_part="sales", targets=["sales@other.example"])
    message = system.send(BOB, sender="sales@example.com")
    system.receive(system.path, samples.rfc3464())
    assert status(message) == "bounced"
    job, _ = system.transport.jobs[-1]
    assert (job.recipients, job.reverse_path) == (["sales@other.example"], "")


def test_an_answer_by_a_person_or_a_machine_is_handed_on_and_changes_nothing(system: World) -> None:
    message = system.send(BOB)
    path = system.path
    system.receive(path, samples.VACATION, sender=BOB)
    system.receive(path, samples.WARNING)
    system.receive(path, samples.rfc3464(action="delayed"))
    assert (status(message), len(inbox()), on_the_list()) == ("delivered", 3, [])


def test_a_soft_bounce_ends_it_and_is_counted_until_there_are_too_many(system: World, settings: Any) -> None:
    settings.SUPPRESSION_SOFT_BOUNCES = 3
    full = samples.rfc3464(status="5.2.2", diagnostic="smtp; 552 5.2.2 mailbox is full")
    for number in (1, 2, 3):
        message = system.send(BOB)
        system.receive(system.path, full)
        assert status(message) == "bounced"
        assert len(on_the_list()) == (number == 3)
    row = Suppression.objects.get()
    assert (row.reason, row.words) == ("soft_bounces", "3 bounces within 14 days, the last: 552 5.2.2 mailbox is full")
    assert row.expires_at is not None and row.expires_at - row.created_at == dt.timedelta(days=7)


def test_soft_bounces_outside_of_the_window_are_forgotten(system: World, settings: Any) -> None:
    settings.SUPPRESSION_SOFT_BOUNCES = 2
    full = samples.rfc3464(status="4.2.2", diagnostic="smtp; 452 4.2.2 full")
    system.send(BOB)
    system.receive(system.path, full)
    SoftBounce.objects.update(created_at=timezone.now() - dt.timedelta(days=15))
    system.send(BOB)
    system.receive(system.path, full)
    assert on_the_list() == []


@pytest.mark.parametrize("code", ["5.7.1", "5.7.26", "5.3.4", "5.6.3"])
def test_a_block_or_a_fault_of_the_message_says_nothing_of_the_recipient(system: World, code: str) -> None:
    message = system.send(BOB)
    system.receive(system.path, samples.rfc3464(status=code, diagnostic=f"smtp; 550 {code} no"))
    assert status(message) == "bounced"
    assert on_the_list() == [] and not SoftBounce.objects.exists()


def test_a_failure_behind_the_address_is_counted_only(system: World) -> None:
    """A list whose member is gone still reaches the others."""
    message = system.send(BOB)
    system.receive(
        system.path, samples.rfc3464(final="member@far.example", more=f"Original-Recipient: rfc822; {BOB}\n")
    )
    assert status(message) == "bounced" and on_the_list() == []
    assert SoftBounce.objects.get().address == BOB
    assert "for member@far.example, where it was sent on to," in events("bounce_received")[0].summary


def test_one_of_several_recipients_cannot_speak_for_another(system: World) -> None:
    message = system.send(BOB, CAROL)
    system.receive(system.path, samples.rfc3464(final=CAROL))
    assert sorted(Entry.objects.filter(message=message).values_list("recipient", "status")) == [
        (BOB, "delivered"), (CAROL, "bounced"),
    ]  # fmt: skip
    assert status(message) == "bounced"
    assert on_the_list() == [] and SoftBounce.objects.get().address == CAROL
    system.receive(system.path, samples.rfc3464(final="stranger@dest.example"))
    assert len(events("bounce_received")) == 1


def test_what_is_not_proven_still_counts(system: World, settings: Any) -> None:
    settings.SUPPRESSION_SOFT_BOUNCES = 2
    for _ in range(2):
        system.send(BOB, CAROL)
        system.receive(system.path, samples.rfc3464(final=CAROL))
    assert on_the_list() == [(CAROL, "soft_bounces")]


# --- without one ------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(system: World, settings: Any) -> World:
    settings.VERP = "off"
    return system


def test_our_own_id_in_the_returned_header_section_proves_it_too(plain: World) -> None:
    message = plain.send(BOB, source="submission")
    plain.receive("alice@example.com", samples.rfc3464(returned=plain.header_of(message)))
    assert status(message) == "bounced" and on_the_list() == [(BOB, "hard_bounce")]
    assert "it returned the header section with our own id" in events("bounce_received")[0].summary


def test_but_not_for_one_of_several(plain: World) -> None:
    message = plain.send(BOB, CAROL, source="submission")
    plain.receive("alice@example.com", samples.rfc3464(final=CAROL, returned=plain.header_of(message)))
    assert status(message) == "bounced" and on_the_list() == []


def test_and_only_at_the_senders_own_address(plain: World) -> None:
    User.objects.create_user("eve", "eve@example.com", "x", organization=plain.alice.organization)
    message = plain.send(BOB, source="submission")
    plain.receive("eve@example.com", samples.rfc3464(returned=plain.header_of(message)))
    assert (status(message), on_the_list()) == ("delivered", [])


def test_a_message_id_alone_is_told_and_counted(plain: World) -> None:
    message = plain.send(BOB, source="submission")
    returned = "From: Alice <alice@example.com>\nMessage-ID: <inv.1@example.com>\n"
    plain.receive("alice@example.com", samples.rfc3464(returned=returned))
    assert status(message) == "bounced"
    assert on_the_list() == [] and SoftBounce.objects.count() == 1
    assert "it named the Message-ID" in events("bounce_received")[0].summary


FORGED = [
    samples.rfc3464(),  # an id that was never given
    samples.rfc3464(returned="Subject: Invitation\n"),
    samples.rfc3464(returned="Message-ID: <other@example.com>\n"),
    samples.complaint(),
    samples.QMAIL,
    samples.rfc3464(returned=samples.original(extra=f"Return-Path: <bounces+{'a' * 32}@example.com>\n")),
]


@pytest.mark.parametrize("content", FORGED)
def test_the_word_of_a_stranger_changes_nothing(plain: World, content: bytes) -> None:
    message = plain.send(BOB, source="submission")
    plain.receive("alice@example.com", content.replace(b"<inv.1@example.com>", b"<x@y.example>"))
    assert (status(message), on_the_list(), len(inbox())) == ("delivered", [], 1)
    assert not events("bounce_received") and not events("complaint") and not SoftBounce.objects.exists()


def test_mail_that_stayed_here_cannot_be_bounced_from_outside(plain: World) -> None:
    message = plain.send("alice@example.com", source="submission")
    forged = samples.rfc3464(final="alice@example.com", returned=plain.header_of(message))
    plain.receive("alice@example.com", forged)
    assert (status(message), on_the_list()) == ("delivered", [])


# --- complaints -------------------------------------------------------------------------------------------------------


def test_a_complaint_by_the_return_path_that_it_shows_keeps_further_mail_back(system: World) -> None:
    Alias.objects.create(domain=Domain.objects.get(), local_part="abuse", targets=["alice@example.com"])
    message = system.send(BOB)
    report = system.receive(
        "abuse@example.com", samples.complaint(mail_from=system.path, recipient=""), sender="f@x.example"
    )
    assert status(message) == "delivered"
    (event,) = events("complaint")
    assert (event.message_id, event.recipient, event.rule) == (message.pk, BOB, "complaint.abuse")
    assert f"as message {report.pk} (ARF)" in event.summary
    row = Suppression.objects.get()
    assert (row.address, row.reason, row.expires_at) == (BOB, "complaint", None)
    assert len(inbox()) == 1


def test_a_complaint_at_the_return_path_itself_is_read_too(system: World) -> None:
    system.send(BOB)
    system.receive(system.path, samples.complaint(recipient=""))
    assert on_the_list() == [(BOB, "complaint")]


def test_our_own_id_in_the_returned_message_is_enough_where_it_had_one_recipient(plain: World) -> None:
    message = plain.send(BOB, source="submission")
    plain.receive("alice@example.com", samples.complaint(recipient="", returned=plain.header_of(message)))
    assert on_the_list() == [(BOB, "complaint")]


def test_of_several_recipients_the_one_who_complained_is_told_and_counted(plain: World) -> None:
    message = plain.send(BOB, CAROL, source="submission")
    plain.receive("alice@example.com", samples.complaint(recipient=CAROL, returned=plain.header_of(message)))
    plain.receive("alice@example.com", samples.complaint(recipient="", returned=plain.header_of(message)))
    assert [event.recipient for event in events("complaint")] == [CAROL, ""]
    assert on_the_list() == [] and SoftBounce.objects.get().address == CAROL


def test_who_does_not_want_it_any_more_is_unsubscribed(system: World) -> None:
    system.send(BOB)
    system.receive(system.path, samples.complaint(kind="opt-out", recipient=""))
    assert on_the_list() == [(BOB, "unsubscribe")]


def test_a_complaint_outweighs_a_bounce(system: World) -> None:
    system.send(BOB)
    path = system.path
    system.receive(path, samples.rfc3464())
    system.receive(path, samples.complaint(recipient=""))
    row = Suppression.objects.get()
    assert (row.reason, row.expires_at) == ("complaint", None)


@pytest.mark.parametrize("reason", ["soft_bounces", "hard_bounce"])
def test_an_opt_out_outlasts_what_hosts_have_said(system: World, reason: str) -> None:
    system.send(BOB)
    end = timezone.now() + dt.timedelta(days=7)
    Suppression.objects.create(
        address=BOB, organization=system.alice.organization, reason=reason, expires_at=end, created_at=timezone.now()
    )
    system.receive(system.path, samples.complaint(kind="opt-out", recipient=""))
    row = Suppression.objects.get()
    assert (row.reason, row.expires_at) == ("unsubscribe", None)


@pytest.mark.parametrize(
    ("reason", "kind", "left"),
    [
        ("unsubscribe", "abuse", "complaint"),
        ("complaint", "opt-out", "complaint"),
        ("manual", "opt-out", "manual"),
        ("manual", "abuse", "manual"),
    ],
)
def test_of_two_wishes_a_complaint_says_more_and_a_person_has_the_last_word(
    system: World, reason: str, kind: str, left: str
) -> None:
    system.send(BOB)
    Suppression.objects.create(address=BOB, organization=system.alice.organization, reason=reason)
    system.receive(system.path, samples.complaint(kind=kind, recipient=""))
    assert on_the_list() == [(BOB, left)]


# --- over the wire ----------------------------------------------------------------------------------------------------


def test_a_peer_that_takes_mail_and_returns_it_later_over_smtp_keeps_the_next_one_back(system: World) -> None:
    message = system.send(BOB)
    path = system.path
    forged = path.replace("bounces+", "bounces+a", 1)[: len("bounces+") + 32] + "@example.com"
    with running_listener() as listener, Client(listener.ports[0]) as client:  # type: ignore[attr-defined]
        client.ask("EHLO mx.dest.example")
        assert client.ask("MAIL FROM:<>").startswith("250")
        assert client.ask(f"RCPT TO:<{forged}>").startswith("550 5.1.1")
        assert client.ask(f"RCPT TO:<{path.replace('example.com', 'dest.example')}>").startswith("550 5.7.1")
        assert client.ask(f"RCPT TO:<{path.upper()}>").startswith("250")
        assert client.ask("DATA").startswith("354")
        client.send(samples.rfc3464(to=path) + b".\r\n")
        assert client.reply().startswith("250")
    system.run()
    assert status(message) == "bounced" and len(inbox()) == 1
    jobs = len(system.transport.jobs)
    again = system.send(BOB)
    assert len(system.transport.jobs) == jobs
    assert status(again) == "failed"
    row = Suppression.objects.get()
    assert (
        again.error_message.startswith(
            f"Not sent: {BOB} is on the suppression list of its sender's organization since "
        )
        and f"(row {row.pk}, hard bounce, from message {message.pk})" in again.error_message
    )
    row.expires_at = timezone.now()
    row.save()
    assert status(system.send(BOB)) == "delivered"
    assert len(system.transport.jobs) == jobs + 1


def test_another_organizations_mail_goes_on(system: World) -> None:
    system.send(BOB)
    system.receive(system.path, samples.rfc3464())
    other = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.test", organization=other, is_trusted=True)
    system.accept(BOB, source="http", sender="x@other.test", organization_id=other.pk)
    system.run()
    assert Message.objects.get(organization_id=other.pk).status == "delivered"
