"""Whether a process still runs is told of this machine's processes alone, and never guessed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from queue.pacing import process_mark


def mark_of(process: int) -> str:
    """Return the mark as the process itself would give it."""
    machine, _, _ = process_mark.own().rsplit(":", 2)
    return f"{machine}:{process}:{process_mark._fields(process)[process_mark._BEGAN]}"


def test_this_process_runs() -> None:
    assert process_mark.own()
    assert not process_mark.has_ended(process_mark.own())


def test_one_that_was_killed_has_ended_also_before_its_parent_asked() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = mark_of(child.pid)
    assert not process_mark.has_ended(mark)
    child.kill()
    while process_mark._fields(child.pid)[process_mark._STATE] != "Z":
        pass
    assert process_mark.has_ended(mark)
    child.communicate()
    assert process_mark.has_ended(mark)


def test_an_id_that_another_process_has_now_is_no_sign_of_life() -> None:
    assert process_mark.has_ended(process_mark.own() + "0")


@pytest.mark.parametrize("mark", ["", ":", "::", "another-boot:pid:[1]:1:1", "x" * 100])
def test_of_another_machine_nothing_is_known(mark: str) -> None:
    assert not process_mark.has_ended(mark)


def test_a_system_that_says_nothing_has_no_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = process_mark.own()
    monkeypatch.setattr(process_mark, "_PROC", tmp_path)
    assert process_mark.own() == ""
    assert not process_mark.has_ended(mark)
    assert not process_mark.has_ended("")
