"""What the listener refuses at RCPT ends the same way in the queue: HTTP and forwards pass no RCPT (contract §2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.addresses import resolve
from accounts.models import Alias, Domain, Organization, User
from accounts.models.alias import CATCH_ALL
from accounts.names import parse_address
from mailflow import content
from mailflow.models import Event, FiledMessage, Message
from mailflow.policy.recipient import check_recipient
from mailflow.storage import registry
from mailflow.storage.base import Copy
from queue.models import Attempt, Entry
from queue.tests.conftest import running_engine, wait_until
from queue.timeline import timeline

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]


@pytest.fixture
def bob(alice: User) -> User:
    return User.objects.create_user("bob", "bob@example.com", "x", organization=alice.organization, is_active=False)


def alias(name: str, *targets: str, announcement: str = "silent") -> None:
    domain = Domain.objects.get(name="example.com")
    Alias.objects.create(domain=domain, local_part=name, targets=list(targets), announcement=announcement)


def attempt_of(ids: list[int]) -> Attempt:
    """Deliver, and return the one attempt that was made for the recipient."""
    with running_engine() as engine:
        engine.ring(ids)
        wait_until(lambda: Attempt.objects.filter(entry__in=ids).exists())
        wait_until(lambda: not Entry.objects.filter(next_attempt_at__lte=timezone.now()).exclude(lease="").exists())
    return Attempt.objects.get(entry__in=ids)


def test_mail_for_a_mailbox_that_is_switched_off_waits_and_no_catch_all_reads_it(bob: User, accept: Accept) -> None:
    alias(CATCH_ALL, "alice@example.com")
    attempt = attempt_of(accept("bob@example.com", sender="s@x.example"))
    assert (attempt.outcome, attempt.enhanced_code) == ("deferred", "4.2.1")
    assert attempt.reply == "The mailbox of <bob@example.com> is disabled, try again later."
    assert Entry.objects.get().status == "retry" and not FiledMessage.objects.exists()


def test_a_mailbox_that_is_switched_on_again_gets_what_waited(bob: User, accept: Accept) -> None:
    ids = accept("bob@example.com", sender="s@x.example")
    attempt_of(ids)
    User.objects.filter(pk=bob.pk).update(is_active=True)
    Entry.objects.update(next_attempt_at=timezone.now(), retry_at=None)
    with running_engine():
        wait_until(FiledMessage.objects.exists)
    assert Message.objects.get().status == "delivered"


@pytest.mark.parametrize(("claims", "is_new"), [(0, True), (1, False)])
def test_a_copy_is_looked_for_where_an_earlier_worker_may_have_stored_it(
    claims: int, is_new: bool, alice: User, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = accept("alice@example.com", sender="s@x.example")
    Entry.objects.update(claims=claims)
    storage, put = registry.current(), []

    def note(copy: Copy) -> str:
        put.append(copy.is_new)
        return type(storage).put(storage, copy)

    monkeypatch.setattr(storage, "put", note)
    assert attempt_of(ids).outcome == "delivered"
    assert put == [is_new]


def test_a_domain_that_only_sends_takes_no_mail(alice: User, accept: Accept) -> None:
    Domain.objects.update(accepts_mail=False)
    attempt = attempt_of(accept("alice@example.com", sender="s@x.example"))
    assert (attempt.outcome, attempt.enhanced_code) == ("failed", "5.1.10")
    assert attempt.reply == "Domain does not accept mail."


@pytest.mark.parametrize(
    ("target", "words"), [("new@x.example", "<new@x.example>"), ("用户@例え.jp", "<用户@xn--r8jz45g.jp>")]
)
def test_an_alias_that_says_moved_fails_and_tells_where_to(
    alice: User, accept: Accept, target: str, words: str
) -> None:
    alias("old", target, announcement="moved")
    attempt = attempt_of(accept("old@example.com", sender="alice@example.com"))
    assert (attempt.outcome, attempt.enhanced_code) == ("failed", "5.1.6")
    assert words in attempt.reply
    report = content.read(Message.objects.get(source="dsn").pk)
    assert b"5.1.6" in report
    assert not Message.objects.filter(source="forward").exists()


def test_an_alias_that_tells_where_it_leads_forwards_all_the_same(alice: User, accept: Accept) -> None:
    alias("old", "alice@example.com", announcement="told")
    assert attempt_of(accept("old@example.com", sender="s@x.example")).outcome == "delivered"


def test_what_comes_by_an_alias_ends_by_the_same_rules(bob: User, accept: Accept) -> None:
    alias("sales", "bob@example.com")
    with running_engine() as engine:
        engine.ring(accept("sales@example.com", sender="s@x.example"))
        wait_until(lambda: Entry.objects.filter(recipient="bob@example.com", status="retry").exists())
    assert Attempt.objects.get(entry__recipient="bob@example.com").enhanced_code == "4.2.1"


@pytest.mark.parametrize(
    ("recipient", "words"),
    [
        ("sales@example.com", "sales@example.com is an alias: its mail goes on to bob@example.com, x@y.example"),
        ("anna@example.com", "anna@example.com is taken by the catch-all of example.com: its mail goes on to"),
        (
            "postmaster@example.com",
            "postmaster@example.com has neither mailbox nor alias and is read by an administrator: its mail goes on to"
            " alice@example.com",
        ),
    ],
)
def test_a_forward_says_why_where_to_and_as_what(bob: User, accept: Accept, recipient: str, words: str) -> None:
    alias("sales", "bob@example.com", "x@y.example")
    alias(CATCH_ALL, "bob@example.com")
    attempt = attempt_of(accept(recipient, sender="s@x.example"))
    event = Event.objects.get(kind="forwarded", entry_id=attempt.entry_id)
    assert event.led_to == Message.objects.get(source="forward").pk
    assert event.summary == f"{attempt.reply}."
    assert attempt.reply.startswith(words) and attempt.reply.endswith(f" as message {event.led_to}")
    (step,) = [step for step in timeline(event.message_id) if step.title == "Forwarded"]
    assert (step.words, step.reply, step.forwarded_as) == (event.summary, "", event.led_to)


def test_many_targets_are_counted_and_not_all_named(alice: User, accept: Accept) -> None:
    alias("all", *(f"{number}@y.example" for number in range(7)))
    reply = attempt_of(accept("all@example.com", sender="s@x.example")).reply
    assert "goes on to 0@y.example, 1@y.example, 2@y.example, 3@y.example, 4@y.example and 2 more as message" in reply


def test_where_the_alias_of_another_organization_leads_is_not_said(alice: User, accept: Accept) -> None:
    alias("sales", "secret@y.example")
    ids = accept("sales@example.com", sender="s@x.example")
    other = Organization.objects.create(name="Other")
    carl = User.objects.create_user("carl", "carl@x.example", "x", organization=other, is_organization_admin=True)
    Message.objects.update(organization_id=other.pk, user_id=carl.pk)
    attempt = attempt_of(ids)
    event = Event.objects.get(kind="forwarded")
    assert (attempt.next_hop, attempt.reply) == ("", "Mail for sales@example.com is forwarded")
    client = APIClient()
    client.force_authenticate(carl)
    answer = client.get(f"/api/v1/messages/{event.message_id}/timeline")
    assert event.led_to and event.led_to not in answer.content.decode() and "secret" not in answer.content.decode()
    assert [step["forwarded_as"] for step in answer.json()["items"]] == [None] * len(answer.json()["items"])
    client.force_authenticate(User.objects.create_superuser("root", "root@example.com", "x"))
    answer = client.get(f"/api/v1/messages/{event.message_id}/timeline")
    assert event.led_to in [step["forwarded_as"] for step in answer.json()["items"]]


@pytest.mark.parametrize("used", [(1 << 20) + 1, 1 << 30])
@pytest.mark.parametrize("name", ["alice", "bob", "old", "nobody"])
def test_queue_and_listener_say_the_same_of_every_address(bob: User, accept: Accept, name: str, used: int) -> None:
    alias("old", "new@x.example", announcement="moved")
    User.objects.filter(username="alice").update(quota_mb=1, used_octets=used)
    address = parse_address(f"{name}@example.com")
    said = check_recipient(address, resolve(address), may_relay="", auth_possible=False, is_smtputf8=True).reply
    assert said is not None
    attempt = attempt_of(accept(str(address), sender=None))
    assert (attempt.enhanced_code, attempt.reply) == (said.enhanced_code, f"{said.text}.")
    assert attempt.outcome == ("deferred" if said.is_temporary else "failed")


def test_the_postmaster_is_reached_whatever_the_quota(alice: User, accept: Accept) -> None:
    User.objects.update(quota_mb=1, used_octets=1 << 30, email="postmaster@example.com")
    assert attempt_of(accept("postmaster@example.com", sender="s@x.example")).outcome == "delivered"
