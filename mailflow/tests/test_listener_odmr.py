"""The ODMR port: hosts log in with CRAM-MD5, users with a password over TLS (RFC 2645 §5.1, RFC 2195, RFC 4954)."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator
from typing import Any

import pytest

from accounts import odmr
from accounts.models import Domain, OdmrSecret, User
from accounts.tests.ports import free_port
from mailflow.handoff import MemoryHandoff
from mailflow.limits import rules
from mailflow.listener.server import Listener
from mailflow.models import Event
from mailflow.tests.test_listener import plain
from mailflow.tests.wire import Client, running_listener, until

pytestmark = pytest.mark.django_db(transaction=True)

DOMAIN = "dialup.example"


@pytest.fixture
def secret(alice: User) -> str:
    assert alice.organization is not None
    domain = Domain.objects.create(name=DOMAIN, organization=alice.organization, is_trusted=True, delivery="dial_up")
    return odmr.make(domain, actor="tests")


@pytest.fixture
def served(secret: str, memory_handoff: MemoryHandoff, settings: Any) -> Iterator[Listener]:
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.SMTP_HOSTNAME = "mail.example.com"
    settings.ODMR_PORT = free_port()
    with running_listener() as listener:
        yield listener


@pytest.fixture
def client(served: Listener) -> Iterator[Client]:
    with at_odmr(served) as found:
        found.ask("EHLO host.dialup.example")
        yield found


def at_odmr(listener: Listener) -> Client:
    return Client(listener.ports[-1])  # type: ignore[attr-defined]


def response(challenge: str, name: str, secret: str) -> str:
    text = base64.b64decode(challenge.removeprefix("334 "))
    return base64.b64encode(f"{name} {hmac.digest(secret.encode(), text, 'md5').hex()}".encode()).decode()


def log_in(client: Client, name: str, secret: str) -> str:
    return client.ask(response(client.ask("AUTH CRAM-MD5"), name, secret))


def from_afar(listener: Listener) -> None:
    listener.is_loopback = lambda client_address: False  # type: ignore[method-assign]


def test_a_host_logs_in_with_its_secret_over_a_line_in_clear(served: Listener, secret: str) -> None:
    from_afar(served)
    with at_odmr(served) as client:
        assert "250-AUTH CRAM-MD5\n" in client.ask("EHLO x")
        assert "AUTH" in client.ask("HELP")
        assert client.ask("AUTH PLAIN " + plain("alice", "correct horse")).startswith("538 5.7.11")
        assert log_in(client, DOMAIN, secret) == "235 2.7.0 Authentication successful"
        assert client.ask("ATRN").startswith("453 4.0.0")
    until(lambda: OdmrSecret.objects.get().last_used_at is not None)


def test_to_loopback_and_over_tls_passwords_are_offered_too(client: Client) -> None:
    assert "250-AUTH CRAM-MD5 PLAIN LOGIN\n" in client.ask("EHLO x")
    assert client.ask("AUTH PLAIN " + plain("alice", "correct horse")).startswith("235")


def test_the_challenge_is_a_message_id_of_ours_and_new_each_time(served: Listener) -> None:
    seen = set()
    for _ in range(3):
        with at_odmr(served) as client:
            client.ask("EHLO x")
            text = base64.b64decode(client.ask("auth cram-md5").removeprefix("334 "), validate=True).decode()
            assert re.fullmatch(r"<[0-9a-f]{32}\.[0-9]{19}@mail\.example\.com>", text)
            seen.add(text)
    assert len(seen) == 3


def test_an_answer_to_another_sessions_challenge_is_wrong(served: Listener, secret: str) -> None:
    with at_odmr(served) as first, at_odmr(served) as second:
        answers = []
        for client in (first, second):
            client.ask("EHLO x")
            answers.append(response(client.ask("AUTH CRAM-MD5"), DOMAIN, secret))
        assert second.ask(answers[0]).startswith("535 5.7.8")
        assert first.ask(answers[0]).startswith("235")


@pytest.mark.parametrize("name", [DOMAIN, "unknown.example", "alice", "a b"])
def test_a_wrong_answer_is_one_whoever_it_is_for(client: Client, name: str) -> None:
    assert log_in(client, name, "wrong") == "535 5.7.8 Authentication credentials invalid"
    until(lambda: Event.objects.filter(kind="auth_failed", actor=name).exists())


def test_a_users_password_answers_no_challenge(client: Client) -> None:
    assert log_in(client, "alice", "correct horse").startswith("535 5.7.8")


def test_the_secret_is_no_password(client: Client, secret: str) -> None:
    assert client.ask("AUTH PLAIN " + plain(DOMAIN, secret)).startswith("535 5.7.8")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["AUTH CRAM-MD5", "*"], "501 5.7.0"),
        (["AUTH CRAM-MD5 eA=="], "501 5.7.0"),
        (["AUTH CRAM-MD5", "no base64!"], "501 5.5.2"),
        (["AUTH CRAM-MD5", base64.b64encode(b"nospace").decode()], "501 5.5.2"),
        (["AUTH CRAM-MD5", base64.b64encode(b" digest").decode()], "501 5.5.2"),
        (["AUTH CRAM-MD5", base64.b64encode(b"\xff x").decode()], "501 5.5.2"),
        (["AUTH CRAM-MD5", "QUFB" * 400], "500 5.5.6"),
        (["AUTH DIGEST-MD5"], "504 5.5.4"),
    ],
)
def test_what_is_no_answer_is_told_as_for_the_other_mechanisms(client: Client, lines: list[str], expected: str) -> None:
    for line in lines[:-1]:
        assert client.ask(line).startswith("334 ")
    assert client.ask(lines[-1]).startswith(expected)
    assert client.ask("NOOP").startswith("250")


def test_three_wrong_answers_end_the_session(client: Client) -> None:
    for _ in range(2):
        log_in(client, DOMAIN, "wrong")
    assert log_in(client, DOMAIN, "wrong").startswith("535")
    assert client.reply().startswith("421 4.7.0") and client.is_closed()


def test_wrong_answers_count_for_the_hourly_limits(secret: str, memory_handoff: MemoryHandoff, settings: Any) -> None:
    settings.SMTP_RATE_LIMIT_EXEMPT = []
    settings.SMTP_RATE_LIMIT_AUTH_FAILURES = 2
    settings.SMTP_TARPIT_SECONDS = 0
    settings.SMTP_PORT = settings.SMTPS_PORT = 0
    settings.ODMR_PORT = free_port()
    assert rules.from_settings().auth_failures.limit == 2
    with running_listener() as listener, at_odmr(listener) as client:
        client.ask("EHLO x")
        for _ in range(2):
            assert log_in(client, DOMAIN, "wrong").startswith("535")
        assert log_in(client, DOMAIN, secret).startswith("421 4.7.0")


def test_a_secret_whose_key_is_lost_is_our_trouble_and_not_the_hosts(client: Client, secret: str) -> None:
    OdmrSecret.objects.update(sealed="AQ==")
    assert log_in(client, DOMAIN, secret).startswith("454 4.7.0")


def test_after_a_login_there_is_no_other(client: Client, secret: str) -> None:
    log_in(client, DOMAIN, secret)
    assert client.ask("AUTH CRAM-MD5").startswith("503 5.5.1")


def test_no_other_port_has_challenges(served: Listener, secret: str) -> None:
    with Client(served.ports[0]) as client:  # type: ignore[attr-defined]
        assert "CRAM-MD5" not in client.ask("EHLO x")
        assert client.ask("AUTH CRAM-MD5").startswith("504 5.5.4")


def test_where_auth_is_off_there_are_none(served: Listener) -> None:
    served.auth_enabled = False
    with at_odmr(served) as client:
        assert "AUTH" not in client.ask("EHLO x")
        assert client.ask("AUTH CRAM-MD5").startswith("502 5.5.1")


def test_asking_again_and_again_where_nothing_waits_has_an_end(client: Client, secret: str) -> None:
    log_in(client, DOMAIN, secret)
    replies = [client.ask("ATRN") for _ in range(100)]
    assert replies[0].startswith("453")
    assert any(reply.startswith("421") for reply in [*replies, client.reply()])
