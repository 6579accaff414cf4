"""The limits as clients meet them, over real sockets; by network, account and user name too (contract §2)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from accounts.models import User
from mailflow import counters
from mailflow.handoff import MemoryHandoff
from mailflow.listener import conduct
from mailflow.listener.server import Listener
from mailflow.models import Counter, Event
from mailflow.tests.test_listener import connect, plain, send_mail
from mailflow.tests.wire import Client, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)

AUTH = "AUTH PLAIN " + plain("alice", "correct horse")


@contextmanager
def limited(settings: Any, **limits: int) -> Iterator[Listener]:
    """A listener whose client is not exempt from the limits: these, and else none."""
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    settings.SMTP_TARPIT_SECONDS = 0
    for name in ("CONNECTIONS", "COMMANDS", "MESSAGES", "AUTH_FAILURES"):
        setattr(settings, f"SMTP_RATE_LIMIT_{name}", 0)
    for name, limit in limits.items():
        setattr(settings, name, limit)
    with running_listener() as running:
        yield running


@pytest.mark.parametrize(
    ("name", "commands", "expected", "rule"),
    [
        ("CONNECTIONS", [], "", "limit.connections"),
        ("COMMANDS", ["NOOP", "NOOP", "NOOP"], "421 4.7.0", "limit.commands"),
        ("MESSAGES", ["EHLO x", *["MAIL FROM:<a@b.example>", "RSET"] * 2, "MAIL FROM:<a@b.example>"], "450 4.7.1",
         "limit.messages"),
        ("AUTH_FAILURES", ["EHLO x", *["AUTH PLAIN " + plain("alice", "guess")] * 2, AUTH], "421 4.7.0",
         "limit.auth_failures"),
        ("SENDER_MESSAGES", ["EHLO x", *["MAIL FROM:<a@b.example>", "RSET"] * 2, "MAIL FROM:<A@b.example>"],
         "450 4.7.1", "limit.sender_messages"),
        ("ACCOUNT_MESSAGES", ["EHLO x", AUTH, *["MAIL FROM:<alice@example.com>", "RSET"] * 2,
                              "MAIL FROM:<alice@example.com>"], "450 4.7.1", "limit.account_messages"),
    ],
)  # fmt: skip
def test_over_a_limit_the_reply_is_temporary_and_the_event_names_it(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any,
    name: str, commands: list[str], expected: str, rule: str,
) -> None:  # fmt: skip
    with limited(settings, **{f"SMTP_RATE_LIMIT_{name}": 2}) as listener:
        if not commands:
            for _ in range(2):
                with connect(listener) as client:
                    assert client.greeting.startswith("220")
            with connect(listener) as client:
                assert client.greeting.startswith("421 4.7.0")
        else:
            with connect(listener) as client:
                assert [client.ask(command) for command in commands][-1].startswith(expected)
        until(lambda: Event.objects.filter(rule=rule).exists())
        event = Event.objects.get(rule=rule)
        assert event.client_address == "127.0.0.1"
        assert f"SMTP_RATE_LIMIT_{name}" in event.summary


def test_strangers_who_write_as_an_account_cost_it_none_of_its_mail(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    with limited(settings, SMTP_RATE_LIMIT_SENDER_MESSAGES=2) as listener:
        with connect(listener) as stranger:
            stranger.ask("EHLO x")
            answers = [stranger.ask(text)[:3] for text in ["MAIL FROM:<alice@example.com>", "RSET"] * 3]
            assert answers == ["250", "250", "250", "250", "450", "250"]
        with connect(listener) as client:
            client.ask("EHLO x")
            client.ask(AUTH)
            answers = [client.ask(text)[:3] for text in ["MAIL FROM:<alice@example.com>", "RSET"] * 3]
            assert answers == ["250", "250", "250", "250", "450", "250"]


def test_who_errs_often_waits_for_each_further_answer(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    with limited(settings) as listener:
        listener.tarpit_seconds = 3600
        with connect(listener) as client:
            for _ in range(conduct.TIRESOME_COMMANDS):
                assert client.ask("NOSUCH").startswith("500")
            client.send(b"NOSUCH\r\n")
            client.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
            with connect(listener) as other:  # nobody else waits
                assert send_mail(other).startswith("250")


# --- from many addresses, which a balancer tells of -------------------------------------------------------------------


@contextmanager
def client_from(listener: Listener, address: str) -> Iterator[Client]:
    with Client(listener.ports[0], greeting=False) as client:  # type: ignore[attr-defined]
        client.send(f"PROXY TCP4 {address} 198.51.100.1 56324 25\r\n".encode())
        client.greeting = client.reply()
        yield client


@pytest.fixture
def balanced(settings: Any, transactional_db: None, alice: User, memory_handoff: MemoryHandoff) -> None:
    settings.SMTP_PROXY_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    settings.SMTP_RATE_LIMIT_NETWORK_FACTOR = 1
    settings.SMTP_AUTH_REQUIRE_TLS = False


@pytest.mark.parametrize(
    ("name", "commands", "refusal", "rule"),
    [
        ("CONNECTIONS", [], "421 4.7.0", "limit.network_connections"),
        ("COMMANDS", ["NOOP"], "421 4.7.0", "limit.network_commands"),
        ("MESSAGES", ["EHLO x", "MAIL FROM:<a@b.example>"], "450 4.7.1", "limit.network_messages"),
        ("AUTH_FAILURES", ["EHLO x", "AUTH PLAIN " + plain("alice", "guess")], "421 4.7.0",
         "limit.network_auth_failures"),
    ],
)  # fmt: skip
def test_the_addresses_of_a_network_are_counted_together_and_others_are_not(
    balanced: None, settings: Any, name: str, commands: Sequence[str], refusal: str, rule: str
) -> None:
    def said_to(listener: Listener, address: str) -> str:
        with client_from(listener, address) as client:
            return [client.greeting, *map(client.ask, commands)][-1]

    with limited(settings, **{f"SMTP_RATE_LIMIT_{name}": 2}) as listener:
        within = [said_to(listener, address) for address in ("192.0.2.1", "192.0.2.2")]
        assert not any(answer.startswith(refusal) for answer in within)
        assert said_to(listener, "192.0.2.3").startswith(refusal)
        assert not said_to(listener, "203.0.113.1").startswith(refusal)
        until(lambda: Event.objects.filter(rule=rule).exists())
        event = Event.objects.filter(rule=rule).earliest("pk")
        assert event.client_address == "192.0.2.3" and "192.0.2.0/24" in event.summary


def test_a_name_that_many_addresses_guess_at_is_looked_at_no_more(balanced: None, settings: Any) -> None:
    """Nor is it from an address that has guessed nothing, even with the right password (docs/adr/0009)."""
    with limited(settings, SMTP_RATE_LIMIT_USER_NAME_AUTH_FAILURES=3) as listener:
        for number in range(3):
            with client_from(listener, f"192.0.{number}.1") as client:
                client.ask("EHLO x")
                assert client.ask("AUTH PLAIN " + plain("alice", "guess")).startswith("535 5.7.8")
        with client_from(listener, "203.0.113.1") as client:
            client.ask("EHLO x")
            assert client.ask(AUTH).startswith("421 4.7.0")
        with client_from(listener, "203.0.113.1") as client:
            client.ask("EHLO x")
            assert client.ask("AUTH PLAIN " + plain("bob", "guess")).startswith("535 5.7.8")
        until(lambda: Event.objects.filter(rule="limit.user_name_auth_failures").exists())


def test_the_commands_of_an_account_are_counted_together_wherever_it_comes_from(balanced: None, settings: Any) -> None:
    with limited(settings, SMTP_RATE_LIMIT_ACCOUNT_COMMANDS=4) as listener:
        with client_from(listener, "192.0.2.1") as client:
            client.ask("EHLO x")
            assert client.ask(AUTH).startswith("235")
            assert [client.ask("NOOP")[:3] for _ in range(2)] == ["250"] * 2
        with client_from(listener, "203.0.113.1") as client:
            client.ask("EHLO x")
            client.ask(AUTH)
            answers = [client.ask("NOOP") for _ in range(3)]
            assert answers[-1].startswith("421 4.7.0") and answers[0].startswith("250")
        until(lambda: Event.objects.filter(rule="limit.account_commands").exists())
        assert Event.objects.get(rule="limit.account_commands").actor == "alice"


# --- names in other scripts -------------------------------------------------------------------------------------------


def test_an_account_in_another_script_logs_in_by_its_address_and_sends(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    User.objects.create_user("用户", "用户@例え.jp", "密码 пароль", organization=alice.organization)
    with limited(settings) as listener, connect(listener) as client:
        client.ask("EHLO x")
        for name in ("用户@例え.jp", "用户@xn--r8jz45g.jp", "用户"):
            with connect(listener) as again:
                again.ask("EHLO x")
                assert again.ask("AUTH PLAIN " + plain(name, "密码 пароль")).startswith("235"), name
        assert client.ask("AUTH PLAIN " + plain("用户@例え.jp", "密码 пароль")).startswith("235")
        assert client.ask("MAIL FROM:<用户@例え.jp> SMTPUTF8").startswith("250")
        assert client.ask("RCPT TO:<someone@foreign.example>").startswith("250")
        client.ask("DATA")
        client.send("From: 用户@例え.jp\r\nSubject: 你好\r\n\r\n你好\r\n.\r\n".encode())
        assert client.reply().startswith("250")
    (accepted,) = memory_handoff.accepted
    assert accepted.envelope.reverse_path_text == "用户@xn--r8jz45g.jp" and accepted.envelope.is_smtputf8
    assert isinstance(accepted.content, bytes) and "From: 用户@例え.jp".encode() in accepted.content


def test_connections_over_the_limit_count_as_rejected(
    transactional_db: None, alice: User, memory_handoff: MemoryHandoff, settings: Any
) -> None:
    with limited(settings, SMTP_RATE_LIMIT_CONNECTIONS=1) as listener:
        for expected in ("220", "421", "421"):
            with connect(listener) as client:
                assert client.greeting.startswith(expected)
        counters.flush()
    assert Counter.objects.get(name="smtp.connections.rejected").value == 2
