"""The supervisor over real processes: small stand-ins that say on one pipe what happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailflow.listener import server
from mailproj.management.commands.runall import DOORS_ALONE_SECONDS, LONGEST_DRAIN, STOP_SECONDS
from mailproj.supervisor import LOG_LIMIT_OCTETS, STOP_LIMIT, StartFailed, only_one, stop_running
from mailproj.tests.starting import ROOT
from queue import engine


class Running:
    """A supervisor, and what was said on its pipe so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._heard: list[str] = []

    def hear(self, wanted: str) -> str:
        """Return the line that contains the text, heard already or still to come."""
        return next((line for line in self._heard if wanted in line), None) or self.hear_next(wanted)

    def hear_next(self, wanted: str) -> str:
        """Return the next line that contains the text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._heard.append(str(line).strip())
            if wanted in line:
                return self._heard[-1]
        pytest.fail(f"{wanted!r} was never said, only {self._heard}")

    def count(self, text: str) -> int:
        return sum(text in line for line in self._heard)

    def rest(self) -> list[str]:
        """Return what is said until the pipe ends, which it does when nobody holds it: no process is left."""
        said = self.process.communicate(timeout=60)[0].splitlines()
        self._heard.extend(said)
        return said


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a supervisor over stages of `(name, behaviour)` or `(name, behaviour, stop_seconds)`."""
    started = []

    def start(*stages: list[tuple[str, str] | tuple[str, str, float]], stop_limit: float = 20) -> Running:
        arguments = ["-m", "mailproj.tests.supervised", str(tmp_path), str(stop_limit), json.dumps(stages)]
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return Running(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_at, "it did not happen in time"
        time.sleep(0.01)  # polling another process's work, bounded above


def pid_of(name: str, folder: Path) -> int:
    return int((folder / f"{name}.pid").read_text())


def test_everything_is_announced_after_the_last_stage_has_started(start: Start) -> None:
    running = start([("store", "")], [("door", "")])
    running.hear("announced")
    running.hear("store is up")
    running.hear("door is up")


def test_the_last_stage_ends_first(start: Start) -> None:
    running = start([("store", "")], [("worker", "")], [("door", "")])
    for word in ("store is up", "worker is up", "door is up", "announced"):
        running.hear(word)
    running.process.send_signal(signal.SIGTERM)
    assert [line for line in running.rest() if line.endswith(" ends")] == ["door ends", "worker ends", "store ends"]
    assert running.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_with_status_0(number: signal.Signals, start: Start, tmp_path: Path) -> None:
    running = start([("worker", "")])
    running.hear("announced")
    running.hear("worker is up")
    running.process.send_signal(number)
    assert running.rest()[-1] == "worker ends"
    assert running.process.returncode == 0
    assert not (tmp_path / "worker.pid").exists()


def test_a_killed_process_is_started_again_and_one_line_says_so(start: Start, tmp_path: Path) -> None:
    running = start([("worker", "")])
    running.hear("worker is up")
    running.hear("announced")
    first = pid_of("worker", tmp_path)
    os.kill(first, signal.SIGKILL)
    assert running.hear_next("worker (") == f"worker (process {first}) ended by SIGKILL; it is started again."
    running.hear_next("worker is up")
    assert pid_of("worker", tmp_path) != first


def test_a_process_that_cannot_be_started_again_is_tried_until_it_can(start: Start, tmp_path: Path) -> None:
    work, log = tmp_path / "work", tmp_path / "log" / "worker.log"
    work.mkdir()
    log.parent.mkdir()
    running = start([("worker", "")])
    running.hear("announced")
    work.rename(tmp_path / "away")
    os.kill(pid_of("worker", tmp_path), signal.SIGKILL)
    running.hear_next("worker cannot be started: [Errno 2] No such file or directory")
    for _ in range(2):  # each try opens the log
        log.unlink()
        until(log.exists)
    (tmp_path / "away").rename(work)
    until(lambda: "worker is up" in log.read_text())
    running.process.send_signal(signal.SIGTERM)
    running.rest()
    assert running.process.returncode == 0
    assert running.count("cannot be started") == 1


def test_a_process_goes_on_while_its_id_cannot_be_noted(start: Start, tmp_path: Path) -> None:
    running = start([("worker", "")])
    running.hear("worker is up")
    running.hear("announced")
    first = pid_of("worker", tmp_path)
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    tmp_path.rename(away)
    tmp_path.write_text("a file in the place of the folder")
    os.kill(first, signal.SIGKILL)
    running.hear_next("The process id of worker cannot be noted: [Errno 20] Not a directory")
    tmp_path.unlink()
    away.rename(tmp_path)
    until(lambda: pid_of("worker", tmp_path) != first)
    running.process.send_signal(signal.SIGTERM)
    assert running.rest()[-1] == "worker ends"
    assert running.process.returncode == 0
    assert (running.count("cannot be noted"), running.count("worker is up")) == (1, 2)


def test_a_log_that_cannot_be_shortened_is_shortened_later(start: Start, tmp_path: Path) -> None:
    log, older = tmp_path / "log" / "worker.log", tmp_path / "log" / "worker.log.1"
    log.parent.mkdir()
    older.mkdir()
    log.write_bytes(b"x" * (LOG_LIMIT_OCTETS + 1))
    running = start([("worker", "")])
    running.hear("worker.log cannot be shortened: [Errno 21] Is a directory")
    running.hear("announced")
    older.rmdir()
    os.kill(pid_of("worker", tmp_path), signal.SIGKILL)  # after which it looks around
    running.hear_next("it is started again")
    until(lambda: log.stat().st_size < LOG_LIMIT_OCTETS)
    assert older.stat().st_size > LOG_LIMIT_OCTETS
    assert running.count("cannot be shortened") == 1


def test_a_first_start_that_the_system_refuses_is_one_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "worker.pid.new").mkdir()
    running = start([("worker", "")])
    assert "worker cannot be started: [Errno 21] Is a directory" in running.rest()[-1]
    assert running.process.returncode == 1


def test_a_stubborn_process_is_killed_when_its_time_is_over_and_the_next_stage_has_its_own(start: Start) -> None:
    running = start([("store", "")], [("worker", "stubborn", 2.0)])
    for word in ("store is up", "worker is up", "announced"):
        running.hear(word)
    running.process.send_signal(signal.SIGTERM)
    assert running.rest() == ["worker refuses", "store ends"]
    assert running.process.returncode == 0


def test_the_limit_of_all_holds_against_a_stubborn_process_with_more_time(start: Start) -> None:
    running = start([("worker", "stubborn", 3600.0)], [("door", "stubborn", 3600.0)], stop_limit=1)
    for word in ("worker is up", "door is up", "announced"):
        running.hear(word)
    running.process.send_signal(signal.SIGTERM)
    running.rest()  # which waits for a minute at most
    assert running.process.returncode == 0


def test_a_stage_may_use_what_the_one_before_it_left(start: Start) -> None:
    running = start([("worker", "", 0.0)], [("door", "", 20.0)])
    for word in ("worker is up", "door is up", "announced"):
        running.hear(word)
    running.process.send_signal(signal.SIGTERM)
    assert running.rest() == ["door ends", "worker ends"]


def test_a_stage_is_asked_to_end_beside_one_that_has_had_its_time_alone(start: Start) -> None:
    running = start([("store", "")], [("worker", "")], [("door", "stubborn", 5.0, 0.2)])
    for word in ("store is up", "worker is up", "door is up", "announced"):
        running.hear(word)
    running.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    running.hear_next("worker ends")
    assert 0.2 <= time.monotonic() - began < 4.9
    assert running.rest() == ["store ends"]
    assert time.monotonic() - began >= 5.0  # the door had its time, and the store served it to its end


def test_the_times_to_stop_stay_within_ten_seconds() -> None:
    worker = max(STOP_SECONDS[name] for name in ("worker", "beat"))
    assert DOORS_ALONE_SECONDS + worker + STOP_SECONDS["redis"] <= STOP_LIMIT <= 9
    assert STOP_SECONDS["smtp"] + STOP_SECONDS["redis"] <= STOP_LIMIT


def test_what_is_under_way_at_the_end_has_less_time_than_its_process() -> None:
    assert STOP_SECONDS["smtp"] > LONGEST_DRAIN + server.COMMIT_SECONDS + server.FLUSH_SECONDS
    assert DOORS_ALONE_SECONDS > server.GOODBYE_SECONDS
    assert STOP_SECONDS["worker"] > engine.DRAIN_SECONDS


def test_no_process_outlives_a_killed_supervisor(start: Start) -> None:
    running = start([("store", "")], [("worker", "stubborn")])
    for word in ("store is up", "worker is up", "announced"):
        running.hear(word)
    running.process.kill()
    assert running.rest() == []  # the pipe has ended: whoever held it is gone


def test_a_process_that_cannot_start_ends_the_start(start: Start) -> None:
    running = start([("store", "")], [("worker", "failing")])
    assert "worker did not start." in running.rest()
    assert running.process.returncode == 1


def test_a_process_gets_its_configuration_on_standard_input_each_time(start: Start, tmp_path: Path) -> None:
    running = start([("redis", "reader")])
    assert running.hear("redis is up").endswith("having read")
    running.hear("announced")
    os.kill(pid_of("redis", tmp_path), signal.SIGKILL)
    assert running.hear_next("redis is up").endswith("having read")


def test_a_second_supervisor_is_refused_with_one_line(start: Start, tmp_path: Path) -> None:
    first = start([("worker", "")])
    first.hear("announced")
    second = start([("worker", "")])
    assert second.rest() == [f"Already running on {tmp_path.parent} (process {first.process.pid})."]
    assert second.process.returncode == 1


def test_a_killed_supervisor_leaves_no_lock_behind(start: Start, tmp_path: Path) -> None:
    first = start([("worker", "")])
    first.hear("announced")
    first.process.kill()
    first.rest()
    with only_one(tmp_path / "runall.pid"):
        assert (tmp_path / "runall.pid").read_text() == f"{os.getpid()}\n"


def test_stop_ends_the_supervisor_that_holds_the_lock(start: Start, tmp_path: Path) -> None:
    running = start([("worker", "")])
    running.hear("announced")
    assert stop_running(tmp_path / "runall.pid")
    running.rest()
    assert running.process.returncode == 0
    assert not stop_running(tmp_path / "runall.pid")


def test_the_lock_is_held_by_one(tmp_path: Path) -> None:
    with only_one(tmp_path / "runall.pid"), pytest.raises(StartFailed), only_one(tmp_path / "runall.pid"):
        pass
