"""What a sender asked for, said to peers that take it and to peers that do not (RFC 3461 §5.2.1-2, RFC 2852 §4.1.4)."""

from __future__ import annotations

import datetime as dt
import re

import pytest

from queue.outcome import Kind
from queue.tests.outbound import TO, Run, deliver_over, job, on_both_loops, options, outcome_at
from queue.tests.peers import Last, Peer
from queue.transports.base import Deadline, DsnRequest, Job, Route
from queue.transports.smtp import SmtpTransport

pytestmark = on_both_loops
USER = "用户@xn--r8jz45g.jp"
LOCKSTEP_AND_PIPELINED = pytest.mark.parametrize("more", [["PIPELINING"], []], ids=["pipelined", "lockstep"])


def deadline(seconds: float, mode: str) -> Deadline:
    return Deadline(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds), mode)


def asking() -> Job:
    requests = {TO: DsnRequest("SUCCESS,DELAY", "rfc822;Old+Name@example.com"), "b@example.net": DsnRequest("NEVER")}
    return job(TO, "b@example.net", "c@example.net", dsn_return="HDRS", envelope_id="QQ=1", dsn_requests=requests)


def commands(peer: Peer) -> list[str]:
    return [command for command in peer.commands if command.startswith(("MAIL", "RCPT"))]


@LOCKSTEP_AND_PIPELINED
def test_a_peer_with_dsn_hears_what_the_sender_wants(run: Run, more: list[str]) -> None:
    outcome = run(outcome_at(peer := Peer(extensions=["DSN", *more]), asking()))
    assert commands(peer) == [
        "MAIL FROM:<from@example.org> RET=HDRS ENVID=QQ+3D1",
        f"RCPT TO:<{TO}> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Old+2BName@example.com",
        "RCPT TO:<b@example.net> NOTIFY=NEVER ORCPT=rfc822;b@example.net",
        "RCPT TO:<c@example.net> ORCPT=rfc822;c@example.net",
    ]
    assert outcome.announced == {"DSN"}
    assert len(peer.messages) == 1


@LOCKSTEP_AND_PIPELINED
def test_a_peer_without_dsn_hears_nothing_of_it(run: Run, more: list[str]) -> None:
    outcome = run(outcome_at(peer := Peer(extensions=more), asking()))
    assert all(command.endswith(">") for command in commands(peer))
    assert outcome.announced == frozenset()


@pytest.mark.parametrize("extensions", [["DSN", "DELIVERBY 30", "PIPELINING"], ["DSN"]])
def test_mail_that_asks_for_nothing_is_sent_as_ever(run: Run, extensions: list[str]) -> None:
    run(outcome_at(peer := Peer(extensions=extensions)))
    assert commands(peer) == ["MAIL FROM:<from@example.org>", f"RCPT TO:<{TO}>"]


def test_what_another_host_of_the_domain_announced_does_not_count(run: Run) -> None:
    async def body() -> None:
        async with (old := Peer(mail=["421 4.3.2 away"])).run(), (new := Peer(extensions=["DSN"])).run():
            outcomes = await deliver_over(old, new, message=asking())
        assert "RET=HDRS" not in commands(old)[0]
        assert "RET=HDRS" in commands(new)[0]
        assert {outcome.announced for outcome in outcomes.values()} == {frozenset({"DSN"})}

    run(body())


def test_an_address_beyond_ascii_is_told_in_utf8(run: Run) -> None:
    message = job(USER, dsn_requests={USER: DsnRequest("SUCCESS", "utf-8;用户@例え.jp")})
    run(outcome_at(peer := Peer(extensions=["DSN", "SMTPUTF8"]), message))
    assert commands(peer)[1] == f"RCPT TO:<{USER}> NOTIFY=SUCCESS ORCPT=utf-8;用户@例え.jp"


@pytest.mark.parametrize("mode", ["R", "N", "RT", "NT"])
def test_a_peer_with_deliverby_hears_the_time_that_is_left(run: Run, mode: str) -> None:
    outcome = run(outcome_at(peer := Peer(extensions=["DELIVERBY 30"]), job(deadline=deadline(1000, mode))))
    found = re.fullmatch(r"MAIL FROM:<from@example.org> BY=(\d+);([RNT]+)", commands(peer)[0])
    assert found is not None and 900 < int(found[1]) <= 1000 and found[2] == mode
    assert outcome.kind is Kind.DELIVERED and outcome.announced == {"DELIVERBY"}


def test_a_deadline_in_mode_n_that_has_passed_is_told_as_such(run: Run) -> None:
    run(outcome_at(peer := Peer(extensions=["DELIVERBY 30"]), job(deadline=deadline(-60, "N"))))
    found = re.search(r" BY=(-\d+);N$", commands(peer)[0])
    assert found is not None and -100 < int(found[1]) < -59


@pytest.mark.parametrize(
    ("peer", "seconds", "code", "words"),
    [
        (Peer(), 1000, "5.3.3", "does not offer DELIVERBY"),
        (Peer(ehlo=["500 what?"]), 1000, "5.3.3", "does not offer DELIVERBY"),
        (Peer(extensions=["DELIVERBY 2000"]), 1000, "5.4.7", "takes no deadline below 2000 s"),
        (Peer(extensions=["DELIVERBY"]), -1, "5.4.7", "is over"),
    ],
    ids=["no DELIVERBY", "no EHLO", "minimum", "too late"],
)
def test_mail_that_is_wanted_back_is_not_sent_where_its_deadline_would_be_lost(
    run: Run, peer: Peer, seconds: int, code: str, words: str
) -> None:
    peer = Peer(ehlo=peer.ehlo, extensions=peer.extensions)  # each loop has its own
    outcome = run(outcome_at(peer, job(deadline=deadline(seconds, "R"))))
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (Kind.FAILED, None, code)
    assert words in outcome.reply and outcome.next_hop == str(peer.hop)
    assert commands(peer) == []


def test_no_other_host_is_searched_for_deliverby(run: Run) -> None:
    async def body() -> None:
        async with (old := Peer()).run(), (new := Peer(extensions=["DELIVERBY"])).run():
            outcomes = await deliver_over(old, new, message=job(deadline=deadline(1000, "R")))
        assert outcomes[TO].enhanced_code == "5.3.3"
        assert new.connections == 0  # RFC 2852 §7

    run(body())


def test_while_no_host_can_be_reached_the_mail_waits(run: Run) -> None:
    outcome = run(outcome_at(Peer(greeting=[Last("421 4.3.2 busy")]), job(deadline=deadline(1000, "R"))))
    assert outcome.kind is Kind.DEFERRED


def test_a_peer_without_deliverby_gets_mail_in_mode_n_and_is_asked_to_tell_of_delays(run: Run) -> None:
    outcome = run(outcome_at(peer := Peer(extensions=["DSN"]), job(deadline=deadline(1000, "N"))))
    assert commands(peer) == [
        "MAIL FROM:<from@example.org>",
        f"RCPT TO:<{TO}> NOTIFY=FAILURE,DELAY ORCPT=rfc822;{TO}",
    ]
    assert outcome.kind is Kind.DELIVERED


def test_a_kept_session_serves_others_after_mail_that_it_could_not_take(run: Run) -> None:
    async def body() -> None:
        async with (peer := Peer()).run():
            transport = SmtpTransport(options())
            late = await transport.deliver(job(deadline=deadline(1000, "R")), Route([peer.hop]))
            plain = await transport.deliver(job(), Route([peer.hop]))
            await transport.close()
        assert (late[TO].enhanced_code, plain[TO].kind, peer.connections) == ("5.3.3", Kind.DELIVERED, 1)

    run(body())


def test_a_peer_that_refuses_the_parameters_it_announced_has_the_last_word(run: Run) -> None:
    outcome = run(
        outcome_at(Peer(extensions=["DELIVERBY"], mail=["555 5.5.4 not today"]), job(deadline=deadline(9, "N")))
    )
    assert (outcome.kind, outcome.code) == (Kind.FAILED, 555)
