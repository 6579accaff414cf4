"""ATRN over real sockets: a domain's host logs in, the session turns around, and its mail goes over it (RFC 2645)."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts import dkim, odmr
from accounts.models import Domain, Organization, User
from accounts.tests.ports import free_port
from mailflow import handoff
from mailflow.certificates import ensure_self_signed
from mailflow.listener.certificate import CertificateSource
from mailflow.models import Event, Message
from mailflow.tests.test_listener import plain
from mailflow.tests.wire import Client, reset, running_listener
from queue.models import Attempt, Entry, Suppression
from queue.tests.conftest import wait_until
from queue.tests.mail import accepted
from queue.tests.peers import Close, Peer, Raw
from queue.tests.turned import DOMAIN, Host, fetch_over
from queue.transports import odmr as transport

pytestmark = pytest.mark.django_db(transaction=True)
Accept = Callable[..., list[int]]

TO = f"somebody@{DOMAIN}"
AUTH = "AUTH PLAIN " + plain("alice", "correct horse")


@pytest.fixture(autouse=True)
def _fresh_handoff() -> Iterator[None]:
    """One per process keeps the options of the settings that it was made with."""
    handoff.current.cache_clear()
    yield
    handoff.current.cache_clear()


@pytest.fixture
def domain(alice: User) -> Domain:
    assert alice.organization is not None
    return Domain.objects.create(
        name=DOMAIN, organization=alice.organization, is_trusted=True, delivery=Domain.Delivery.DIAL_UP
    )


@pytest.fixture
def host(domain: Domain, settings: Any) -> Iterator[Host]:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.ODMR_PORT = free_port()
    with running_listener() as listener:
        yield Host(listener, settings.ODMR_PORT, odmr.make(domain, actor="tests"))


def only_attempt() -> Attempt:
    return Attempt.objects.get()


def waits() -> list[Entry]:
    """Return the entries that wait for their host, in nobody's hands."""
    now = timezone.now()
    return list(Entry.objects.filter(waits_for_host=True, lease="", next_attempt_at__gt=now, retry_at__gt=now))


def test_waiting_mail_goes_over_the_session_that_asked_for_it(host: Host, accept: Accept) -> None:
    accept(TO, body=b"one\r\n.\r\n..two\r\n")
    accept(f"a@{DOMAIN}", f"b@{DOMAIN}")
    with Peer().in_thread() as peer:
        assert host.fetch(peer) == "250 2.0.0 OK now reversing the connection"
    assert [message.recipients for message in peer.messages] == [(TO,), (f"a@{DOMAIN}", f"b@{DOMAIN}")]
    assert peer.messages[0].content.endswith(b"\r\n\r\none\r\n.\r\n..two\r\n")
    assert peer.messages[0].mail_from == "alice@example.com"
    assert peer.commands[0] == "EHLO localhost" and peer.commands[-1] == "QUIT"
    wait_until(lambda: Entry.objects.filter(status="delivered").count() == 3)
    attempt = Attempt.objects.filter(entry__recipient=TO).get()
    assert (attempt.outcome, attempt.transport, attempt.reply) == ("delivered", "odmr", "2.0.0 taken")
    assert attempt.next_hop.startswith("host.dialup.example[127.0.0.1]:")
    assert set(Message.objects.values_list("status", flat=True)) == {"delivered"}
    event = Event.objects.filter(kind="delivered", recipient=TO).get()
    assert event.summary.startswith(f"{TO}: taken by host.dialup.example[127.0.0.1]:")
    assert host.fetch(peer) == "453 4.0.0 You have no mail"


def test_a_session_within_tls_is_turned_as_it_is(domain: Domain, accept: Accept, settings: Any, tmp_path: Path) -> None:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.ODMR_PORT = free_port()
    settings.SMTP_HOSTNAME = "mail.example.com"
    large = b"x" * 70 + b"\r\n"
    accept(TO, body=large * 30_000)
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    ensure_self_signed(*files, "localhost", dt.datetime.now(dt.UTC))
    with running_listener(CertificateSource(*files)) as listener, Peer().in_thread() as peer:
        host = Host(listener, settings.ODMR_PORT, odmr.make(domain, actor="tests"))
        assert host.fetch(peer, tls=True).startswith("250")
    assert peer.messages[0].content.endswith(large) and len(peer.messages[0].content) > 2_100_000
    assert only_attempt().tls.startswith("TLSv1.")


def test_who_is_refused_for_good_bounces_and_who_is_not_now_goes_on_waiting(host: Host, accept: Accept) -> None:
    accept(f"gone@{DOMAIN}", f"later@{DOMAIN}", f"here@{DOMAIN}", sender="alice@example.com")
    with Peer(rcpt=["550 5.1.1 nobody", "451 4.7.1 not now", "250 ok"]).in_thread() as peer:
        host.fetch(peer)
    wait_until(lambda: Attempt.objects.count() == 3)
    found = dict(Entry.objects.exclude(message__source="dsn").values_list("recipient", "status"))
    assert found == {f"gone@{DOMAIN}": "bounced", f"later@{DOMAIN}": "retry", f"here@{DOMAIN}": "delivered"}
    (entry,) = waits()
    assert entry.recipient == f"later@{DOMAIN}" and entry.retry_at == entry.expires_at
    assert [one.recipients for one in peer.messages] == [(f"here@{DOMAIN}",)]
    assert Message.objects.filter(source="dsn").count() == 1
    event = Event.objects.get(kind="deferred")
    assert "attempt 1 deferred" in event.summary and "waits for its host" in event.summary
    with Peer().in_thread() as peer:  # it comes once a visit, and at the next one again
        host.fetch(peer)
    assert [one.recipients for one in peer.messages] == [(f"later@{DOMAIN}",)]


def test_a_host_that_never_takes_it_uses_no_attempts_up(host: Host, accept: Accept) -> None:
    accept(TO)
    Entry.objects.update(max_attempts=2)
    with Peer(rcpt=["450 4.2.1 busy"]).in_thread() as peer:
        for count in range(1, 5):
            assert host.fetch(peer).startswith("250")
            wait_until(lambda count=count: Attempt.objects.count() == count)  # type: ignore[misc]
            wait_until(waits)
    assert Entry.objects.get().attempts == 4


def test_a_host_that_dies_after_the_content_gets_the_message_again(host: Host, accept: Accept) -> None:
    accept(TO)
    accept(f"second@{DOMAIN}")
    with Peer(dot=[Close()]).in_thread() as peer:
        host.fetch(peer)
    wait_until(lambda: len(waits()) == 2)
    attempt = only_attempt()
    assert (attempt.outcome, attempt.enhanced_code) == ("deferred", "4.4.2")
    assert "at the end of the content" in attempt.reply
    with Peer().in_thread() as peer:
        host.fetch(peer)
    assert len(peer.messages) == 2


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (Raw(b"<html>\r\n"), "a line that is no SMTP reply (at the greeting)"),
        ("554 5.7.1 go away", "5.7.1 go away"),
        ("421 4.3.2 not now", "4.3.2 not now"),
        (Close(), "closed the connection (at the greeting)"),
    ],
)
def test_a_host_that_does_not_greet_gets_nothing_and_the_mail_waits(
    host: Host, accept: Accept, greeting: Any, words: str
) -> None:
    accept(TO)
    accept(f"second@{DOMAIN}")
    with Peer(greeting=[greeting]).in_thread() as peer:
        host.fetch(peer)
    wait_until(lambda: len(waits()) == 2)
    assert peer.messages == []
    assert only_attempt().outcome == "deferred" and words in only_attempt().reply


def test_a_host_that_never_answers_is_left_after_a_while(host: Host, accept: Accept, settings: Any) -> None:
    settings.OUTBOUND_TIMEOUT = 0.3
    accept(TO)
    with host.logged_in() as client:
        assert client.ask("ATRN").startswith("250")
        assert client.is_closed()
    wait_until(waits)
    assert "took too long (at the greeting)" in only_attempt().reply


def test_a_host_that_leaves_at_once_costs_nothing(host: Host, accept: Accept) -> None:
    accept(TO)
    with host.logged_in() as client:
        client.send(b"ATRN\r\n")
        reset(client)
    wait_until(waits)
    wait_until(lambda: not host.listener.turned and not host.listener.open_connections)
    assert Entry.objects.get().status in ("pending", "retry")


def test_what_was_sent_before_the_roles_changed_is_forgotten(host: Host, accept: Accept) -> None:
    """RFC 2920 §3.1: a command that changes so much is the last of its group."""
    accept(TO)
    with host.logged_in() as client:
        client.send(b"ATRN\r\nNOOP\r\n250 forged\r\n")
        assert client.reply().startswith("250 2.0.0 OK now reversing")
        client.send(b"220 host.dialup.example ready\r\n")
        assert client.line() == "EHLO localhost"


def test_without_mail_what_follows_atrn_is_obeyed(host: Host) -> None:
    with host.logged_in() as client:
        client.send(b"ATRN\r\nNOOP\r\n")
        assert client.reply().startswith("453 4.0.0") and client.reply().startswith("250 2.0.0")


def test_each_message_goes_to_one_of_two_sessions(host: Host, accept: Accept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BATCH", 3)
    for number in range(40):
        accept(f"n{number}@{DOMAIN}")
    with Peer().in_thread() as first, Peer().in_thread() as second:
        visits = [threading.Thread(target=host.fetch, args=(peer,)) for peer in (first, second)]
        for visit in visits:
            visit.start()
        for visit in visits:
            visit.join(60)
    got = [recipient for peer in (first, second) for message in peer.messages for recipient in message.recipients]
    assert sorted(got) == sorted(f"n{number}@{DOMAIN}" for number in range(40))
    wait_until(lambda: Entry.objects.filter(status="delivered").count() == 40)
    assert Attempt.objects.count() == 40


def test_while_another_session_has_all_of_it_there_is_no_mail(host: Host, accept: Accept) -> None:
    accept(TO)
    with host.logged_in() as client:
        assert client.ask("ATRN").startswith("250")
        with Peer().in_thread() as peer:
            assert host.fetch(peer).startswith("453")


def test_several_domains_go_over_one_session(alice: User, host: Host, accept: Accept) -> None:
    assert alice.organization is not None
    for name in ("second.example", "third.example"):
        Domain.objects.create(name=name, organization=alice.organization, is_trusted=True, delivery="dial_up")
        accept(f"x@{name}")
    accept(TO)
    User.objects.filter(pk=alice.pk).update(is_organization_admin=True)
    with Client(host.port) as client, Peer().in_thread() as peer:
        client.ask("EHLO x")
        assert client.ask(AUTH).startswith("235")
        assert fetch_over(client, peer, f"ATRN {DOMAIN},second.example").startswith("250")
    assert {one for message in peer.messages for one in message.recipients} == {TO, "x@second.example"}


def test_a_user_who_manages_nothing_fetches_nobodys_mail(host: Host, accept: Accept) -> None:
    accept(TO)
    with Client(host.port) as client:
        client.ask("EHLO x")
        assert client.ask(AUTH).startswith("235")
        assert client.ask(f"ATRN {DOMAIN}").startswith("450 4.7.1")
        for command in ("ATRN", "ATRN example.com"):  # what is delivered here waits for nobody
            assert client.ask(command).startswith("453 ")
    wait_until(lambda: Event.objects.filter(rule="domain_not_owned").count() == 1)


def test_a_secret_opens_its_own_domain_alone(host: Host, accept: Accept) -> None:
    other = Organization.objects.create(name="Other")
    Domain.objects.create(name="other.example", organization=other, is_trusted=True, delivery="dial_up")
    accept("x@other.example")
    with host.logged_in() as client:
        for command in ("ATRN other.example", f"ATRN {DOMAIN},other.example", "ATRN example.com"):
            assert client.ask(command).startswith("450 4.7.1"), command
        assert client.ask("ATRN").startswith("453 ")
        for command in ("ETRN dialup.example", "MAIL FROM:<alice@example.com>", "VRFY x"):
            assert client.ask(command).startswith("502 5.5.1"), command


def test_a_secret_that_was_revoked_opens_nothing_in_open_sessions_either(host: Host, accept: Accept) -> None:
    accept(TO)
    with host.logged_in() as client:
        odmr.revoke(Domain.objects.get(name=DOMAIN), actor="tests")
        assert client.ask("ATRN").startswith("450 4.7.1")


def test_mail_of_a_domain_that_is_delivered_here_is_not_fetched(host: Host, accept: Accept) -> None:
    accept(TO)
    Domain.objects.filter(name=DOMAIN).update(delivery="local")
    with host.logged_in() as client:
        assert client.ask("ATRN").startswith("453 ")


def test_what_is_held_scheduled_or_simulated_is_not_handed_over(host: Host, accept: Accept, settings: Any) -> None:
    settings.DELIVERY_MODE = "live"
    held, scheduled, simulated = (accept(f"{name}@{DOMAIN}")[0] for name in ("held", "scheduled", "simulated"))
    later = timezone.now() + dt.timedelta(hours=1)
    Entry.objects.filter(pk=held).update(held_at=timezone.now(), next_attempt_at=None)
    Entry.objects.filter(pk=scheduled).update(scheduled_at=later, next_attempt_at=later)
    Entry.objects.filter(pk=simulated).update(is_sandbox=True)
    with host.logged_in() as client:
        assert client.ask("ATRN").startswith("453 ")


def test_what_is_too_late_for_its_sender_comes_back_instead(host: Host, accept: Accept) -> None:
    late, expired, _ = accept(f"late@{DOMAIN}")[0], accept(f"expired@{DOMAIN}")[0], accept(TO)
    past = timezone.now() - dt.timedelta(minutes=1)
    Entry.objects.filter(pk=late).update(deliver_by_at=past, deliver_by_mode="R")
    Entry.objects.filter(pk=expired).update(expires_at=past)
    with Peer().in_thread() as peer:
        host.fetch(peer)
    assert [one.recipients for one in peer.messages] == [(TO,)]
    wait_until(lambda: Entry.objects.filter(status="bounced").count() == 2)
    assert "BY" in Entry.objects.get(pk=late).last_reply
    assert "its host could fetch it" in Entry.objects.get(pk=expired).last_reply
    assert Message.objects.filter(source="dsn").count() == 2


def test_parameters_go_along_as_to_any_next_hop(host: Host, accept: Accept) -> None:
    accept(
        TO, notify="SUCCESS,FAILURE", dsn_return="HDRS", envelope_id="QQ1", body_type="8BITMIME", body=b"\xc3\xa9\r\n"
    )
    accept("jörg@" + DOMAIN, is_smtputf8=True)
    with Peer(extensions=["PIPELINING", "8BITMIME", "SIZE 0", "DSN", "SMTPUTF8"]).in_thread() as peer:
        host.fetch(peer)
    said = [command for command in peer.commands if command.startswith(("MAIL", "RCPT"))]
    assert said[0].startswith("MAIL FROM:<alice@example.com> SIZE=") and said[0].endswith(
        "BODY=8BITMIME RET=HDRS ENVID=QQ1"
    )
    assert said[1] == f"RCPT TO:<{TO}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;{TO}"
    assert said[2].endswith("SMTPUTF8") and said[3] == f"RCPT TO:<jörg@{DOMAIN}>"


def test_our_own_mail_is_signed_as_to_any_next_hop(alice: User, host: Host, accept: Accept) -> None:
    dkim.ensure_keys(Domain.objects.get(name="example.com"))
    accept(TO)
    Message.objects.update(organization_id=alice.organization_id)
    written(TO)
    with Peer().in_thread() as peer:
        host.fetch(peer)
    contents = [message.content for message in peer.messages]
    assert not contents[0].startswith(b"DKIM-Signature:")  # it has no From
    assert contents[1].startswith(b"DKIM-Signature: ") and contents[1].count(b"d=example.com") == 2
    wait_until(lambda: Event.objects.filter(kind="delivered", summary__contains="Signed with DKIM").exists())


def written(recipient: str) -> None:
    """Accept a message by Alice as her mail program would write it."""
    head = "From: Alice <alice@example.com>\r\nSubject: x\r\n"
    accepted(recipient, by=User.objects.get(username="alice"), header_section=head)


def test_who_is_on_the_suppression_list_is_kept_back_here_too(alice: User, host: Host, accept: Accept) -> None:
    accept(f"gone@{DOMAIN}", TO)
    Suppression.objects.create(
        address=f"gone@{DOMAIN}", reason="hard_bounce", organization_id=alice.organization_id, created_at=timezone.now()
    )
    Message.objects.update(organization_id=alice.organization_id)
    with Peer().in_thread() as peer:
        host.fetch(peer)
    assert [message.recipients for message in peer.messages] == [(TO,)]
    wait_until(lambda: Entry.objects.filter(recipient=f"gone@{DOMAIN}", status="failed").exists())


def test_mail_that_requires_verified_tls_comes_back(host: Host, accept: Accept) -> None:
    """RFC 8689 §4.2.1: who opened the session proved a secret and no name."""
    accept(TO, requires_tls=True)
    with Peer(extensions=["REQUIRETLS"]).in_thread() as peer:
        host.fetch(peer)
    wait_until(lambda: Entry.objects.get(recipient=TO).status == "bounced")
    assert not peer.messages and only_attempt().enhanced_code == "5.7.10"


def test_a_thousand_messages_are_taken_in_batches(host: Host, accept: Accept) -> None:
    for _ in range(10):
        accept(*(f"n{number}@{DOMAIN}" for number in range(100)))
    largest = 0

    def look() -> None:
        nonlocal largest
        try:
            while not done.wait(0.02):
                largest = max(largest, Entry.objects.exclude(lease="").count())
        finally:
            connection.close()

    done = threading.Event()
    watch = threading.Thread(target=look)
    watch.start()
    with Peer().in_thread() as peer:
        host.fetch(peer)
    done.set()
    watch.join()
    assert sum(len(message.recipients) for message in peer.messages) == 1000
    assert 0 < largest <= transport.MAX_IN_HAND + transport.BATCH
    wait_until(lambda: Entry.objects.filter(status="delivered").count() == 1000)


def test_leases_are_renewed_while_a_slow_host_makes_up_its_mind(host: Host, accept: Accept, settings: Any) -> None:
    settings.QUEUE_LEASE_SECONDS = 1
    accept(TO)
    accept(f"second@{DOMAIN}")
    with host.logged_in() as client:
        assert client.ask("ATRN").startswith("250")
        begun = {entry.pk: entry.next_attempt_at for entry in Entry.objects.all()}
        wait_until(lambda: not Entry.objects.filter(next_attempt_at__in=begun.values()).exists())
        assert not Entry.objects.filter(lease="").exists()


def test_a_listener_that_stops_ends_after_the_message_under_way(host: Host, accept: Accept) -> None:
    for number in range(3):
        accept(f"n{number}@{DOMAIN}")
    host.listener.drain_seconds = 60.0  # whoever is under way may be slow
    with host.logged_in() as client:
        assert client.ask("ATRN").startswith("250")
        for answer, expected in (("220 ready", "EHLO"), ("250 host", "MAIL"), ("250 ok", "RCPT"), ("250 ok", "DATA")):
            assert client.ask(answer).startswith(expected)
        client.send(b"354 go on\r\n")
        while client.line() != ".":
            pass
        stopped = asyncio.run_coroutine_threadsafe(host.listener.stop(), host.listener.loop)
        wait_until(lambda: host.listener.is_stopping)
        assert client.ask("250 2.0.0 taken") == "QUIT"
        client.send(b"221 bye\r\n")
        stopped.result(60)
    assert Entry.objects.get(status="delivered").recipient == f"n0@{DOMAIN}"
    assert len(waits()) == 2


def test_a_listener_that_stops_does_not_wait_for_a_host_that_says_nothing(host: Host, accept: Accept) -> None:
    accept(TO)
    with host.logged_in() as client:
        assert client.ask("ATRN").startswith("250")
        asyncio.run_coroutine_threadsafe(host.listener.stop(), host.listener.loop).result(60)
    wait_until(lambda: len(waits()) == 1)


def test_too_many_turned_sessions_are_asked_to_come_again(
    host: Host, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_SESSIONS", 1)
    accept(TO)
    accept(f"second@{DOMAIN}")
    with host.logged_in() as first:
        monkeypatch.setattr(transport, "BATCH", 1)
        assert first.ask("ATRN").startswith("250")
        with host.logged_in() as second:
            assert second.ask("ATRN").startswith("451 4.3.0")
    wait_until(lambda: Event.objects.filter(rule="turn_unable").exists())
