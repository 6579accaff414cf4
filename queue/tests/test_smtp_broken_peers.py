from __future__ import annotations

import asyncio

import pytest

from queue.outcome import Kind
from queue.tests.outbound import (
    IMPATIENT,
    SHORT,
    TO,
    Run,
    job,
    on_both_loops,
    options,
    outcome_at,
)
from queue.tests.peers import Close, Peer, Raw, Say, Silence, Slowly
from queue.transports.base import NextHop, Route
from queue.transports.smtp import SmtpTransport

pytestmark = on_both_loops


STEPS = ["greeting", "ehlo", "mail", "rcpt", "data", "dot"]


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
@pytest.mark.parametrize("step", STEPS)
def test_a_disconnect_at_any_step_defers(run: Run, step: str, extensions: list[str]) -> None:
    peer = Peer(extensions=extensions)
    setattr(peer, step, [Close()])
    outcome = run(outcome_at(peer, job("a@x.test", "b@x.test")))
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (Kind.DEFERRED, None, "4.4.2")


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
@pytest.mark.parametrize("step", STEPS)
def test_silence_at_any_step_defers(run: Run, step: str, extensions: list[str]) -> None:
    peer = Peer(extensions=extensions)
    setattr(peer, step, [Silence()])
    outcome = run(outcome_at(peer, job("a@x.test", "b@x.test"), timeouts=IMPATIENT))
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (Kind.DEFERRED, None, "4.4.2")
    assert "took too long" in outcome.reply


@pytest.mark.parametrize("step", STEPS)
def test_the_deadline_is_for_the_whole_reply_not_for_each_octet(run: Run, step: str) -> None:
    peer = Peer(**{step: [Slowly("250 " + "x" * 500, pause=SHORT / 10)]})  # type: ignore[arg-type]
    outcome = run(outcome_at(peer, timeouts=IMPATIENT))
    assert outcome.kind is Kind.DEFERRED
    assert "took too long" in outcome.reply


def test_a_peer_that_reads_nothing_of_a_large_message_is_given_up(run: Run) -> None:
    async def body() -> None:
        blocked = asyncio.Event()

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for reply in (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
                writer.write(reply)
                if reply[:3] != b"354":
                    await reader.readline()
            await blocked.wait()
            writer.close()

        server = await asyncio.start_server(converse, "127.0.0.1", 0, limit=1024)
        hop = NextHop("peer.test", "127.0.0.1", server.sockets[0].getsockname()[1])
        transport = SmtpTransport(options(timeouts=IMPATIENT))
        outcomes = await transport.deliver(job(content=b"x" * 70_000_000), Route([hop]))
        assert outcomes[TO].kind is Kind.DEFERRED
        assert "took too long (at the content)" in outcomes[TO].reply
        blocked.set()
        server.close()

    run(body())


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "said",
    [
        Raw(b"hello there\r\n"),
        Raw(b"\x00\xff\xfe\r\n"),
        Raw(b"25\r\n"),
        Raw(b"650 what\r\n"),
        Raw(b"250-one\r\n251 two\r\n"),
        Raw(b"250 bare line feed\n"),
        Raw(b"x" * 10_000_000),
        Raw(b"220-on and on\r\n", endless=True),
        Raw(b"250 " + b"y" * 3000 + b"\r\n"),
    ],
    ids=["words", "binary", "short", "code", "codes", "lf", "10MB", "endless", "long"],
)
def test_garbage_at_any_step_defers(run: Run, step: str, said: Say) -> None:
    outcome = run(outcome_at(Peer(**{step: [said]})))  # type: ignore[arg-type]
    assert (outcome.kind, outcome.code) == (Kind.DEFERRED, None)
    assert outcome.reply.isprintable()


def test_a_peer_that_says_more_than_it_was_asked_is_not_listened_to(run: Run) -> None:
    outcome = run(outcome_at(Peer(extensions=[], mail=["250 ok\r\n250 ok\r\n354 ok\r\n250 taken"])))
    assert outcome.kind is Kind.DEFERRED
    assert "more than it was asked" in outcome.reply


def test_control_characters_of_a_reply_do_not_reach_the_outcome(run: Run) -> None:
    outcome = run(outcome_at(Peer(dot=["550-5.7.1 one\x00\x1b[2J\r\n550 5.7.1 two\u2028" + "z" * 1500])))
    assert outcome.reply.startswith("5.7.1 one?[2J two?zzz")
    assert len(outcome.reply) == 1000 and outcome.reply.isprintable()
