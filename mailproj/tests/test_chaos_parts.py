"""The parts of `make chaos` that decide: what vouches for a message, and what counts as lost."""

from __future__ import annotations

import random
import smtplib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos import letters
from chaos.letters import Copy, Report
from chaos.load import Answer, Sent, draw_recipients
from chaos.monkey import TREE, Kill, plan
from chaos.sink import Arrival, Sink
from chaos.verify import AFTER_KILL_SECONDS, BEFORE_KILL_SECONDS, Findings, judge

SENDER, STRANGER, OURS, HARD = "john@example.com", "r1@d1.test", "user@example.com", "hard-r1@d1.test"


# --- messages


@given(st.binary(max_size=300))
def test_a_message_is_known_again_below_trace_fields(body: bytes) -> None:
    octets = letters.for_smtp(7, SENDER, [STRANGER], body)
    found = letters.read(b"Return-Path: <>\r\nReceived: from here\r\n\tby there\r\n" + octets)
    assert isinstance(found, Copy)
    assert found.number == 7 and found.is_intact


@pytest.mark.parametrize("place", ["Subject: chaos", "Date: Thu", "the last octets"])
def test_a_change_anywhere_below_the_mark_is_seen(place: str) -> None:
    octets = letters.for_smtp(7, SENDER, [STRANGER], b"A line\r\nand the last octets\r\n")
    found = letters.read(octets.replace(place.encode(), b"X" + place.encode()[1:]))
    assert isinstance(found, Copy)
    assert not found.is_intact


def test_a_message_that_was_cut_short_is_not_intact() -> None:
    octets = letters.for_smtp(7, SENDER, [STRANGER], letters.hostile_body(random.Random(1)))
    for length in (len(octets) - 1, len(octets) // 2, octets.index(b"\r\n\r\n") + 2):
        found = letters.read(octets[:length])
        assert isinstance(found, Copy)
        assert not found.is_intact


def test_a_message_by_http_vouches_for_its_body_whatever_fields_the_server_wrote() -> None:
    text = letters.plain_text(random.Random(1)).replace("\n", "\r\n").encode()
    mark = letters.mark(8, "body", text).encode()
    found = letters.read(b"Date: x\r\nX-Chaos: " + mark + b"\r\nMIME-Version: 1.0\r\n\r\n" + text)
    assert isinstance(found, Copy)
    assert found.number == 8 and found.is_intact


def test_a_report_names_the_message_and_who_did_not_get_it() -> None:
    original = letters.for_smtp(9, SENDER, [HARD], b"x\r\n").partition(b"\r\n\r\n")[0]
    dsn = (
        b"Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=b\r\n\r\n--b\r\n\r\n"
        b"Final-Recipient: rfc822; "
        + HARD.encode()
        + b"\r\nAction: failed\r\n\r\n--b\r\n\r\n"
        + original
        + b"\r\n--b--\r\n"
    )
    assert letters.read(dsn) == Report(9, (HARD,))


def test_other_mail_is_not_taken_for_ours() -> None:
    assert letters.read(b"Subject: hello\r\n\r\nX-Chaos is only spoken of\r\n") is None
    assert letters.read(b"") is None


# --- what is done


@pytest.mark.parametrize("kills", [1, 2, 25, 100])
def test_a_plan_has_all_its_kills_and_one_of_the_whole_tree(kills: int) -> None:
    targets = plan(kills, random.Random(3))
    assert len(targets) == kills
    assert targets.count(TREE) == 1


def test_a_plan_of_25_kills_every_process_and_its_seed_repeats_it() -> None:
    targets = plan(25, random.Random(3))
    assert set(targets) == {"worker", "smtp", "writer", "web", "redis", "beat", TREE}
    assert targets == plan(25, random.Random(3))


def test_every_kind_of_recipient_is_drawn() -> None:
    random_source = random.Random(3)
    drawn = [draw_recipients(random_source) for _ in range(200)]
    assert any(len(recipients) == 2 for recipients in drawn)
    assert any(recipients[0].startswith("hard-") for recipients in drawn)
    assert any(recipients[0].endswith("@example.com") for recipients in drawn)


def test_the_sink_takes_most_mail_fails_at_some_and_notes_what_it_took() -> None:
    sink, taken, refused = Sink(seed=3), Counter[int](), 0
    with sink.running():
        for number in range(20):
            content = letters.for_smtp(number, SENDER, [STRANGER], b".dot\r\n..\r\n\xff\r\n")
            try:
                with smtplib.SMTP("127.0.0.1", sink.port, timeout=5) as client:
                    client.sendmail(SENDER, [STRANGER], content)
                taken[number] += 1
            except (smtplib.SMTPException, OSError):
                refused += 1
            with pytest.raises((smtplib.SMTPException, OSError)):
                _send_to_nobody(sink.port)
    assert Counter(arrival.copy.number for arrival in sink.arrivals if arrival.copy) == taken
    assert all(arrival.copy and arrival.copy.is_intact and arrival.recipient == STRANGER for arrival in sink.arrivals)
    assert refused and sum(sink.errors.values()) >= refused


def _send_to_nobody(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        client.sendmail(SENDER, [HARD], b"x\r\n")


# --- the judgement


def _sent(*recipients: str, answer: Answer = Answer.ACCEPTED, number: int = 1) -> Sent:
    return Sent(number, "smtp", recipients, "d", answer, f"msg_{number}" if answer is Answer.ACCEPTED else "", 1000.0)


def _arrival(recipient: str = STRANGER, *, at: float = 1001.0, digest: str = "d", is_intact: bool = True) -> Arrival:
    return Arrival(Copy(1, digest, is_intact), recipient, at)


def _filed(recipient: str = OURS, *, is_verified: bool = True, report: Any = None, digest: str = "d") -> dict[str, Any]:
    copy = None if report else (1, digest, True)
    return {"recipient": recipient, "at": 1002.0, "is_verified": is_verified, "copy": copy, "report": report}


def _judge(sent: list[Sent], arrivals: list[Arrival], **books: Any) -> Findings:
    kills = books.pop("kills", [])
    return judge(sent, arrivals, {"messages": {}, "entries": [], "filed": []} | books, kills)


def test_copies_that_arrived_are_delivered_and_their_delay_is_told() -> None:
    found = _judge([_sent(STRANGER, OURS)], [_arrival(at=1007.5)], filed=[_filed()])
    assert (found.delivered, found.filed, found.lost, found.longest_delay) == (1, 1, 0, 7.5)
    assert not found.faults


@pytest.mark.parametrize("state", ["delivered", "bounced", "failed"])
def test_what_the_books_call_ended_but_nobody_has_is_lost(state: str) -> None:
    found = _judge([_sent(STRANGER)], [], entries=[("msg_1", STRANGER, state)])
    assert found.lost == 1 and found.faults


def test_an_accepted_message_without_an_entry_is_lost() -> None:
    assert _judge([_sent(STRANGER)], []).lost == 1


def test_one_recipients_copy_does_not_stand_for_the_other_ones() -> None:
    found = _judge([_sent(STRANGER, OURS)], [_arrival()], entries=[("msg_1", OURS, "delivered")])
    assert (found.delivered, found.lost) == (1, 1)


@pytest.mark.parametrize("state", ["pending", "retry"])
def test_what_is_still_in_the_queue_is_not_lost(state: str) -> None:
    found = _judge([_sent(STRANGER)], [], entries=[("msg_1", STRANGER, state)])
    assert (found.queued, found.lost, found.faults) == (1, 0, [])


def test_a_bounce_counts_only_with_its_report_and_only_for_whom_the_next_hop_refuses() -> None:
    report = _filed(SENDER, report=(1, [HARD]))
    assert _judge([_sent(HARD)], [], filed=[report]).bounced == 1
    assert _judge([_sent(HARD)], [], entries=[("msg_1", HARD, "bounced")]).lost == 1
    wrongly = _judge([_sent(STRANGER)], [], filed=[_filed(SENDER, report=(1, [STRANGER]))])
    assert wrongly.wrongly_bounced == 1 and wrongly.faults


@pytest.mark.parametrize(
    "arrival", [_arrival(is_intact=False), _arrival(digest="of another message"), Arrival(None, STRANGER, 1001.0)]
)
def test_a_changed_copy_at_the_next_hop_is_corrupt(arrival: Arrival) -> None:
    assert _judge([_sent(STRANGER)], [arrival]).corrupt == 1


def test_a_changed_copy_in_a_mailbox_or_the_spool_is_corrupt() -> None:
    assert _judge([_sent(OURS)], [], filed=[_filed(is_verified=False)]).corrupt == 1
    assert _judge([_sent(OURS)], [], filed=[_filed(digest="another")]).corrupt == 1
    assert _judge([_sent(STRANGER)], [_arrival()], messages={"msg_1": False}).corrupt == 1


@pytest.mark.parametrize(
    ("target", "seconds", "is_explained"),
    [
        ("worker", 1.0, True),
        (TREE, -AFTER_KILL_SECONDS / 2, True),
        ("worker", BEFORE_KILL_SECONDS + 0.1, False),
        ("worker", -AFTER_KILL_SECONDS - 0.1, False),
        ("web", 1.0, False),
        ("redis", 1.0, False),
    ],
)
def test_a_duplicate_needs_a_killed_worker_beside_its_first_copy(
    target: str, seconds: float, is_explained: bool
) -> None:
    arrivals = [_arrival(at=1001.0), _arrival(at=1020.0)]
    found = _judge([_sent(STRANGER)], arrivals, kills=[Kill(target, 1001.0 + seconds)])
    assert (found.duplicates_beside_a_kill, found.other_duplicates) == ((1, 0) if is_explained else (0, 1))
    assert bool(found.faults) is not is_explained


def test_nothing_may_be_filed_twice_not_even_a_report() -> None:
    assert _judge([_sent(OURS)], [], filed=[_filed(), _filed()]).filed_twice == 1
    report = _filed(SENDER, report=(1, [HARD]))
    assert _judge([_sent(HARD)], [], filed=[report, report]).filed_twice == 1


def test_what_was_in_doubt_may_arrive_or_not_but_never_changed() -> None:
    in_doubt = _sent(STRANGER, answer=Answer.IN_DOUBT)
    assert not _judge([in_doubt], []).faults
    assert _judge([in_doubt], [_arrival()]).in_doubt_arrived == 1
    assert _judge([in_doubt], [_arrival(is_intact=False)]).corrupt == 1
