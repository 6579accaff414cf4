"""REQUIRETLS end to end: demanded at MAIL, kept, demanded of the next hop, or back to the sender (RFC 8689)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from accounts.dns.memory import MemoryResolver
from accounts.models import Alias, Domain, User
from mailflow.mailboxes import read_copy
from mailflow.models import FiledMessage, Message
from queue.hops import Destination
from queue.models import Attempt, Entry
from queue.mta_sts import Mode, Policy
from queue.outcome import Kind, Outcome, failed
from queue.routing import RoutingPolicy, resolve_route
from queue.smarthosts import Smarthost
from queue.tests.authority import root, self_signed
from queue.tests.conftest import open_entries, running_engine, wait_until
from queue.tests.outbound import Run, job, on_both_loops, options
from queue.tests.peers import Peer
from queue.tls_rules import PolicyRules
from queue.transports.base import Relay, Route
from queue.transports.memory import MemoryTransport
from queue.transports.smtp import SmtpTransport
from queue.transports.tls import MTA_STS, OPPORTUNISTIC, REQUIRETLS, TlsDemand, TlsPolicy, dane

Accept = Callable[..., list[int]]
AUTHORITY = root()
GOOD = AUTHORITY.issue("peer.test")
TAKES = ["REQUIRETLS", "PIPELINING"]


# --- which host will do ---


ENFORCE = Policy(Mode.ENFORCE, ("a.x.test",), 86400)
ADDRESS = "93.184.216.1"


def ask(
    policy: Policy | None = None,
    *,
    signed: set[str] | None = None,
    validates: bool = True,
    to: str = "x.test",
    **more: Any,
) -> Route | Outcome:
    resolver = MemoryResolver(
        exchangers={"x.test": [(10, "a.x.test")]}, hosts={"a.x.test": [ADDRESS]}, signed=signed or set()
    )

    async def policy_of(_domain: str) -> Policy | None:
        return policy

    rules = PolicyRules(resolver, policy_of, validates, lambda _: None)
    operator = RoutingPolicy("mail.ours.test", **more)
    return asyncio.run(resolve_route(Destination(to, requires_tls=True), resolver, operator, tls_rules=rules))


@pytest.mark.parametrize(
    ("policy", "signed"),
    [(ENFORCE, None), (replace(ENFORCE, mode=Mode.TESTING), None), (None, {"x.test"}), (None, {"x.test", "a.x.test"})],
)
def test_a_host_that_a_policy_or_dnssec_vouches_for_must_prove_itself(
    policy: Policy | None, signed: set[str] | None
) -> None:
    found = ask(policy, signed=signed)
    assert isinstance(found, Route) and found.hops[0].tls == REQUIRETLS


@pytest.mark.parametrize(
    ("policy", "signed", "validates"),
    [
        (None, None, True),
        (None, {"x.test"}, False),
        (replace(ENFORCE, mx=("b.x.test",)), None, True),
        (replace(ENFORCE, mode=Mode.NONE, mx=()), None, True),
        (replace(ENFORCE, mode=Mode.TESTING, mx=("b.x.test",)), None, True),
    ],
)
def test_one_that_nobody_vouches_for_sends_the_message_back(
    policy: Policy | None, signed: set[str] | None, validates: bool
) -> None:
    found = ask(policy, signed=signed, validates=validates)
    assert isinstance(found, Outcome)
    assert (found.kind, found.enhanced_code, found.tls_policy) == (Kind.FAILED, "5.7.10", "requiretls")


@pytest.mark.parametrize("tls", list(TlsPolicy))
def test_a_smarthost_must_prove_itself_whatever_its_setting(tls: TlsPolicy) -> None:
    found = ask(smarthost=Smarthost("a.x.test", 25, tls, Relay("it")))
    assert isinstance(found, Route)
    demand = found.hops[0].tls
    assert demand is not None and demand.weaker is None and demand.check.value == "pkix"


# --- what the host must say ---


def deliver(run: Run, demand: TlsDemand, peer: Peer, **more: Any) -> Outcome:
    async def body() -> Outcome:
        async with peer.run():
            transport = SmtpTransport(options(verified_tls=AUTHORITY.trusting()))
            hop = replace(peer.hop, tls=demand)
            outcomes = await transport.deliver(job(requires_tls=True, **more), Route([hop]))
            await transport.close()
        return next(iter(outcomes.values()))

    return run(body())


@on_both_loops
def test_a_host_that_promises_the_same_is_told_of_it(run: Run) -> None:
    outcome = deliver(run, REQUIRETLS, peer := Peer(extensions=TAKES, tls=GOOD.server()))
    assert (outcome.kind, outcome.tls_policy, outcome.is_verified) == (Kind.DELIVERED, "requiretls", True)
    assert "MAIL FROM:<from@example.org> REQUIRETLS" in peer.commands


@on_both_loops
@pytest.mark.parametrize(
    ("demand", "peer", "code"),
    [
        (REQUIRETLS, Peer(tls=GOOD.server()), "5.7.30"),
        (MTA_STS, Peer(tls=GOOD.server()), "5.7.30"),
        (REQUIRETLS, Peer(extensions=TAKES), "5.7.10"),
        (REQUIRETLS, Peer(extensions=TAKES, tls=self_signed("peer.test").server()), "5.7.10"),
        (dane((), ("peer.test",)), Peer(extensions=TAKES, tls=GOOD.server()), "5.7.10"),
        (OPPORTUNISTIC, Peer(extensions=TAKES, tls=GOOD.server()), "5.7.10"),
        (OPPORTUNISTIC, Peer(extensions=TAKES), "5.7.10"),
    ],
)
def test_one_that_does_not_or_did_not_prove_itself_gets_nothing(
    run: Run, demand: TlsDemand, peer: Peer, code: str
) -> None:
    peer.commands.clear()
    outcome = deliver(run, demand, peer)
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, code)
    assert not peer.messages and not any(command.startswith("MAIL") for command in peer.commands)


@on_both_loops
def test_another_host_may_promise_what_the_first_does_not(run: Run) -> None:
    async def body() -> None:
        async with (first := Peer(tls=GOOD.server())).run(), (other := Peer(extensions=TAKES, tls=GOOD.server())).run():
            transport = SmtpTransport(options(verified_tls=AUTHORITY.trusting()))
            hops = [replace(peer.hop, tls=REQUIRETLS) for peer in (first, other)]
            outcomes = await transport.deliver(job(requires_tls=True), Route(hops))
            await transport.close()
        assert next(iter(outcomes.values())).kind is Kind.DELIVERED
        assert (len(first.messages), len(other.messages)) == (0, 1)

    run(body())


@on_both_loops
def test_a_host_out_of_reach_is_a_reason_to_wait_and_not_to_bounce(run: Run) -> None:
    async def body() -> None:
        peer = Peer(greeting=["421 4.3.2 later"])
        async with peer.run():
            transport = SmtpTransport(options())
            outcomes = await transport.deliver(job(requires_tls=True), Route([replace(peer.hop, tls=REQUIRETLS)]))
        assert next(iter(outcomes.values())).kind is Kind.DEFERRED

    run(body())


@on_both_loops
@pytest.mark.parametrize("extensions", [TAKES, []])
def test_a_report_about_such_mail_is_not_thrown_away_for_want_of_it(run: Run, extensions: list[str]) -> None:
    """RFC 8689 §5."""
    peer = Peer(extensions=extensions, tls=GOOD.server())
    assert deliver(run, MTA_STS, peer, reverse_path="").kind is Kind.DELIVERED
    assert any(" REQUIRETLS" in command for command in peer.commands) is bool(extensions)
    weak = Peer(extensions=extensions)
    assert deliver(run, OPPORTUNISTIC, weak, reverse_path="").kind is Kind.DELIVERED
    assert "MAIL FROM:<>" in weak.commands  # over what is no verified TLS, nothing is promised


# --- from the door to the report ---


pytest_db = pytest.mark.django_db(transaction=True)


@pytest_db
def test_a_message_that_cannot_go_so_comes_back_at_once_with_its_header_alone(alice: User, accept: Accept) -> None:
    transport = MemoryTransport()
    transport.script["far@x.example"].append(failed("no", transport="smtp", enhanced_code="5.7.30"))
    resolver = MemoryResolver(hosts={"x.example": ["93.184.216.1"]})
    with running_engine(transport, resolver) as engine:
        engine.ring(accept("far@x.example", requires_tls=True, dsn_return="FULL", body=b"the secret\r\n"))
        wait_until(lambda: FiledMessage.objects.exists())
    assert transport.jobs == []  # nobody vouches for the host
    attempt = Attempt.objects.get(transport="smtp")
    assert (attempt.enhanced_code, attempt.tls_policy) == ("5.7.10", "requiretls")
    assert Entry.objects.get(recipient="far@x.example").status == Entry.Status.BOUNCED
    report = read_copy(FiledMessage.objects.get())
    assert b"Status: 5.7.10" in report and b"Subject: test" in report and b"the secret" not in report
    assert list(Message.objects.order_by("pk").values_list("requires_tls", flat=True)) == [True, True]


@pytest_db
def test_an_alias_passes_the_demand_on(alice: User, accept: Accept) -> None:
    Alias.objects.create(domain=Domain.objects.get(), local_part="away", targets=["far@x.example"])
    with running_engine(MemoryTransport(), MemoryResolver(hosts={"x.example": ["93.184.216.1"]})) as engine:
        engine.ring(accept("away@example.com", requires_tls=True))
        wait_until(lambda: Attempt.objects.filter(tls_policy="requiretls").exists())
        wait_until(lambda: open_entries() == 0)
    assert set(Message.objects.values_list("requires_tls", flat=True)) == {True}
    assert re.search("vouches", Entry.objects.get(recipient="far@x.example").last_reply)


@pytest_db
def test_the_demand_outweighs_a_header_that_says_otherwise(alice: User, accept: Accept) -> None:
    """RFC 8689 §4.1."""
    with running_engine(MemoryTransport(), MemoryResolver(hosts={"x.example": ["93.184.216.1"]})) as engine:
        engine.ring(accept("far@x.example", requires_tls=True, header=b"TLS-Required: No\r\n"))
        wait_until(lambda: Entry.objects.filter(status=Entry.Status.BOUNCED).exists())
