"""The processes of a benchmark: started from one place, seen to answer, all of them ended, also by Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mailproj.lifeline import ends_with_this_process

PROJECT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 15.0
QUIET_SECONDS = 20.0
QUIET_SHARE = 0.1  # of one core: less counts as having nothing left to do
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A benchmark that cannot go on; the text is for whoever started it."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise `BenchError` with the end of the log if the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise BenchError(f"{self.name} ended with status {status}:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:]) or "(it said nothing)"

    def stop(self) -> None:
        """Ask it to end, insist after `STOP_SECONDS`."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class Children:
    """A context in which processes are started; they end with it, the last one first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            child.stop()
        self._children.clear()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        standard_input: bytes = b"",
        port: int = 0,
    ) -> Child:
        """Start a process, out of reach of the terminal's Ctrl-C; with a `port`, wait until it answers there."""
        log = self._folder / f"{name.replace(',', '').replace(' ', '-')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                cwd=PROJECT,
                env=dict(environment) if environment is not None else None,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=ends_with_this_process(),
            )
        child = Child(name, process, log)
        self._children.append(child)
        assert process.stdin is not None
        process.stdin.write(standard_input)
        process.stdin.close()
        if port:
            wait_until(lambda: answers(port), START_SECONDS, f"{name} to answer on port {port}", child)
        return child


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, *children: Child, interval: float = 0.005
) -> None:
    """Poll until the condition holds; raises `BenchError` after `seconds`, or when one of the children ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            words = "\n".join(f"--- {child.name}\n{child.last_words()}" for child in children)
            raise BenchError(f"Waited {seconds:.0f} s for {what}.\n{words}")
        time.sleep(interval)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return bool(connection.fileno())
    except OSError:
        return False


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None, *, seconds: float | None = None) -> str:
    """Run a program to its end and return what it printed; raises `BenchError` with its words if it fails.

    One that takes longer than `seconds` is killed with its process group, so that nobody waits for ever; the
    error tells what it had said by then.
    """
    with subprocess.Popen(
        argv, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said = "".join(process.communicate())
            raise BenchError(f"{' '.join(argv)} took more than {seconds} s:\n{said.strip()[-2000:]}") from None
    done = subprocess.CompletedProcess(argv, process.returncode, output, errors)
    if done.returncode:
        raise BenchError(f"{' '.join(argv)} failed ({done.returncode}):\n{(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def cpu_seconds(roots: Sequence[int]) -> float:
    """Return the processor time so far of these processes, their descendants, and those of them that have ended."""
    ticks = {pid: sum(map(int, fields[11:15])) for pid, fields in _statistics().items()}
    return sum(ticks.get(pid, 0) for pid in family(roots)) / _TICKS


def family(roots: Sequence[int]) -> set[int]:
    """Return these processes and all their descendants that run now."""
    parents = {pid: int(fields[1]) for pid, fields in _statistics().items()}
    wanted = set(roots)
    while grown := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= grown
    return wanted


def _statistics() -> dict[int, list[str]]:
    """Return the fields of every process's `stat` behind its name (proc(5))."""
    found: dict[int, list[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended; its parent counts it
            continue
    return found


def wait_until_quiet(roots: Sequence[int]) -> None:
    """Wait until these processes rest, so that one arm's afterwork is not the next one's load."""
    deadline = time.monotonic() + QUIET_SECONDS
    span = 0.2
    used = cpu_seconds(roots)
    while time.monotonic() < deadline:
        time.sleep(span)
        before, used = used, cpu_seconds(roots)
        if used - before < QUIET_SHARE * span:
            return


def end_by_signal() -> None:
    """Let SIGTERM and SIGINT end the program through every context, also where a shell had SIGINT ignored."""

    def leave(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
