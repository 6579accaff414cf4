from __future__ import annotations

import datetime as dt
import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from queue.outcome import Kind, Outcome
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
from queue.transports.base import Route
from queue.transports.options import Timeouts, TlsPolicy
from queue.transports.smtp import SmtpTransport

pytestmark = on_both_loops


# --- TLS ---


class Certificate:
    """A self-signed certificate for peer.test, with what server and client need of it."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer.test")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("peer.test")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = folder / "peer.pem"
        path.write_bytes(private + self.pem)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.load_cert_chain(path)
        self.trusting = ssl.create_default_context(cadata=self.pem.decode())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


def test_starttls_is_used_where_offered_whoever_signed_the_certificate(run: Run, certificate: Certificate) -> None:
    outcome = run(outcome_at(peer := Peer(tls=certificate.server)))
    assert outcome.kind is Kind.DELIVERED
    assert re.fullmatch(r"TLSv1\.[23] [A-Z0-9_-]+", outcome.tls)
    assert peer.messages[0].tls
    assert [command[:4] for command in peer.commands] == ["EHLO", "STAR", "EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


def test_the_policy_never_sends_in_clear(run: Run, certificate: Certificate) -> None:
    outcome = run(outcome_at(peer := Peer(tls=certificate.server), direct_tls=TlsPolicy.NEVER))
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
    outcome = run(outcome_at(peer, timeouts=replace(Timeouts(), tls=SHORT, command=SHORT)))
    if isinstance(answer, Silence | Close):
        assert outcome.kind is Kind.DEFERRED  # the line broke before any handshake: nothing says that TLS is at fault
    else:
        assert (outcome.kind, outcome.tls) == (Kind.DELIVERED, "")


def test_required_tls_delivers_to_the_right_certificate_only(run: Run, certificate: Certificate) -> None:
    strict: dict[str, Any] = {"direct_tls": TlsPolicy.REQUIRED, "verified_tls": certificate.trusting}
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
    untrusted = run(outcome_at(Peer(tls=certificate.server), direct_tls=TlsPolicy.REQUIRED))
    assert (untrusted.kind, untrusted.enhanced_code) == (Kind.DEFERRED, "4.7.5")


@pytest.mark.parametrize("peer", [Peer(), Peer(extensions=["STARTTLS"], starttls=["454 4.7.0 not now"])])
def test_required_tls_that_cannot_be_had_defers(run: Run, peer: Peer) -> None:
    outcome = run(outcome_at(peer, direct_tls=TlsPolicy.REQUIRED))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.4")
    assert not peer.messages
    assert peer.commands[-1] == "QUIT"


# --- the smarthost ---


ELSEWHERE = "0.0.0.0"  # this host too, and by its number no loopback address


async def by_smarthost(peer: Peer, address: str = "127.0.0.1", **changes: Any) -> Outcome:
    async with peer.run():
        transport = SmtpTransport(options(**{"username": "us", "password": "secret", **changes}))
        outcomes = await transport.deliver(job(), Route([replace(peer.hop, address=address)], smarthost=True))
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
    assert "RELAY_USERNAME" in outcome.reply
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
    changes: dict[str, Any] = {"smarthost_tls": policy, "verified_tls": certificate.trusting}
    assert run(by_smarthost(peer, ELSEWHERE, **changes)).kind is Kind.DELIVERED
    assert "AUTH PLAIN AHVzAHNlY3JldA==" in peer.commands


def test_the_password_goes_to_no_host_whose_certificate_is_not_its_own(run: Run, certificate: Certificate) -> None:
    """RFC 4954 §14, with opportunistic TLS too: neither over TLS to who knows whom, nor then in clear."""
    peer = Peer(tls=certificate.server, extensions=["AUTH PLAIN"])
    outcome = run(by_smarthost(peer, ELSEWHERE))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert "certificate" in outcome.reply and "RELAY_PASSWORD" in outcome.reply
    assert peer.connections == 1
    assert peer.commands == ["EHLO mail.example.org", "STARTTLS"]


@pytest.mark.parametrize(
    ("policy", "words"), [(TlsPolicy.OPPORTUNISTIC, "offers no TLS"), (TlsPolicy.NEVER, "RELAY_STARTTLS is never")]
)
def test_the_password_never_goes_in_clear(run: Run, policy: TlsPolicy, words: str) -> None:
    peer = Peer(extensions=["AUTH PLAIN"])
    outcome = run(by_smarthost(peer, ELSEWHERE, smarthost_tls=policy))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.11")
    assert words in outcome.reply and "RELAY_PASSWORD" in outcome.reply
    assert not any(command.startswith("AUTH") for command in peer.commands)
    assert peer.commands[-1] == "QUIT"


def test_without_a_password_any_certificate_of_the_smarthost_will_do(run: Run, certificate: Certificate) -> None:
    assert run(by_smarthost(Peer(tls=certificate.server), ELSEWHERE, username="")).tls


def test_a_smarthost_that_wants_credentials_first_bounces_nothing(run: Run) -> None:
    assert run(by_smarthost(Peer(mail=["530 5.7.0 log in first"]), username="")).kind is Kind.DEFERRED


def test_only_the_smarthost_is_told_our_password(run: Run) -> None:
    run(outcome_at(peer := Peer(extensions=["AUTH PLAIN"]), username="us", password="secret"))
    assert peer.messages and not any("AUTH" in command for command in peer.commands)


def test_the_smarthost_may_stand_in_a_private_network(run: Run) -> None:
    outcome = run(by_smarthost(Peer(extensions=["AUTH PLAIN"]), allowed_networks=()))
    assert outcome.kind is Kind.DELIVERED


def test_a_large_message_arrives_over_a_slow_line_and_over_tls(run: Run, certificate: Certificate) -> None:
    content = b"".join(b".%07d a line that begins with a dot\r\n" % number for number in range(120_000))
    for tls in (None, certificate.server):
        assert run(outcome_at(peer := Peer(tls=tls), job(content=content))).kind is Kind.DELIVERED
        assert peer.messages[0].content == content
