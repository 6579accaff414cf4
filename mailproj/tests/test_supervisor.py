"""The supervisor over real processes: small stand-ins that say on one pipe what happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailproj.supervisor import STOP_LIMIT, StartFailed, only_one, stop_running
from mailproj.tests.starting import ROOT


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

    def rest(self) -> list[str]:
        """Return what is said until the pipe ends, which it does when nobody holds it: no process is left."""
        return self.process.communicate(timeout=30)[0].splitlines()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a supervisor over stages of `(name, behaviour)`."""
    started = []

    def start(*stages: list[tuple[str, str]], stop_limit: float = 20) -> Running:
        arguments = ["-m", "mailproj.tests.supervised", str(tmp_path), str(stop_limit), json.dumps(stages)]
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return Running(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


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


def test_a_stubborn_process_is_killed_when_its_time_is_over(start: Start) -> None:
    running = start([("store", "")], [("worker", "stubborn")], stop_limit=1)
    for word in ("store is up", "worker is up", "announced"):
        running.hear(word)
    running.process.send_signal(signal.SIGTERM)
    assert running.rest() == ["worker refuses", "store ends"]
    assert running.process.returncode == 0


def test_the_time_to_stop_stays_within_ten_seconds() -> None:
    assert STOP_LIMIT <= 9


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
