from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from accounts.tests.ports import free_port
from queue.outcome import Kind
from queue.tests.outbound import (
    FAIR,
    SHORT,
    TO,
    Run,
    deliver_over,
    job,
    on_both_loops,
    options,
    outcome_at,
)
from queue.tests.peers import Close, Last, Peer, Say, Silence
from queue.transports.base import NextHop, Route
from queue.transports.options import Timeouts
from queue.transports.smtp import SmtpTransport

pytestmark = on_both_loops


# --- sessions that are kept ---


def test_a_message_taken_before_the_peer_closed_is_delivered_and_the_next_gets_a_new_session(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(dot=[Last("250 2.0.0 taken"), "250 2.0.0 taken"])).run():
            transport = SmtpTransport(options())
            codes = [(await transport.deliver(job(), Route([peer.hop])))[TO].code for _ in range(2)]
            await transport.close()
        assert codes == [250, 250]
        assert peer.connections == 2

    run(body())


@pytest.mark.parametrize("end", ["421 4.4.2 idle for too long", Close(), Last("421 4.4.2 idle")])
def test_a_kept_session_that_turns_out_dead_is_replaced(run: Run, end: Say) -> None:
    async def body() -> None:
        async with (peer := Peer(mail=["250 ok", end, "250 ok"])).run():
            transport = SmtpTransport(options())
            codes = [(await transport.deliver(job(), Route([peer.hop])))[TO].code for _ in range(2)]
            await transport.close()
        assert codes == [250, 250]
        assert (peer.connections, len(peer.messages)) == (2, 2)

    run(body())


def test_a_session_lost_after_its_content_was_sent_is_not_tried_again(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(dot=["250 ok", Close()])).run(), (other := Peer()).run():
            transport = SmtpTransport(options())
            route = Route([peer.hop, other.hop])
            kinds = [(await transport.deliver(job(), route))[TO].kind for _ in range(2)]
            await transport.close()
        assert kinds == [Kind.DELIVERED, Kind.DEFERRED]
        assert (peer.connections, other.connections) == (1, 0)

    run(body())


def test_no_more_sessions_are_kept_than_the_pool_may_hold(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options(pool_size=2))
            await asyncio.gather(*(transport.deliver(job(), Route([peer.hop])) for _ in range(5)))
            await asyncio.gather(*(transport.deliver(job(), Route([peer.hop])) for _ in range(2)))
            await transport.close()
        assert peer.connections == 5
        assert peer.commands.count("QUIT") == 5

    run(body())


def test_a_session_ends_after_its_share_of_messages_and_when_idle_for_too_long(run: Run) -> None:
    async def connections(**changes: Any) -> int:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options(**changes))
            for _ in range(4):
                await transport.deliver(job(), Route([peer.hop]))
            await transport.close()
        return peer.connections

    assert run(connections(messages_per_session=2)) == 2
    assert run(connections(idle_seconds=0.0)) == 4


def test_idle_sessions_are_ended_even_if_no_message_comes(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options(idle_seconds=SHORT))
            await transport.deliver(job(), Route([peer.hop]))
            async with asyncio.timeout(10):
                await peer.reached("quit").wait()
            await transport.close()

    run(body())


def test_a_cancelled_delivery_leaves_no_session_behind(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(dot=[Silence(), "250 ok"])).run():
            transport = SmtpTransport(options())
            delivery = asyncio.create_task(transport.deliver(job(), Route([peer.hop])))
            await peer.reached("dot").wait()
            delivery.cancel()
            with pytest.raises(asyncio.CancelledError):
                await delivery
            assert (await transport.deliver(job(), Route([peer.hop])))[TO].kind is Kind.DELIVERED
            await transport.close()
        assert peer.connections == 2

    run(body())


# --- hops ---


def test_a_host_out_of_reach_is_passed_over_and_tried_last_for_a_while(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            dead = NextHop("dead.test", "127.0.0.1", free_port())
            transport = SmtpTransport(options(messages_per_session=1))
            for _ in range(2):
                outcomes = await transport.deliver(job(), Route([dead, peer.hop]))
                assert outcomes[TO].kind is Kind.DELIVERED
            outcome = (await transport.deliver(job(), Route([dead])))[TO]
            await transport.close()
        assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.4.1")
        assert outcome.next_hop == str(dead)

    run(body())


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
@pytest.mark.parametrize("step", ["greeting", "ehlo", "mail", "rcpt", "data"])
def test_a_host_that_hangs_does_not_hide_the_next_and_is_tried_last_from_then_on(
    run: Run, step: str, extensions: list[str]
) -> None:
    """RFC 5321 §5.1: at least two addresses are tried, although the first has used up the time for all."""

    async def body() -> None:
        first, second = Peer(extensions=extensions, **{step: [Silence()]}), Peer()  # type: ignore[arg-type]
        async with first.run(), second.run():
            transport = SmtpTransport(options(timeouts=FAIR))
            for _ in range(2):
                outcomes = await transport.deliver(job(), Route([_named("a", first), _named("b", second)]))
                assert outcomes[TO].kind is Kind.DELIVERED
            await transport.close()
        assert (first.connections, len(second.messages)) == (1, 2)

    run(body())


def test_hosts_that_hung_are_tried_after_those_that_nobody_has_asked_yet(run: Run) -> None:
    async def body() -> None:
        hung, good = [Peer(mail=[Silence()]) for _ in range(3)], Peer()
        async with hung[0].run(), hung[1].run(), hung[2].run(), good.run():
            transport = SmtpTransport(options(timeouts=FAIR))
            route = Route([_named(f"host{number}", peer) for number, peer in enumerate([*hung, good])])
            outcomes = [(await transport.deliver(job(), route))[TO].kind for _ in range(3)]
            await transport.close()
        assert outcomes == [Kind.DEFERRED, Kind.DELIVERED, Kind.DELIVERED]
        assert [peer.connections for peer in [*hung, good]] == [1, 1, 1, 1]

    run(body())


def test_a_host_that_hung_after_the_content_is_tried_last_the_next_time(run: Run) -> None:
    async def body() -> None:
        first, second = Peer(dot=[Silence()]), Peer()
        async with first.run(), second.run():
            transport = SmtpTransport(options(timeouts=FAIR))
            route = Route([_named("a", first), _named("b", second)])
            kinds = [(await transport.deliver(job(), route))[TO].kind for _ in range(2)]
            await transport.close()
        assert kinds == [Kind.DEFERRED, Kind.DELIVERED]
        assert (first.connections, second.connections) == (1, 1)

    run(body())


def test_one_answer_and_a_host_that_hung_is_in_its_place_again(run: Run) -> None:
    async def body() -> None:
        first, second = Peer(mail=[Silence(), "250 ok"]), Peer()
        async with first.run(), second.run():
            transport = SmtpTransport(options(timeouts=FAIR))
            both = Route([_named("a", first), _named("b", second)])
            for route in (both, both, Route([_named("c", first)]), both):  # by another name it is the same host
                assert (await transport.deliver(job(), route))[TO].kind is Kind.DELIVERED
            await transport.close()
        assert (len(first.messages), len(second.messages)) == (2, 2)

    run(body())


def test_a_host_that_hung_is_in_its_place_again_after_a_while(run: Run) -> None:
    async def body() -> None:
        first, second = Peer(mail=[Silence(), "250 ok"]), Peer()
        async with first.run(), second.run():
            transport = SmtpTransport(options(timeouts=FAIR, silent_seconds=0.0))
            route = Route([_named("a", first), _named("b", second)])
            for _ in range(2):
                assert (await transport.deliver(job(), route))[TO].kind is Kind.DELIVERED
            await transport.close()
        assert (len(first.messages), len(second.messages)) == (1, 1)

    run(body())


@pytest.mark.parametrize(("count", "kind", "enhanced_code"), [(3, Kind.DEFERRED, "4.4.0"), (2, Kind.FAILED, "5.7.1")])
def test_hosts_that_refuse_slowly_do_not_speak_for_one_that_there_was_no_time_to_ask(
    run: Run, count: int, kind: Kind, enhanced_code: str
) -> None:
    async def body() -> None:
        peers = [Peer(greeting=["554 5.7.1 go away"]), Peer(greeting=["554 5.7.1 go away"]), Peer()]
        async with peers[0].run(), peers[1].run(), peers[2].run():
            transport = SmtpTransport(options(timeouts=replace(Timeouts(), hops=0.0)))
            hops = [_named(f"host{number}", peer) for number, peer in enumerate(peers)]
            outcome = (await transport.deliver(job(), Route(hops[:count])))[TO]
            await transport.close()
        assert (outcome.kind, outcome.code, outcome.enhanced_code) == (kind, 554, enhanced_code)
        assert [peer.connections for peer in peers] == [1, 1, 0]

    run(body())


def test_a_recipient_that_a_host_refused_fails_although_there_was_no_time_for_the_others(run: Run) -> None:
    """A 5yz to MAIL or RCPT is an answer for the domain, and final; one that greets so speaks for itself alone."""

    async def body() -> None:
        first, second = Peer(rcpt=["550 5.1.1 nobody"]), Peer()
        async with first.run(), second.run():
            outcome = (await deliver_over(first, second, timeouts=replace(Timeouts(), hops=0.0)))[TO]
        assert (outcome.kind, outcome.code, second.connections) == (Kind.FAILED, 550, 0)

    run(body())


def _named(host: str, peer: Peer) -> NextHop:
    return replace(peer.hop, host=f"{host}.test")


@pytest.mark.parametrize(
    ("greetings", "kind", "code"),
    [
        (["554 5.7.1 go away", "521 5.3.2 no mail here"], Kind.FAILED, 521),
        (["421 4.3.2 busy", "554 5.7.1 go away"], Kind.DEFERRED, 421),
        (["554 5.7.1 go away", "450 4.3.2 busy"], Kind.DEFERRED, 450),
        (["554 5.7.1 go away", "220 welcome"], Kind.DELIVERED, 250),
        (["450 4.3.2 busy", "220 welcome"], Kind.DELIVERED, 250),
    ],
)
def test_mail_fails_by_greetings_only_if_every_host_refuses_for_good(
    run: Run, greetings: list[str], kind: Kind, code: int
) -> None:
    async def body() -> None:
        first, second = (Peer(greeting=[greeting]) for greeting in greetings)
        async with first.run(), second.run():
            outcome = (await deliver_over(first, second))[TO]
        assert (outcome.kind, outcome.code) == (kind, code)
        assert (first.connections, second.connections) == (1, 1)

    run(body())


@pytest.mark.parametrize("end", [Close(), "421 4.3.2 going down"])
@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
def test_a_line_lost_before_the_content_is_followed_by_the_next_host(run: Run, step: str, end: Say) -> None:
    async def body() -> None:
        first, second = Peer(**{step: [end]}), Peer()  # type: ignore[arg-type]
        async with first.run(), second.run():
            assert (await deliver_over(first, second))[TO].kind is Kind.DELIVERED

    run(body())


def test_recipients_that_a_host_refused_are_not_taken_to_the_next(run: Run) -> None:
    async def body() -> None:
        first, second = Peer(rcpt=["550 5.1.1 nobody", "250 ok"], data=[Close()]), Peer()
        async with first.run(), second.run():
            outcomes = await deliver_over(first, second, message=job("a@x.test", "b@x.test"))
        assert (outcomes["a@x.test"].code, outcomes["b@x.test"].code) == (550, 250)
        assert second.messages[0].recipients == ("b@x.test",)

    run(body())


def test_no_connection_is_made_to_a_private_address_that_is_not_allowed(run: Run) -> None:
    outcome = run(outcome_at(peer := Peer(), allowed_networks=()))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, "5.4.4")
    assert "OUTBOUND_ALLOWED_NETWORKS" in outcome.reply
    assert peer.connections == 0


def test_a_route_without_hops_defers(run: Run) -> None:
    async def body() -> None:
        assert (await SmtpTransport(options()).deliver(job(), Route(())))[TO].kind is Kind.DEFERRED

    run(body())
