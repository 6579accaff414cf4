"""The suppression list in the relay leg: who comes on it by a refusal, whom it keeps back, and what is said of it."""

from __future__ import annotations

import datetime as dt
import email
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts.models import Organization, User
from mailflow import content
from mailflow.models import Event, Message
from queue import claim, delivery, suppress
from queue.models import Attempt, Entry, SoftBounce, Suppression
from queue.tests.world import BOB, CAROL, World, refusal

pytestmark = pytest.mark.django_db(transaction=True)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def system(alice: User) -> World:
    return World(alice)


def keep_back(address: str, organization: Organization | None, **fields: Any) -> Suppression:
    fields = {"reason": "manual", "words": "asked by phone", **fields}
    return Suppression.objects.create(address=address, organization=organization, **fields)


def on_the_list() -> list[tuple[str, str]]:
    return list(Suppression.objects.order_by("address").values_list("address", "reason"))


# --- how one comes on it ----------------------------------------------------------------------------------------------


def test_a_hosts_final_word_about_a_recipient_is_kept_with_the_bounce(system: World) -> None:
    system.answer(BOB, refusal(550, "5.1.1 no such user"))
    message = system.send(BOB)
    row = Suppression.objects.get()
    assert (row.address, row.organization, row.sending_domain) == (BOB, system.alice.organization, "")
    assert (row.reason, row.words, row.source_message_id) == ("hard_bounce", "550 5.1.1 no such user", message.pk)
    assert row.expires_at is not None and row.expires_at - row.created_at == dt.timedelta(days=90)
    event = Event.objects.get(rule="suppression.added")
    assert (event.message_id, event.recipient) == (message.pk, BOB)
    assert (event.kind, event.get_kind_display()) == ("listed", "Put on the suppression list")
    assert event.summary.startswith(f"{BOB} is on the suppression list from now on until ")
    assert f"(row {row.pk}, hard bounce)" in event.summary


@pytest.mark.parametrize(
    ("code", "text"),
    [(554, "5.7.1 blocked"), (552, "5.3.4 too big"), (550, "5.6.0 bad form"), (550, "rejected as spam")],
)
def test_a_refusal_that_is_not_about_the_recipient_leaves_the_list_alone(system: World, code: int, text: str) -> None:
    system.answer(BOB, refusal(code, text))
    assert system.send(BOB).status == "bounced"
    assert on_the_list() == [] and not SoftBounce.objects.exists()


def test_full_mailboxes_and_used_up_attempts_are_counted(system: World, settings: Any) -> None:
    settings.QUEUE_MAX_ATTEMPTS, settings.SUPPRESSION_SOFT_BOUNCES = 1, 3
    for outcome in (refusal(552, "5.2.2 full"), refusal(451, "4.3.0 later"), refusal(452, "4.2.2 full")):
        assert on_the_list() == []
        system.answer(BOB, outcome)
        system.send(BOB)
    assert on_the_list() == [(BOB, "soft_bounces")]


def test_no_count_suppresses_where_the_threshold_is_0(system: World, settings: Any) -> None:
    settings.QUEUE_MAX_ATTEMPTS, settings.SUPPRESSION_SOFT_BOUNCES = 1, 0
    system.answer(BOB, refusal(451, "4.3.0 later"))
    system.send(BOB)
    assert on_the_list() == [] and not SoftBounce.objects.exists()


def test_what_we_found_out_ourselves_is_no_hosts_word(system: World) -> None:
    del system.resolver.hosts["dest.example"]
    assert system.send(BOB).status == "bounced"
    assert on_the_list() == []


@pytest.mark.parametrize("source", ["forward", "dsn", "reception"])
def test_only_mail_that_an_account_sent_teaches(system: World, source: str) -> None:
    system.answer(BOB, refusal(550, "5.1.1 no such user"))
    system.send(BOB, source=source)
    assert on_the_list() == []


def test_mail_of_no_organization_teaches_nothing(system: World) -> None:
    system.answer(BOB, refusal(550, "5.1.1 no such user"))
    system.accept(BOB, source="http", sender="root@elsewhere.example")
    system.run()
    assert on_the_list() == []


def test_the_simulated_internet_teaches_nothing_while_real_mail_leaves(system: World, settings: Any) -> None:
    settings.DELIVERY_MODE = "live"
    system.answer(BOB, refusal(550, "5.1.1 no such user"))
    system.accept(BOB, source="http", sender="alice@example.com", organization_id=system.alice.organization_id)
    Entry.objects.update(is_sandbox=True)
    system.run()
    assert on_the_list() == []


def test_a_row_that_has_expired_is_written_anew_and_one_in_force_stays(system: World) -> None:
    old = keep_back(BOB, system.alice.organization, expires_at=timezone.now() - HOUR)
    system.answer(BOB, refusal(550, "5.1.1 no such user"))
    system.send(BOB)
    old.refresh_from_db()
    assert (old.reason, old.words) == ("hard_bounce", "550 5.1.1 no such user")
    assert old.expires_at is not None and old.expires_at > timezone.now()


def test_several_that_end_in_one_settlement_are_written_together(system: World) -> None:
    names = [f"u{number}@dest.example" for number in range(20)]
    for name in names:
        system.answer(name, refusal(550, "5.1.1 no such user"))
    system.send(*names)
    assert sorted(address for address, _ in on_the_list()) == sorted(names)


# --- whom it keeps back -----------------------------------------------------------------------------------------------


def test_a_row_keeps_mail_back_and_is_named_everywhere(system: World) -> None:
    row = keep_back(BOB, system.alice.organization, reason="complaint", source_message_id="msg_1")
    message = system.send(BOB.upper().replace("DEST.EXAMPLE", "dest.example"), CAROL)
    assert [job.recipients for job, _ in system.transport.jobs] == [[CAROL]]
    assert message.status == "failed"
    entry = Entry.objects.get(message=message, status="failed")
    assert (entry.attempts, Attempt.objects.filter(entry=entry).count()) == (0, 0)
    since = f"{row.created_at:%Y-%m-%d %H:%M}"
    words = (
        f"Not sent: BOB@dest.example is on the suppression list of its sender's organization since {since} UTC "
        f'(row {row.pk}, complaint, from message msg_1): "asked by phone".'
    )
    assert entry.last_reply == message.error_message == words
    event = Event.objects.get(kind="suppressed")
    assert (event.summary, event.entry_id, event.recipient) == (words, entry.pk, "BOB@dest.example")
    row.refresh_from_db()
    assert row.hits == 1 and row.last_hit_at is not None


def test_local_recipients_are_kept_back_too(system: World) -> None:
    keep_back("alice@example.com", system.alice.organization)
    assert system.send("alice@example.com").status == "failed"


def test_a_row_of_a_domain_holds_for_mail_from_that_domain_alone(system: World) -> None:
    row = keep_back(BOB, system.alice.organization, sending_domain="news.example")
    assert system.send(BOB).status == "delivered"
    assert system.send(BOB, sender="x@News.example").status == "failed"
    assert "on the suppression list of news.example since" in Event.objects.get(kind="suppressed").summary
    row.delete()


def test_a_row_of_another_organization_does_not_hold(system: World) -> None:
    keep_back(BOB, Organization.objects.create(name="Other"))
    assert system.send(BOB).status == "delivered"


def test_a_row_of_the_whole_system_holds_for_all_and_does_not_tell_whose_message_led_to_it(system: World) -> None:
    keep_back(BOB, None, source_message_id="msg_of_somebody_else")
    message = system.send(BOB)
    assert "on the suppression list of this mail system since" in message.error_message
    assert "msg_of_somebody_else" not in message.error_message


def test_a_row_that_has_expired_lets_mail_through(system: World) -> None:
    keep_back(BOB, system.alice.organization, expires_at=timezone.now() - HOUR)
    assert system.send(BOB).status == "delivered"


def test_a_row_made_while_mail_waits_holds_at_its_next_attempt(system: World, settings: Any) -> None:
    settings.RETRY_SCHEDULE = [dt.timedelta(0)]
    system.answer(BOB, refusal(451, "4.3.0 later"))
    system.accept(BOB, source="http", sender="alice@example.com", organization_id=system.alice.organization_id)
    parcels = claim.claim("w", limit=10, now=timezone.now(), lease=HOUR)
    keep_back(BOB, system.alice.organization)
    found = delivery.sort(parcels)
    assert [result.outcome.transport for result in found.decided] == ["list"] and not found.foreign


@pytest.mark.parametrize("source", ["dsn", "forward", "reception"])
def test_our_own_reports_and_what_is_only_passed_on_are_not_its_business(system: World, source: str) -> None:
    keep_back(BOB, None)
    sender = "" if source == "dsn" else "alice@example.com"
    assert system.send(BOB, source=source, sender=sender).status == "delivered"


# --- who hears of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "said", "words"),
    [
        ("manual", "asked by phone", "entered by a person"),
        ("complaint", "A complaint came back (abuse)", "since mail to it was reported as unwanted"),
        ("hard_bounce", "550 5.1.1 gone", 'since mail to it came back for good: "550 5.1.1 gone"'),
    ],
)
def test_a_sender_by_smtp_hears_of_it_in_a_failure_report(system: World, reason: str, said: str, words: str) -> None:
    row = keep_back(BOB, system.alice.organization, reason=reason, words=said, source_message_id="msg_1")
    system.send(BOB, source="submission")
    report = Message.objects.get(source="dsn")
    assert report.recipients == ["alice@example.com"]
    text, status, _ = (str(part) for part in email.message_from_bytes(content.read(report.pk)).get_payload())
    since = f"{row.created_at:%Y-%m-%d %H:%M} UTC"
    told = f"{BOB} is on the suppression list of its sender's organization since {since}, {words}."
    assert f"Not sent: {told}" in " ".join(text.split())
    assert str(row.pk) not in text and "msg_1" not in text and str(row.pk) not in status
    assert str(row.pk) in Event.objects.get(kind="suppressed").summary  # for staff
    assert "Your organization's suppression list keeps mail from this address" in " ".join(text.split())
    assert "Action: failed" in status and "Status: 5.7.1" in status and "Remote-MTA" not in status


@pytest.mark.parametrize(("source", "notify", "sender"), [
    ("http", "", "alice@example.com"), ("submission", "NEVER", "alice@example.com"),
])  # fmt: skip
def test_nobody_else_does(system: World, source: str, notify: str, sender: str) -> None:
    keep_back(BOB, system.alice.organization)
    system.send(BOB, source=source, notify=notify, sender=sender)
    assert not Message.objects.filter(source="dsn").exists()
    assert Event.objects.filter(kind="suppressed").exists()


# --- what it costs ----------------------------------------------------------------------------------------------------


def parcels_of(system: World, *recipients: str) -> list[claim.Parcel]:
    system.accept(*recipients, source="http", sender="alice@example.com", organization_id=system.alice.organization_id)
    return claim.claim("w", limit=100, now=timezone.now(), lease=HOUR)


def test_an_empty_list_is_asked_once_a_second_and_a_list_once_for_a_batch(
    system: World, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    parcels = parcels_of(system, *(f"u{number}@dest.example" for number in range(50)))
    suppress.forget()
    with django_assert_num_queries(1):
        for _ in range(5):
            assert suppress.blocked(parcels, timezone.now()) == {}
    keep_back("u7@dest.example", system.alice.organization)
    suppress.forget()
    with django_assert_num_queries(1 + 5):  # whether there is anything, then what
        for _ in range(5):
            (entry_id,) = suppress.blocked(parcels, timezone.now())
    assert Entry.objects.get(pk=entry_id).recipient == "u7@dest.example"
    with django_assert_num_queries(1):
        assert suppress.blocked(parcels[:1], timezone.now()) == {}
