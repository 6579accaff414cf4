"""The benches of hostile load, as small as they get: what must be whole is asserted, what is measured is not."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from bench import attackers, flood, memory
from bench.attackers import Cut
from bench.latency import HEAD, Goal, Trips, rows
from bench.memory import Sent
from bench.processes import family, run
from bench.report import grid
from bench.resident import folder_octets, peak_octets, resident_octets
from bench.smtp_client import Unexpected, dotted, message_id

GOAL = Goal(median=0.2, worst=1.0)


def bench(*arguments: str, folder: Path) -> str:
    return run([sys.executable, "-m", "bench", *arguments, "--folder", str(folder)], seconds=300)


# --- the benches ------------------------------------------------------------------------------------------------------


@pytest.mark.load
def test_hostile_messages_are_stored_whole_while_honest_sessions_are_measured(tmp_path: Path) -> None:
    printed = bench("hostile", "--quick", "--rounds", "1", folder=tmp_path)
    assert "Stored whole: 20 of 20" in printed
    assert "Shown: " in printed
    for row in ("| NOOP, RSET ", "| a small message ", "| 100,000 addresses in Cc ", "| zip bomb "):
        assert row in printed


@pytest.mark.load
def test_large_messages_at_once_are_all_kept(tmp_path: Path) -> None:
    printed = bench("memory", "--sessions", "3", "--megabytes", "3", folder=tmp_path)
    assert "3 of 3 sessions were in the middle at once; 9 MB were sent" in printed
    assert "Answers: 3 × 250: met." in printed
    assert "Promised and lost: 0; of 5 read back, altered: 0." in printed


@pytest.mark.load
def test_an_honest_client_gets_through_while_places_are_held(tmp_path: Path) -> None:
    printed = bench("flood", "--quick", "--sessions", "10", "--patience", "3", folder=tmp_path)
    assert " failed: " not in printed
    for kind in flood.EXPECTED:
        assert f"| {kind} " in printed


# --- their parts ------------------------------------------------------------------------------------------------------


def test_a_percentile_is_a_value_that_was_measured() -> None:
    trips = Trips([0.001 * number for number in range(100, 0, -1)])
    assert trips.percentile(0.99) == pytest.approx(0.099)
    assert trips.percentile(1) == trips.worst == pytest.approx(0.1)
    assert Trips([0.5]).percentile(0.99) == 0.5


@pytest.mark.parametrize(
    ("trips", "is_met"),
    [
        (Trips([0.2, 0.2, 1.0]), True),
        (Trips([0.2, 0.2, 1.1]), False),
        (Trips([0.1, 0.21, 0.3]), False),
        (Trips([0.1], ["the session broke"]), False),
        (Trips(), False),
    ],
)
def test_a_goal_is_missed_by_a_slow_median_by_one_slow_trip_and_by_a_failure(trips: Trips, is_met: bool) -> None:
    assert trips.meets(GOAL) is is_met


def test_the_table_has_the_goal_and_the_failures_beside_the_figures() -> None:
    _, _, idle, loaded = grid(HEAD, rows("NOOP", Trips([0.001]), Trips([2.0], ["reset"]), "a load", GOAL)).splitlines()
    assert [cell.strip() for cell in idle.strip("|").split("|")] == ["NOOP", "idle", "1", "1.0", "1.0", "1.0", "", ""]
    assert [cell.strip() for cell in loaded.strip("|").split("|")] == [
        *("NOOP", "a load", "1", "2000", "2000", "2000", "200 / 1000", "missed; 1 failed: reset")
    ]


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (Cut("NOOP without end", "421 4.7.0 enough", 1, is_closed=True), ""),
        (Cut("NOOP without end", "421 4.7.0 enough", 31, is_closed=True), "were let go on for too long"),
        (Cut("NOOP without end", "250 2.0.0 OK", 1, is_closed=True), "heard something else"),
        (Cut("an octet a second of a message", "354 go on", 120, is_closed=False), "were not cut off"),
        (Cut(attackers.BEYOND_CAP, "421 4.3.2 too many", 0.1, is_closed=True), ""),
        (Cut(attackers.NEVER_READING, "", 40, is_closed=True), ""),
    ],
)
def test_an_attack_must_end_by_the_listener_in_time_and_with_the_right_reply(cut: Cut, words: str) -> None:
    assert flood.fault(cut, 100) == words


@pytest.mark.parametrize(("free_after", "failures"), [(3, 0), (10**6, 1)])
def test_an_honest_client_that_finds_no_place_fails_only_if_none_comes(
    free_after: int, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that comes after the attacks have ended is a long trip, not a failure."""
    refused = Counter[str]()
    is_full = threading.Event()

    class Client:
        def __init__(self, _port: int) -> None: ...

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_reason: object) -> None: ...

        def greet(self) -> None:
            if refused["times"] >= free_after:
                return
            refused["times"] += 1
            is_full.set()
            raise Unexpected("greeting: 421 4.3.2 Too many connections, try again later")

        def deliver(self, *_message: object) -> str:
            return "250 2.0.0 OK"

        def ask(self, *_question: str) -> None: ...

    monkeypatch.setattr(flood, "SmtpClient", Client)
    monkeypatch.setattr(flood, "RETRY_SECONDS", 0)
    monkeypatch.setattr(flood, "LAST_TRY_SECONDS", 0.05 if failures else 30)
    with flood.Deliveries(0) as deliveries:
        is_full.wait(30)
    assert len(deliveries.trips.failures) == failures
    assert bool(deliveries.trips.seconds) is not bool(failures)


def test_a_lost_message_or_a_session_without_an_answer_is_no_good_end() -> None:
    def outcome(*replies: str, lost: int = 0, altered: int = 0) -> memory.Outcome:
        sent = [Sent(reply) for reply in replies]
        return memory.Outcome(sent, 2, 1, {"listener": 5 << 20}, 0, 0, lost, altered)

    assert outcome("250 2.0.0 OK", "452 4.3.1 full").is_whole
    assert not outcome("250 2.0.0 OK", "").is_whole
    assert not outcome("250 2.0.0 OK", lost=1).is_whole
    assert not outcome("250 2.0.0 OK", altered=1).is_whole
    assert "| listener  | 5 " in memory.report(outcome("250 OK", "no reply: reset"))
    assert "1 × 250, 1 × no reply: reset: missed" in memory.report(outcome("250 OK", "no reply: reset"))


@pytest.mark.parametrize(
    ("content", "octets"),
    [
        (b"a\r\n", b"a\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.\r\n..b\r\n.c\r\n", b"a\r\n..\r\n...b\r\n..c\r\n.\r\n"),
        (b"a.b\r\n", b"a.b\r\n.\r\n"),
    ],
)
def test_a_dot_at_the_beginning_of_a_line_is_doubled(content: bytes, octets: bytes) -> None:
    assert dotted(content) == octets


def test_only_a_promise_names_a_message() -> None:
    assert message_id("250 2.0.0 OK queued as msg_01abc") == "msg_01abc"
    assert message_id("451 4.3.0 not msg_01abc") == ""


def test_a_process_and_its_descendants_are_watched(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    assert folder_octets(tmp_path) >= 100_000
    assert os.getpid() in family([os.getpid()])
    assert resident_octets(os.getpid()) > 0
    assert peak_octets(os.getpid()) > 1 << 20
    assert resident_octets(2**22 + 1) == 0
