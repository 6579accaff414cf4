"""What TLS a hop must be like, over real sockets: DANE, MTA-STS, implicit TLS, and what is told of each session."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from accounts.dns.base import Tlsa
from queue.outcome import Kind, Outcome
from queue.tests.authority import Issued, root, self_signed
from queue.tests.outbound import SHORT, TO, Run, job, on_both_loops, options
from queue.tests.peers import Close, Last, Peer, Raw, Say, Silence
from queue.transports.base import Relay, Route
from queue.transports.noting import SessionResult
from queue.transports.options import Timeouts
from queue.transports.smtp import SmtpTransport
from queue.transports.tls import (
    MTA_STS,
    OPPORTUNISTIC,
    TlsDemand,
    TlsPolicy,
    chosen,
    dane,
    sts_testing,
    unauthenticated,
)

pytestmark = on_both_loops

AUTHORITY = root()
GOOD = AUTHORITY.issue("peer.test")
LONELY = self_signed("peer.test")
OTHER = AUTHORITY.issue("other.test")
EXPIRED = AUTHORITY.issue("peer.test", days=(-1.5, -1))
UNUSABLE = unauthenticated([Tlsa(1, 1, 1, b"x" * 32)])
SWIFT = replace(Timeouts(), tls=SHORT, command=SHORT)


def ee(issued: Issued) -> TlsDemand:
    return dane((Tlsa(3, 1, 1, hashlib.sha256(issued.spki).digest()),), ("peer.test",))


def ta(issued: Issued, *names: str) -> TlsDemand:
    return dane((Tlsa(2, 0, 1, hashlib.sha256(issued.der).digest()),), names or ("peer.test",))


class Line:
    """One transport with its notes, delivering to scripted peers under a demand."""

    def __init__(self, **changes: Any) -> None:
        self.notes: list[SessionResult] = []
        self.transport = SmtpTransport(options(verified_tls=AUTHORITY.trusting(), **changes), self.notes.append)

    async def deliver(self, demand: TlsDemand | None, *peers: Peer, relay: Relay | None = None) -> Outcome:
        hops = [replace(peer.hop, tls=demand) for peer in peers]
        domain = "" if relay else "example.net"
        return (await self.transport.deliver(job(), Route(hops, relay, domain)))[TO]

    @property
    def results(self) -> list[tuple[str, str]]:
        return [(note.policy_type, note.result) for note in self.notes]


def outcome_under(run: Run, demand: TlsDemand, peer: Peer, **changes: Any) -> tuple[Outcome, list[tuple[str, str]]]:
    async def body() -> tuple[Outcome, list[tuple[str, str]]]:
        async with peer.run():
            line = Line(**changes)
            outcome = await line.deliver(demand, peer)
            await line.transport.close()
        return outcome, line.results

    return run(body())


@pytest.mark.parametrize(
    ("demand", "server"),
    [
        (MTA_STS, GOOD.server()),
        (ee(GOOD), GOOD.server()),
        (ee(LONELY), LONELY.server()),
        (ee(EXPIRED), EXPIRED.server()),
        (ee(OTHER), OTHER.server()),
        (ta(AUTHORITY), GOOD.server(AUTHORITY)),
        (ta(AUTHORITY, "elsewhere.test", "other.test"), OTHER.server(AUTHORITY)),
    ],
)
def test_a_peer_that_proves_who_it_is_gets_the_mail(run: Run, demand: TlsDemand, server: ssl.SSLContext) -> None:
    outcome, results = outcome_under(run, demand, peer := Peer(tls=server))
    assert (outcome.kind, outcome.tls_policy, outcome.is_verified) == (Kind.DELIVERED, demand.rule, True)
    assert peer.messages[0].tls and outcome.tls
    assert results == [("tlsa" if demand.rule == "dane" else "sts", "")]


@pytest.mark.parametrize(
    ("demand", "server", "result"),
    [
        (MTA_STS, LONELY.server(), "certificate-not-trusted"),
        (MTA_STS, OTHER.server(), "certificate-host-mismatch"),
        (MTA_STS, EXPIRED.server(), "certificate-expired"),
        (MTA_STS, AUTHORITY.issue(common_name="peer.test").server(), "certificate-host-mismatch"),
        (ee(LONELY), GOOD.server(), "certificate-not-trusted"),
        (ta(AUTHORITY), GOOD.server(), "certificate-not-trusted"),  # the issuer is not shown
        (ta(AUTHORITY), OTHER.server(AUTHORITY), "certificate-host-mismatch"),
        (ta(AUTHORITY), EXPIRED.server(AUTHORITY), "certificate-expired"),
    ],
)
def test_who_does_not_gets_nothing_and_nothing_in_clear(
    run: Run, demand: TlsDemand, server: ssl.SSLContext, result: str
) -> None:
    outcome, results = outcome_under(run, demand, peer := Peer(tls=server))
    assert (outcome.kind, outcome.enhanced_code, outcome.tls_policy) == (Kind.DEFERRED, "4.7.5", demand.rule)
    assert "certificate" in outcome.reply and not outcome.is_verified
    assert (peer.messages, peer.connections) == ([], 1)
    assert not any(command.startswith("MAIL") for command in peer.commands)
    assert results == [("tlsa" if demand.rule == "dane" else "sts", result)]


@pytest.mark.parametrize("demand", [MTA_STS, ee(GOOD), UNUSABLE], ids=lambda demand: demand.rule)
@pytest.mark.parametrize("starttls", [None, "454 4.7.0 not now"])
def test_who_offers_no_tls_gets_nothing_under_a_policy(run: Run, demand: TlsDemand, starttls: str | None) -> None:
    peer = Peer() if starttls is None else Peer(extensions=["STARTTLS"], starttls=[starttls])
    outcome, results = outcome_under(run, demand, peer)
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.4")
    assert "STARTTLS" in outcome.reply
    assert (peer.messages, peer.connections, peer.commands[-1]) == ([], 1, "QUIT")
    assert [result for _, result in results] == ["starttls-not-supported"]


@pytest.mark.parametrize("demand", [MTA_STS, ee(GOOD), UNUSABLE], ids=lambda demand: demand.rule)
@pytest.mark.parametrize(
    "answer",
    [Last("220 go"), Silence(), Close(), Raw(b"220 go\r\nnot TLS at all\r\n"), Last("220 go\r\n250 and I go on\r\n")],
    ids=["closes", "silent", "closes at once", "garbage", "injects and closes"],
)
def test_starttls_that_comes_to_nothing_is_no_way_round_a_policy(run: Run, demand: TlsDemand, answer: Say) -> None:
    peer = Peer(extensions=["STARTTLS"], starttls=[answer])
    outcome, _ = outcome_under(run, demand, peer, timeouts=SWIFT)
    assert outcome.kind is Kind.DEFERRED
    assert (peer.messages, peer.connections) == ([], 1)


def test_silence_after_the_consent_to_starttls_ends_by_the_clock(run: Run) -> None:
    class Deaf(Peer):
        """Says `220 go` and then nothing more."""

    peer = Deaf(extensions=["STARTTLS"])  # no context: it never shakes hands, and reads what comes as lines
    outcome, results = outcome_under(run, MTA_STS, peer, timeouts=replace(Timeouts(), tls=SHORT))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert results == [("sts", "validation-failure")]


def test_unusable_records_ask_for_tls_and_for_nobodys_name(run: Run) -> None:
    outcome, results = outcome_under(run, UNUSABLE, Peer(tls=LONELY.server()))
    assert (outcome.kind, outcome.tls_policy, outcome.is_verified) == (Kind.DELIVERED, "dane-unusable", False)
    assert results == [("tlsa", "tlsa-invalid")]


@pytest.mark.parametrize(
    ("demand", "server", "connections", "result"),
    [
        (sts_testing(), GOOD.server(), 1, ""),
        (sts_testing(), LONELY.server(), 2, "certificate-not-trusted"),
        (sts_testing(), OTHER.server(), 2, "certificate-host-mismatch"),
        (sts_testing("not named"), GOOD.server(), 2, "validation-failure"),
        (sts_testing(), None, 1, "starttls-not-supported"),
    ],
)
def test_a_policy_in_testing_is_told_of_and_the_mail_goes_on(
    run: Run, demand: TlsDemand, server: ssl.SSLContext | None, connections: int, result: str
) -> None:
    outcome, results = outcome_under(run, demand, peer := Peer(tls=server))
    assert (outcome.kind, outcome.tls_policy) == (Kind.DELIVERED, "mta-sts-testing")
    assert outcome.is_verified is (result == "")
    assert bool(outcome.tls) is (server is not None)
    assert peer.connections == connections
    assert results == [("sts", result)]


@pytest.mark.parametrize("demand", [OPPORTUNISTIC, None])
def test_opportunistic_tls_takes_any_certificate_and_goes_in_clear_without(run: Run, demand: TlsDemand | None) -> None:
    async def body() -> None:
        line = Line()
        peers = [Peer(tls=LONELY.server()), Peer(tls=EXPIRED.server()), Peer()]
        for peer in peers:
            async with peer.run():
                outcome = await line.deliver(demand, peer)
            assert (outcome.kind, outcome.tls_policy, outcome.is_verified) == (Kind.DELIVERED, "opportunistic", False)
        await line.transport.close()
        assert [result for _, result in line.results] == ["", "", "starttls-not-supported"]
        assert {kind for kind, _ in line.results} == {"no-policy-found"}

    run(body())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_too_old_is_no_tls(run: Run) -> None:
    """TLS 1.0 (RFC 8996): in clear where that will do, else nothing."""
    old = LONELY.server(newest=ssl.TLSVersion.TLSv1)
    outcome, results = outcome_under(run, OPPORTUNISTIC, peer := Peer(tls=old))
    assert (outcome.kind, outcome.tls, peer.connections) == (Kind.DELIVERED, "", 2)
    assert results == [("no-policy-found", "validation-failure")]
    outcome, _ = outcome_under(run, ee(LONELY), peer := Peer(tls=old))
    assert (outcome.kind, peer.messages) == (Kind.DEFERRED, [])


def test_the_next_host_gets_what_the_first_is_not_fit_for(run: Run) -> None:
    async def body() -> None:
        line = Line()
        async with (wrong := Peer(tls=OTHER.server())).run(), (right := Peer(tls=GOOD.server())).run():
            assert (await line.deliver(MTA_STS, wrong, right)).kind is Kind.DELIVERED
            await line.transport.close()
        assert (wrong.messages, len(right.messages)) == ([], 1)
        assert line.results == [("sts", "certificate-host-mismatch"), ("sts", "")]
        assert line.notes[0].receiving_address == line.notes[0].sending_address == "127.0.0.1"
        assert line.notes[0].mx_host == "peer.test" and line.notes[0].policy_domain == "example.net"

    run(body())


def test_a_session_that_proved_nothing_is_not_kept_for_who_wants_proof(run: Run) -> None:
    """One host for many domains, one of which has a policy: its mail must not go over the others' session."""

    async def body() -> None:
        line = Line()
        async with (peer := Peer(tls=LONELY.server())).run():
            demands: Sequence[TlsDemand | None] = (OPPORTUNISTIC, MTA_STS, ee(GOOD), ee(LONELY), OPPORTUNISTIC)
            outcomes = [await line.deliver(demand, peer) for demand in demands]
            await line.transport.close()
        assert [outcome.kind is Kind.DELIVERED for outcome in outcomes] == [True, False, False, True, True]
        assert (peer.connections, len(peer.messages)) == (4, 3)

    run(body())


def test_a_kept_session_is_one_session_in_the_figures(run: Run) -> None:
    async def body() -> None:
        line = Line()
        async with (peer := Peer(tls=GOOD.server())).run():
            for _ in range(3):
                await line.deliver(MTA_STS, peer)
            await line.transport.close()
        assert line.results == [("sts", "")]

    run(body())


# --- implicit TLS ---


class Inside(Peer):
    """Speaks TLS from the first octet, as on port 465."""

    server_tls: ssl.SSLContext | None = None

    def _listen_tls(self) -> ssl.SSLContext | None:
        return self.server_tls


def inside(issued: Issued, **script: Any) -> Inside:
    peer = Inside(**script)
    peer.server_tls = issued.server()
    return peer


IMPLICIT = chosen(TlsPolicy.IMPLICIT)
ACCOUNT = Relay("the smarthost", "us", "secret")


def test_a_smarthost_may_speak_tls_from_the_first_octet(run: Run) -> None:
    async def body() -> None:
        line = Line()
        async with (peer := inside(GOOD, extensions=["AUTH PLAIN", "PIPELINING"])).run():
            outcome = await line.deliver(IMPLICIT, peer, relay=ACCOUNT)
            await line.transport.close()
        assert (outcome.kind, outcome.tls_policy, outcome.is_verified) == (Kind.DELIVERED, "implicit", True)
        assert peer.commands[:2] == ["EHLO mail.example.org", "AUTH PLAIN AHVzAHNlY3JldA=="]
        assert line.notes == []  # a relay is nobody's figure

    run(body())


@pytest.mark.parametrize("issued", [LONELY, OTHER, EXPIRED])
def test_its_certificate_must_be_good(run: Run, issued: Issued) -> None:
    outcome, _ = outcome_under(run, IMPLICIT, peer := inside(issued))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert (peer.commands, peer.messages) == ([], [])


def test_a_peer_that_speaks_in_clear_there_gets_nothing(run: Run) -> None:
    outcome, _ = outcome_under(run, IMPLICIT, peer := Peer(), timeouts=SWIFT)
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert peer.messages == []


# --- partial answers ---


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
def test_of_three_recipients_only_the_one_refused_for_now_comes_again(run: Run, extensions: list[str]) -> None:
    async def body() -> tuple[Peer, Mapping[str, Outcome]]:
        async with (peer := Peer(extensions=extensions, rcpt=["250 ok", "450 4.2.0 greylisted", "250 ok"])).run():
            transport = SmtpTransport(options())
            outcomes = await transport.deliver(job("a@x.test", "b@x.test", "c@x.test"), Route([peer.hop]))
            await transport.close()
        return peer, outcomes

    peer, outcomes = run(body())
    assert [outcomes[f"{name}@x.test"].kind for name in "abc"] == [Kind.DELIVERED, Kind.DEFERRED, Kind.DELIVERED]
    assert [message.recipients for message in peer.messages] == [("a@x.test", "c@x.test")]
