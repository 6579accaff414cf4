from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounts.tests.ports import free_port
from queue.outcome import Kind
from queue.tests.outbound import (
    CONTENT,
    TO,
    Run,
    deliver_over,
    job,
    on_both_loops,
    options,
    outcome_at,
    until_open,
)
from queue.tests.peers import Peer, Slowly
from queue.transports.base import Job, NextHop, Route
from queue.transports.smtp import SmtpTransport

pytestmark = on_both_loops


# --- the good path ---


def test_a_message_arrives_as_it_was_with_its_envelope(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            outcomes = await deliver_over(peer, message=job("a@example.net", "b@example.net"))
        assert [message.content for message in peer.messages] == [CONTENT]
        assert peer.messages[0].mail_from == "from@example.org"
        assert peer.messages[0].recipients == ("a@example.net", "b@example.net")
        assert list(outcomes) == ["a@example.net", "b@example.net"]
        outcome = outcomes["a@example.net"]
        assert (outcome.kind, outcome.code, outcome.enhanced_code) == (Kind.DELIVERED, 250, "2.0.0")
        assert outcome.reply == "2.0.0 taken"
        assert outcome.next_hop == f"peer.test[127.0.0.1]:{peer.port}"
        assert (outcome.tls, outcome.transport) == ("", "smtp")

    run(body())


def test_with_pipelining_the_envelope_is_one_write_and_the_session_is_kept(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options())
            for _ in range(3):
                await transport.deliver(job(), Route([peer.hop]))
            await transport.close()
        assert len(peer.messages) == 3
        assert peer.connections == 1
        envelope = f"MAIL FROM:<from@example.org> SIZE={len(CONTENT)}\r\nRCPT TO:<{TO}>\r\nDATA\r\n".encode()
        assert peer.pieces == [b"EHLO mail.example.org\r\n", *[envelope, CONTENT + b".\r\n"] * 3, b"QUIT\r\n"]

    run(body())


def test_without_pipelining_each_command_waits_for_its_reply(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(extensions=[])).run():
            await deliver_over(peer, message=job("a@example.net", "b@example.net"))
        assert len(peer.messages) == 1
        assert peer.pieces[1:5] == [
            b"MAIL FROM:<from@example.org>\r\n",
            b"RCPT TO:<a@example.net>\r\n",
            b"RCPT TO:<b@example.net>\r\n",
            b"DATA\r\n",
        ]

    run(body())


def test_a_host_without_ehlo_is_greeted_with_helo(run: Run) -> None:
    peer = Peer(ehlo=["500 5.5.1 what?"])
    assert run(outcome_at(peer)).kind is Kind.DELIVERED
    assert peer.commands[:3] == ["EHLO mail.example.org", "HELO mail.example.org", "MAIL FROM:<from@example.org>"]


def test_the_null_path_is_sent_as_such(run: Run) -> None:
    run(outcome_at(peer := Peer(), job(reverse_path="")))
    assert f"MAIL FROM:<> SIZE={len(CONTENT)}" in peer.commands


@pytest.mark.parametrize(
    "content",
    [
        b"..\r\n.\r\n...\r\n\r\n.x\r\nx.\r\n.\r\n",
        b"",
        b".",
        b"no line end",
        b"\r\n",
        "Gruß: x\r\n\r\nGrüße: \x00\x7f\r\n".encode("latin-1"),
    ],
)
def test_lines_of_dots_and_odd_ends_arrive_unchanged(run: Run, content: bytes) -> None:
    assert run(outcome_at(peer := Peer(), job(content=content))).kind is Kind.DELIVERED
    whole = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    assert peer.messages[0].content == whole


def test_replies_that_come_one_octet_at_a_time_are_understood(run: Run) -> None:
    peer = Peer(
        greeting=[Slowly("220-peer\r\n220 hello")],
        mail=[Slowly("250 2.1.0 ok")],
        rcpt=[Slowly("250-2.1.5 first\r\n250 2.1.5 second")],
        data=[Slowly("354 go ahead")],
        dot=[Slowly("250-2.0.0 taken\r\n250 2.0.0 for good")],
    )
    outcome = run(outcome_at(peer))
    assert (outcome.kind, outcome.reply) == (Kind.DELIVERED, "2.0.0 taken for good")


# --- replies that refuse ---


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
@pytest.mark.parametrize("step", ["greeting", "ehlo", "mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize(("code", "kind"), [(450, Kind.DEFERRED), (550, Kind.FAILED)])
def test_a_refusal_at_any_step_is_judged_by_its_code(
    run: Run, step: str, code: int, kind: Kind, extensions: list[str]
) -> None:
    peer = Peer(extensions=extensions, helo=[f"{code} {code // 100}.7.1 no"])
    setattr(peer, step, [f"{code} {code // 100}.7.1 no"])
    outcome = run(outcome_at(peer))
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (kind, code, f"{code // 100}.7.1")
    assert outcome.reply == f"{code // 100}.7.1 no"
    assert not peer.messages


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
def test_each_recipient_has_its_own_outcome(run: Run, extensions: list[str]) -> None:
    async def body() -> None:
        peer = Peer(extensions=extensions, rcpt=["250 ok", "550 5.1.1 nobody", "450 4.2.1 later", "251 forwarded"])
        async with peer.run():
            outcomes = await deliver_over(peer, message=job("a@x.test", "b@x.test", "c@x.test", "d@x.test"))
        assert [outcomes[f"{name}@x.test"].kind.value for name in "abcd"] == [
            "delivered",
            "failed",
            "deferred",
            "delivered",
        ]
        assert peer.messages[0].recipients == ("a@x.test", "d@x.test")

    run(body())


def test_a_refused_content_counts_for_those_who_were_accepted_only(run: Run) -> None:
    async def body() -> None:
        peer = Peer(rcpt=["550 5.1.1 nobody", "250 ok"], dot=["452 4.3.1 full"])
        async with peer.run():
            outcomes = await deliver_over(peer, message=job("a@x.test", "b@x.test"))
        assert (outcomes["a@x.test"].code, outcomes["b@x.test"].code) == (550, 452)

    run(body())


def test_too_many_recipients_in_the_old_numbers_is_temporary(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(rcpt=["250 ok", "552 too many recipients", "552 5.2.2 mailbox full"])).run():
            outcomes = await deliver_over(peer, message=job("a@x.test", "b@x.test", "c@x.test"))
        assert [outcome.kind.value for outcome in outcomes.values()] == ["delivered", "deferred", "failed"]

    run(body())


def test_where_nobody_is_accepted_and_data_is_asked_for_a_lone_dot_is_sent(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(rcpt=["550 5.1.1 nobody", "250 ok"])).run():
            transport = SmtpTransport(options())
            first = await transport.deliver(job(), Route([peer.hop]))
            second = await transport.deliver(job(), Route([peer.hop]))
            await transport.close()
        assert (first[TO].code, second[TO].code) == (550, 250)
        assert (peer.dots, peer.connections, len(peer.messages)) == (1, 1, 1)
        assert "RSET" not in peer.commands

    run(body())


def test_a_peer_that_refuses_mail_and_goes_on_gets_no_content(run: Run) -> None:
    outcome = run(outcome_at(peer := Peer(mail=["550 5.7.1 not from you"])))
    assert (outcome.kind, outcome.code) == (Kind.FAILED, 550)
    assert (peer.messages, peer.dots) == ([], 0)


@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
def test_rset_is_sent_only_after_a_transaction_that_was_left_open(run: Run, extensions: list[str]) -> None:
    async def body() -> None:
        peer = Peer(extensions=extensions, rcpt=["550 5.1.1 nobody", "250 ok"], data=["503 5.5.1 no", "354 ok"])
        if not extensions:
            peer.data = ["354 ok"]
        async with peer.run():
            transport = SmtpTransport(options())
            outcomes = [(await transport.deliver(job(), Route([peer.hop])))[TO].code for _ in range(3)]
            await transport.close()
        assert outcomes == [550, 250, 250]
        assert (peer.connections, peer.commands.count("RSET")) == (1, 1)

    run(body())


def test_a_peer_that_refuses_in_the_middle_of_the_content_is_heard(run: Run) -> None:
    content = b"x" * 70 + b"\r\n"
    peer = Peer(dot=["552 5.3.4 too big"], refuse_at_octets=1000)
    outcome = run(outcome_at(peer, job(content=content * 200_000)))
    assert (outcome.kind, outcome.code) == (Kind.FAILED, 552)


def test_a_peer_that_accepts_before_it_has_the_content_is_not_believed(run: Run) -> None:
    content = b"x" * 70 + b"\r\n"
    outcome = run(outcome_at(Peer(refuse_at_octets=1000), job(content=content * 200_000)))
    assert outcome.kind is Kind.DEFERRED
    outcome = run(outcome_at(Peer(data=["354 go\r\n250 2.0.0 taken"])))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.4.2")


@pytest.mark.parametrize("step", ["greeting", "ehlo", "mail", "rcpt", "data", "dot"])
def test_421_at_any_step_ends_the_session_and_defers(run: Run, step: str) -> None:
    peer = Peer(**{step: ["421 4.3.2 going down"]})  # type: ignore[arg-type]
    outcome = run(outcome_at(peer))
    assert (outcome.kind, outcome.code, outcome.reply) == (Kind.DEFERRED, 421, "4.3.2 going down")
    assert "QUIT" not in peer.commands


# --- what a peer announces ---


def test_a_message_over_the_announced_size_fails_without_being_offered(run: Run) -> None:
    outcome = run(outcome_at(peer := Peer(extensions=["SIZE 20"])))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, "5.3.4")
    assert not any(command.startswith("MAIL") for command in peer.commands)


def test_8bit_content_is_declared_where_the_peer_can_and_fails_where_it_cannot(run: Run) -> None:
    message = job(content="\r\nGrüße\r\n".encode(), body_type="8BITMIME")
    assert run(outcome_at(peer := Peer(), message)).kind is Kind.DELIVERED
    assert any(command.endswith(" BODY=8BITMIME") for command in peer.commands)
    outcome = run(outcome_at(Peer(extensions=["PIPELINING"]), message))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, "5.6.3")
    declared_only = job(body_type="8BITMIME")
    assert run(outcome_at(Peer(extensions=["PIPELINING"]), declared_only)).kind is Kind.DELIVERED


# --- what cannot be sent ---


@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n.\n", b"\n", b"a\r", b"a\r\r\n"])
def test_content_with_a_bare_cr_or_lf_fails_in_clear_words(run: Run, content: bytes) -> None:
    outcome = run(outcome_at(peer := Peer(), job(content=content)))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, "5.6.0")
    assert "stands alone" in outcome.reply
    assert peer.connections == 0


@pytest.mark.parametrize(
    ("message", "enhanced_code"),
    [
        (job("a@x.test>\r\nRSET"), "5.1.3"),
        (job(reverse_path="a@x.test>\r\nRCPT TO:<b@x.test"), "5.1.7"),
        (job("a\x85@x.test"), "5.1.3"),
        (job("a\ud800@x.test"), "5.1.3"),
    ],
)
def test_an_address_that_would_break_the_line_is_never_written(run: Run, message: Job, enhanced_code: str) -> None:
    outcome = run(outcome_at(peer := Peer(), message))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, enhanced_code)
    assert peer.connections == 0


# --- a server that is not ours (for Postfix's own: mailproj/tests/test_postfix_as_next_hop.py) ---


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a program without our privileges can write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_smtp_sink_takes_our_mail(run: Run, open_folder: Path) -> None:
    program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("smtp-sink is missing (apt: postfix)")
    port = free_port()
    dump = open_folder / "dump"
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with subprocess.Popen([program, *user, "-D", str(dump), f"127.0.0.1:{port}", "100"]) as sink:
        try:

            async def body() -> None:
                hop = NextHop("sink.test", "127.0.0.1", port)
                await until_open(hop)
                transport = SmtpTransport(options())
                deliveries = [
                    transport.deliver(job(content=b"Subject: n%d\r\n\r\n.dot\r\n" % number), Route([hop]))
                    for number in range(20)
                ]
                outcomes = await asyncio.gather(*deliveries)
                assert {found[TO].kind for found in outcomes} == {Kind.DELIVERED}
                for number in range(20, 40):
                    message = job(content=b"Subject: n%d\r\n\r\n.dot\r\n" % number)
                    assert (await transport.deliver(message, Route([hop])))[TO].kind is Kind.DELIVERED
                await transport.close()

            run(body())
        finally:
            sink.terminate()
    received = dump.read_bytes()
    assert all(b"Subject: n%d\n" % number in received for number in range(40))
    assert received.count(b"\n.dot\n") == 40
