from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from queue.outcome import Kind, Outcome
from queue.tests.authority import self_signed
from queue.tests.outbound import (
    SHORT,
    TO,
    Run,
    job,
    on_both_loops,
    options,
    outcome_at,
)
from queue.tests.peers import Close, Last, Peer, Raw, Say, Silence
from queue.transports.base import Relay, Route
from queue.transports.options import Timeouts
from queue.transports.smtp import SmtpTransport
from queue.transports.tls import TlsPolicy, chosen

pytestmark = on_both_loops


# --- TLS ---


class Certificate:
    """A self-signed certificate for peer.test, with what server and client need of it."""

    def __init__(self) -> None:
        self.issued = self_signed("peer.test")
        self.server = self.issued.server()
        self.trusting = self.issued.trusting()


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return Certificate()


def test_starttls_is_used_where_offered_whoever_signed_the_certificate(run: Run, certificate: Certificate) -> None:
    outcome = run(outcome_at(peer := Peer(tls=certificate.server)))
    assert outcome.kind is Kind.DELIVERED
    assert re.fullmatch(r"TLSv1\.[23] [A-Z0-9_-]+", outcome.tls)
    assert peer.messages[0].tls
    assert [command[:4] for command in peer.commands] == ["EHLO", "STAR", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


def test_the_policy_never_sends_in_clear(run: Run, certificate: Certificate) -> None:
    outcome = run(outcome_at(peer := Peer(tls=certificate.server), default_tls=TlsPolicy.NEVER))
    assert (outcome.kind, outcome.tls) == (Kind.DELIVERED, "")
    assert "STARTTLS" not in peer.commands


def test_what_was_put_in_clear_before_the_handshake_is_forgotten(run: Run, certificate: Certificate) -> None:
    injected = "220 go\r\n250-peer.test\r\n250 AUTH PLAIN\r\n250 ok\r\n550 5.7.1 injected"
    outcome = run(outcome_at(peer := Peer(tls=certificate.server, starttls=[injected])))
    assert (outcome.kind, outcome.code) == (Kind.DELIVERED, 250)
    assert outcome.tls
    assert peer.connections == 1


@pytest.mark.parametrize(
    "answer", ["454 4.7.0 not now", "220 go", Last("220 go"), Silence(), Close(), Raw(b"220 go\r\nnot TLS at all\r\n")]
)
def test_starttls_that_comes_to_nothing_falls_back_to_clear_or_defers(run: Run, answer: Say) -> None:
    peer = Peer(extensions=["STARTTLS"], starttls=[answer])
    is_silent = isinstance(answer, Silence)  # else it may take its time for the commands
    timeouts = replace(Timeouts(), command=SHORT) if is_silent else replace(Timeouts(), tls=SHORT)
    outcome = run(outcome_at(peer, timeouts=timeouts))
    if isinstance(answer, Silence | Close):
        assert outcome.kind is Kind.DEFERRED  # the line broke before any handshake: nothing says that TLS is at fault
    else:
        assert (outcome.kind, outcome.tls) == (Kind.DELIVERED, "")


def test_required_tls_delivers_to_the_right_certificate_only(run: Run, certificate: Certificate) -> None:
    strict: dict[str, Any] = {"default_tls": TlsPolicy.REQUIRED, "verified_tls": certificate.trusting}
    assert run(outcome_at(Peer(tls=certificate.server), **strict)).tls

    async def by_another_name() -> Outcome:
        async with (peer := Peer(tls=certificate.server)).run():
            transport = SmtpTransport(options(**strict))
            hop = replace(peer.hop, host="other.test")
            outcome = (await transport.deliver(job(), Route([hop])))[TO]
            assert not peer.messages
            assert peer.connections == 1
            return outcome

    outcome = run(by_another_name())
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert "certificate" in outcome.reply
    untrusted = run(outcome_at(Peer(tls=certificate.server), default_tls=TlsPolicy.REQUIRED))
    assert (untrusted.kind, untrusted.enhanced_code) == (Kind.DEFERRED, "4.7.5")


@pytest.mark.parametrize("peer", [Peer(), Peer(extensions=["STARTTLS"], starttls=["454 4.7.0 not now"])])
def test_required_tls_that_cannot_be_had_defers(run: Run, peer: Peer) -> None:
    outcome = run(outcome_at(peer, default_tls=TlsPolicy.REQUIRED))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.4")
    assert not peer.messages
    assert peer.commands[-1] == "QUIT"


# --- the smarthost ---


ELSEWHERE = "0.0.0.0"  # this host too, and by its number no loopback address


async def by_smarthost(
    peer: Peer,
    address: str = "127.0.0.1",
    *,
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC,
    username: str = "us",
    password: str = "secret",  # noqa: S107
    **changes: Any,
) -> Outcome:
    async with peer.run():
        transport = SmtpTransport(options(**changes))
        hop = replace(peer.hop, address=address, tls=chosen(tls))
        outcomes = await transport.deliver(job(), Route([hop], Relay("RELAY_HOST", username, password)))
        await transport.close()
    return outcomes[TO]


def test_the_smarthost_is_told_our_name_and_password(run: Run, certificate: Certificate) -> None:
    peer = Peer(tls=certificate.server, extensions=["AUTH PLAIN LOGIN"])
    assert run(by_smarthost(peer)).kind is Kind.DELIVERED
    assert "AUTH PLAIN AHVzAHNlY3JldA==" in peer.commands
    assert "MAIL FROM:<from@example.org> AUTH=<>" in peer.commands  # RFC 4954 §5
    peer = Peer(extensions=["AUTH=LOGIN"], auth=["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 welcome"])
    assert run(by_smarthost(peer)).kind is Kind.DELIVERED
    assert peer.commands[1:4] == ["AUTH LOGIN", "dXM=", "c2VjcmV0"]


def test_a_password_too_long_for_one_line_follows_on_the_next(run: Run) -> None:
    peer = Peer(extensions=["AUTH PLAIN"], auth=["334 ", "235 welcome"])
    assert run(by_smarthost(peer, password="p" * 600)).kind is Kind.DELIVERED
    assert peer.commands[1] == "AUTH PLAIN"


@pytest.mark.parametrize(
    "peer",
    [
        Peer(extensions=["AUTH PLAIN"], auth=["535 5.7.8 wrong"]),
        Peer(extensions=["AUTH LOGIN"], auth=["334 a", "334 b", "535 5.7.8 wrong"]),
        Peer(extensions=["AUTH CRAM-MD5"]),
        Peer(extensions=[]),
    ],
)
def test_a_smarthost_that_does_not_let_us_in_defers_the_mail(run: Run, peer: Peer) -> None:
    outcome = run(by_smarthost(peer))
    assert outcome.kind is Kind.DEFERRED
    assert "RELAY_HOST" in outcome.reply
    assert "secret" not in outcome.reply
    assert not peer.messages
    assert peer.commands[-1] == "QUIT"  # RFC 5321 §4.1.1.10


def test_an_exchange_that_does_not_end_is_cancelled(run: Run) -> None:
    peer = Peer(extensions=["AUTH LOGIN"], auth=["334 a", "334 b", "334 more?", "501 5.7.0 cancelled"])
    assert run(by_smarthost(peer)).kind is Kind.DEFERRED
    assert peer.commands[-2:] == ["*", "QUIT"]


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
def test_the_password_goes_over_verified_tls(run: Run, certificate: Certificate, policy: TlsPolicy) -> None:
    peer = Peer(tls=certificate.server, extensions=["AUTH PLAIN"])
    changes: dict[str, Any] = {"tls": policy, "verified_tls": certificate.trusting}
    assert run(by_smarthost(peer, ELSEWHERE, **changes)).kind is Kind.DELIVERED
    assert "AUTH PLAIN AHVzAHNlY3JldA==" in peer.commands


def test_the_password_goes_to_no_host_whose_certificate_is_not_its_own(run: Run, certificate: Certificate) -> None:
    """RFC 4954 §14, with opportunistic TLS too: neither over TLS to who knows whom, nor then in clear."""
    peer = Peer(tls=certificate.server, extensions=["AUTH PLAIN"])
    outcome = run(by_smarthost(peer, ELSEWHERE))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert "certificate" in outcome.reply and "password" in outcome.reply
    assert peer.connections == 1
    assert peer.commands == ["EHLO mail.example.org", "STARTTLS"]


@pytest.mark.parametrize(
    ("policy", "words"), [(TlsPolicy.OPPORTUNISTIC, "offers no TLS"), (TlsPolicy.NEVER, "TLS is switched off")]
)
def test_the_password_never_goes_in_clear(run: Run, policy: TlsPolicy, words: str) -> None:
    peer = Peer(extensions=["AUTH PLAIN"])
    outcome = run(by_smarthost(peer, ELSEWHERE, tls=policy))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.11")
    assert words in outcome.reply and "RELAY_HOST" in outcome.reply
    assert not any(command.startswith("AUTH") for command in peer.commands)
    assert peer.commands[-1] == "QUIT"


def test_without_a_password_any_certificate_of_the_smarthost_will_do(run: Run, certificate: Certificate) -> None:
    assert run(by_smarthost(Peer(tls=certificate.server), ELSEWHERE, username="")).tls


def test_a_smarthost_that_wants_credentials_first_bounces_nothing(run: Run) -> None:
    assert run(by_smarthost(Peer(mail=["530 5.7.0 log in first"]), username="")).kind is Kind.DEFERRED


def test_accounts_at_one_host_do_not_share_sessions_nor_does_plain_mail(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(extensions=["AUTH PLAIN"])).run():
            transport = SmtpTransport(options())
            relays = [Relay("one", "us", "secret"), Relay("two", "them", "secret"), Relay("three", "us", "other"), None]
            for relay in [*relays, *relays]:
                await transport.deliver(job(), Route([peer.hop], relay))
            await transport.close()
        assert (peer.connections, len(peer.messages)) == (4, 8)
        assert sum(command.startswith("AUTH") for command in peer.commands) == 3

    run(body())


def test_the_smarthost_may_stand_in_a_private_network(run: Run) -> None:
    outcome = run(by_smarthost(Peer(extensions=["AUTH PLAIN"]), allowed_networks=()))
    assert outcome.kind is Kind.DELIVERED


def test_a_large_message_arrives_over_a_slow_line_and_over_tls(run: Run, certificate: Certificate) -> None:
    content = b"".join(b".%07d a line that begins with a dot\r\n" % number for number in range(120_000))
    for tls in (None, certificate.server):
        assert run(outcome_at(peer := Peer(tls=tls), job(content=content))).kind is Kind.DELIVERED
        assert peer.messages[0].content == content
