"""Internationalised and binary messages on the way out (RFC 6531 §3.2, §3.4, RFC 3030 §3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.tests.ports import free_port
from queue.dsn_causes import cause_of
from queue.outcome import Kind
from queue.tests.outbound import CONTENT, SHORT, Run, deliver_over, job, on_both_loops, options, outcome_at
from queue.tests.peers import Last, Peer
from queue.transports.base import Job, NextHop, Route
from queue.transports.content import has_utf8_header
from queue.transports.options import Timeouts
from queue.transports.smtp import SmtpTransport

CAPABLE = ["PIPELINING", "8BITMIME", "SMTPUTF8"]
USER = "用户@xn--r8jz45g.jp"
UTF8_HEADER = "From: Žofie <žofie@example.com>\r\nSubject: Příliš\r\n\r\nText\r\n".encode()
UTF8_BODY = "Subject: hello\r\n\r\nPříliš\r\n".encode()


@on_both_loops
@pytest.mark.parametrize("extensions", [CAPABLE, ["8BITMIME", "SMTPUTF8"]], ids=["pipelined", "lockstep"])
@pytest.mark.parametrize(
    ("message", "declared"),
    [
        (job(USER), " SMTPUTF8"),
        (job(USER, "a@example.net"), " SMTPUTF8"),
        (job(reverse_path="žofie@example.com"), " SMTPUTF8"),
        (job(content=UTF8_HEADER), " BODY=8BITMIME SMTPUTF8"),
        (job(content=UTF8_BODY, is_smtputf8=True), " BODY=8BITMIME SMTPUTF8"),
        (job(content=UTF8_BODY, body_type="8BITMIME"), " BODY=8BITMIME"),
        (job(content=UTF8_BODY), ""),
        (job(is_smtputf8=True), ""),
        (job("a@xn--r8jz45g.jp", is_smtputf8=True), ""),
    ],
)
def test_smtputf8_is_declared_where_something_needs_it(
    run: Run, message: Job, declared: str, extensions: list[str]
) -> None:
    peer = Peer(extensions=extensions)
    assert run(outcome_at(peer, message)).kind is Kind.DELIVERED
    assert f"MAIL FROM:<{message.reverse_path}>{declared}" in peer.commands
    assert peer.messages[0].recipients == tuple(message.recipients)
    assert peer.messages[0].content == message.content


@on_both_loops
@pytest.mark.parametrize(
    "message",
    [
        job(is_smtputf8=True),
        job(reverse_path="a@xn--r8jz45g.jp", content=UTF8_BODY),
        job(content=b"Subject: Gr\xfc\xdfe\r\n\r\n"),
    ],
    ids=["declared", "8bit", "noise"],
)
def test_what_does_not_need_it_goes_to_any_peer(run: Run, message: Job) -> None:
    peer = Peer(extensions=["PIPELINING"])
    assert run(outcome_at(peer, message)).kind is Kind.DELIVERED
    assert f"MAIL FROM:<{message.reverse_path}>" in peer.commands


@on_both_loops
@pytest.mark.parametrize(
    ("message", "words"),
    [
        (job(USER), "the recipient's address"),
        (job(reverse_path="žofie@example.com"), "the sender's address"),
        (job(content=UTF8_HEADER), "the header"),
        (job(content=UTF8_BODY, is_smtputf8=True), "declared SMTPUTF8"),
    ],
)
def test_a_peer_without_smtputf8_is_not_offered_what_needs_it(run: Run, message: Job, words: str) -> None:
    outcome = run(outcome_at(peer := Peer(), message))
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (Kind.FAILED, None, "5.6.7")
    assert words in outcome.reply and "does not offer it" in outcome.reply
    assert outcome.next_hop == str(peer.hop)
    assert not [command for command in peer.commands if command.startswith(("MAIL", "RCPT"))]
    assert "SMTPUTF8" in cause_of(outcome.enhanced_code).meaning


@on_both_loops
def test_a_peer_without_ehlo_has_no_smtputf8(run: Run) -> None:
    assert run(outcome_at(Peer(ehlo=["500 what?"]), job(USER))).enhanced_code == "5.6.7"


@on_both_loops
def test_parameters_of_the_keyword_are_ignored(run: Run) -> None:
    assert run(outcome_at(Peer(extensions=["SMTPUTF8 FUTURE=1"]), job(USER))).kind is Kind.DELIVERED


@on_both_loops
@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelined", "lockstep"])
def test_recipients_in_ascii_are_served_where_others_cannot_be(run: Run, extensions: list[str]) -> None:
    async def body() -> None:
        peer = Peer(extensions=extensions, rcpt=["250 ok", "550 5.1.1 nobody"])
        async with peer.run():
            outcomes = await deliver_over(peer, message=job(USER, "a@x.test", "ü@x.test", "b@x.test"))
        assert [outcome.enhanced_code for outcome in outcomes.values()] == ["5.6.7", "2.0.0", "5.6.7", "5.1.1"]
        assert peer.messages[0].recipients == ("a@x.test",)
        assert all(command.isascii() for command in peer.commands)

    run(body())


@on_both_loops
def test_another_host_of_the_domain_may_have_smtputf8(run: Run) -> None:
    async def body() -> None:
        async with (old := Peer()).run(), (new := Peer(extensions=CAPABLE)).run():
            outcomes = await deliver_over(old, new, message=job(USER, "a@x.test"))
        assert {outcome.kind for outcome in outcomes.values()} == {Kind.DELIVERED}
        assert [message.recipients for message in (*old.messages, *new.messages)] == [("a@x.test",), (USER,)]

    run(body())


@on_both_loops
def test_while_another_host_is_out_of_reach_the_mail_waits(run: Run) -> None:
    async def body() -> None:
        async with (old := Peer()).run():
            transport = SmtpTransport(options(timeouts=Timeouts(connect=SHORT)))
            route = Route([old.hop, NextHop("gone.test", "127.0.0.1", free_port())])
            outcomes = await transport.deliver(job(USER), route)
            await transport.close()
        assert outcomes[USER].kind is Kind.DEFERRED

    run(body())


@on_both_loops
def test_a_kept_session_serves_what_it_can_after_what_it_could_not(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options())
            codes = [
                (await transport.deliver(message, Route([peer.hop])))[message.recipients[0]].enhanced_code
                for message in (job(USER), job("a@x.test"), job(USER), job("b@x.test"))
            ]
            await transport.close()
        assert codes == ["5.6.7", "2.0.0", "5.6.7", "2.0.0"]
        assert (peer.connections, len(peer.messages), "RSET" in peer.commands) == (1, 2, False)

    run(body())


@on_both_loops
def test_a_kept_session_that_had_died_costs_nobody_the_message(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer(dot=[Last("250 2.0.0 taken"), "250 2.0.0 taken"])).run():
            transport = SmtpTransport(options())
            await transport.deliver(job("a@x.test"), Route([peer.hop]))
            outcomes = await transport.deliver(job(USER, "b@x.test"), Route([peer.hop]))
            await transport.close()
        assert [outcome.enhanced_code for outcome in outcomes.values()] == ["5.6.7", "2.0.0"]
        assert peer.connections == 2

    run(body())


@on_both_loops
def test_the_peers_own_refusal_of_utf8_is_told_in_its_words(run: Run) -> None:
    outcome = run(outcome_at(Peer(extensions=CAPABLE, rcpt=["553 5.6.7 ASCII only, please"]), job(USER)))
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (Kind.FAILED, 553, "5.6.7")


# --- BINARYMIME ---


@on_both_loops
@pytest.mark.parametrize("content", [CONTENT, UTF8_BODY, b"Subject: x\r\n\r\n" + b"\xff" * 5000 + b"\r\n.\r\n", b""])
def test_a_binary_message_that_is_made_of_lines_goes_as_8bitmime(run: Run, content: bytes) -> None:
    peer = Peer()
    assert run(outcome_at(peer, job(content=content, body_type="BINARYMIME"))).kind is Kind.DELIVERED
    assert any(command.endswith(" BODY=8BITMIME") for command in peer.commands)
    assert peer.messages[0].content == content


BINARY = pytest.mark.parametrize("content", [b"a\0b\r\n", b"a\nb\r\n", b"a\rb\r\n", b"\r\n" + b"x" * 3_000_000 + b"\n"])
CHUNKING = ["BINARYMIME", "CHUNKING", "8BITMIME"]


@on_both_loops
@BINARY
@pytest.mark.parametrize("offered", [[], ["CHUNKING"], ["BINARYMIME"], ["8BITMIME", "PIPELINING"]])
def test_what_is_binary_in_truth_fails_in_clear_words_where_it_cannot_be_carried(
    run: Run, content: bytes, offered: list[str]
) -> None:
    """RFC 3030 §3: never by DATA, never converted."""
    outcome = run(outcome_at(peer := Peer(extensions=offered), job(content=content, body_type="BINARYMIME")))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, "5.6.3")
    assert "BINARYMIME" in outcome.reply and "base64" in cause_of("5.6.3").remedy
    assert not any(command.startswith("MAIL") for command in peer.commands)


@on_both_loops
@BINARY
@pytest.mark.parametrize("pipelining", [["PIPELINING"], []])
def test_what_is_binary_in_truth_goes_unchanged_in_a_chunk(run: Run, content: bytes, pipelining: list[str]) -> None:
    peer = Peer(extensions=[*CHUNKING, *pipelining], rcpt=["250 ok", "550 5.1.1 nobody"])
    recipients = ("a@x.test", "b@x.test")

    async def body() -> None:
        async with peer.run():
            outcomes = await deliver_over(peer, message=job(*recipients, content=content, body_type="BINARYMIME"))
        assert [outcomes[one].kind for one in recipients] == [Kind.DELIVERED, Kind.FAILED]

    run(body())
    assert peer.messages[0].content == content and peer.messages[0].recipients == ("a@x.test",)
    assert "DATA" not in peer.commands and f"BDAT {len(content)} LAST" in peer.commands
    assert any(" BODY=BINARYMIME" in command for command in peer.commands)


@on_both_loops
def test_another_host_may_take_what_the_first_cannot(run: Run) -> None:
    async def body() -> None:
        async with (first := Peer()).run(), (second := Peer(extensions=CHUNKING)).run():
            outcomes = await deliver_over(first, second, message=job(content=b"a\0b", body_type="BINARYMIME"))
        assert next(iter(outcomes.values())).kind is Kind.DELIVERED
        assert (first.messages, second.messages[0].content) == ([], b"a\0b")

    run(body())


@on_both_loops
@pytest.mark.parametrize("refused", ["mail", "rcpt"])
@pytest.mark.parametrize("pipelining", [["PIPELINING"], []])
def test_no_chunk_is_sent_where_nobody_is_to_get_it(run: Run, refused: str, pipelining: list[str]) -> None:
    """Its octets must never be where a peer might take them for commands."""
    peer = Peer(extensions=[*CHUNKING, *pipelining], **{refused: ["550 5.7.1 no", "250 ok"]})  # type: ignore[arg-type]
    binary = job(content=b"MAIL FROM:<x@x.test>\0\r\n", body_type="BINARYMIME")

    async def body() -> None:
        async with peer.run():
            transport = SmtpTransport(options())
            first = await transport.deliver(binary, Route([peer.hop]))
            assert {outcome.kind for outcome in first.values()} == {Kind.FAILED}
            assert not any(command.startswith("BDAT") for command in peer.commands)
            second = await transport.deliver(binary, Route([peer.hop]))
            assert {outcome.kind for outcome in second.values()} == {Kind.DELIVERED}
            await transport.close()
        assert (peer.connections, len(peer.messages)) == (1, 1)

    run(body())


@on_both_loops
@pytest.mark.parametrize("content", [CONTENT, b".\r\n..\r\nlast line without an end", UTF8_BODY])
def test_in_lockstep_a_chunk_spares_the_wait_for_354(run: Run, content: bytes) -> None:
    assert run(outcome_at(peer := Peer(extensions=["CHUNKING", "8BITMIME"]), job(content=content))).code == 250
    assert [command[:4] for command in peer.commands] == ["EHLO", "MAIL", "RCPT", "BDAT", "QUIT"]
    assert peer.messages[0].content == content


@on_both_loops
@pytest.mark.parametrize("extensions", [["CHUNKING"], ["CHUNKING", "BINARYMIME"]])
def test_a_chunk_is_no_way_for_bare_line_ends_that_were_not_declared(run: Run, extensions: list[str]) -> None:
    outcome = run(outcome_at(peer := Peer(extensions=extensions), job(content=b"a\nb\r\n")))
    assert (outcome.enhanced_code, peer.connections) == ("5.6.0", 0)


@on_both_loops
def test_a_binary_message_with_8bit_octets_needs_a_peer_for_them(run: Run) -> None:
    outcome = run(outcome_at(Peer(extensions=[]), job(content=UTF8_BODY, body_type="BINARYMIME")))
    assert (outcome.kind, outcome.enhanced_code) == (Kind.FAILED, "5.6.3")
    assert run(outcome_at(Peer(extensions=[]), job(body_type="BINARYMIME"))).kind is Kind.DELIVERED


# --- the header section ---


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (UTF8_HEADER, True), (UTF8_BODY, False), (CONTENT, False), (b"", False), ("\r\nž\r\n".encode(), False),
        ("X: ž".encode(), True), (b"X: \xff\r\n\r\n", False), ("X: ž".encode()[:-1] + b"\r\n\r\n", False),
    ],
)  # fmt: skip
def test_a_header_section_in_utf8_is_told_from_noise(content: bytes, found: bool) -> None:
    assert has_utf8_header(content) is found


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_the_body_says_nothing_about_the_header(header: bytes, body: bytes) -> None:
    section = b"X: " + header.replace(b"\r", b"").replace(b"\n", b"")
    assert has_utf8_header(section + b"\r\n\r\n" + body) == has_utf8_header(section)
