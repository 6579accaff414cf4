"""The processes of a benchmark, with real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.processes import BenchError, Child, Children, answers, cpu_seconds, run
from mailproj.ports import free_port

SERVE = "import socket; s = socket.create_server(('127.0.0.1', {port}))\nwhile True: s.accept()"


def test_a_process_that_answers_ends_with_its_context(tmp_path: Path) -> None:
    port = free_port()
    with Children(tmp_path) as children:
        child = children.start("server", [sys.executable, "-c", SERVE.format(port=port)], port=port)
        assert answers(port)
    assert child.process.returncode is not None
    assert not answers(port)


def test_processes_end_when_the_benchmark_is_interrupted(tmp_path: Path) -> None:
    started: list[Child] = []

    def interrupted() -> None:
        with Children(tmp_path) as children:
            started.append(children.start("waiting", [sys.executable, "-c", "import signal; signal.pause()"]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert started[0].process.returncode is not None


def test_a_process_that_ends_instead_of_answering_is_reported_with_its_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import sys; print('no such port'); sys.exit(3)"]
    words = r"(?s)server ended with status 3.*no such port"
    with Children(tmp_path) as children, pytest.raises(BenchError, match=words):
        children.start("server", argv, port=free_port())


def test_a_program_that_fails_is_reported_with_its_words() -> None:
    with pytest.raises(BenchError, match="went wrong"):
        run([sys.executable, "-c", "import sys; sys.exit('it went wrong')"])


def test_a_program_that_takes_too_long_is_ended_and_reported_with_its_words() -> None:
    with pytest.raises(BenchError, match=r"(?s)took more than 4 s:.*so far"):
        run([sys.executable, "-c", "import signal; print('so far', flush=True); signal.pause()"], seconds=4)


def test_processor_time_counts_children_that_have_ended(tmp_path: Path) -> None:
    work = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    waiting = f"{work}\nprint('done', flush=True)\nimport signal; signal.pause()"
    with Children(tmp_path) as children:
        child = children.start("parent", [sys.executable, "-c", waiting])
        while "done" not in child.last_words():
            child.check()
        assert cpu_seconds([child.pid]) > 0.05
