"""Starts processes in order, starts them again when they die, ends them in order: the engine of `manage.py runall`.

Services come in stages. A stage is started when the one before it answers and is ended before it, so that the doors
(web, SMTP) open last and close first. It must be run from the main thread (`mailproj.lifeline`).
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from mailproj.lifeline import ends_with_this_process

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0  # seconds before a dead process is started again, doubled each time
STEADY_AFTER = 30.0  # a process that lived this long starts again at the first delay
START_LIMIT = 60.0  # for one stage to answer
STARTS_TRIED = 3  # of a process that ends by itself while the system starts
STOP_LIMIT = 8.0  # for all stages together; what is left then is killed
LOG_LIMIT_OCTETS = 10 * 1024 * 1024


class StartFailed(Exception):
    """The system could not be started; the text is the line that the operator reads."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process to keep alive. `answers` is asked until it says yes, at the start only."""

    name: str
    argv: Sequence[str]
    answers: Callable[[], bool] = lambda: True
    standard_input: bytes = b""


class _Child:
    """A service and the process that runs it just now, if any."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.delay = FIRST_DELAY
        self.start_again_at = 0.0
        self.starts = 0

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock of a data folder, with our process id in it; raises `StartFailed` while another holds it."""
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartFailed(f"Already running on {path.parent.parent} (process {lock.read().strip()}).") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
        lock.truncate(0)


def stop_running(path: Path, patience: float = STOP_LIMIT + 4) -> bool:
    """Ask whoever holds the lock to end, and wait until it has; return whether anybody held it."""
    asked = False
    deadline = time.monotonic() + patience
    while True:
        try:
            with only_one(path):
                return asked
        except StartFailed:
            if not asked:
                os.kill(int(path.read_text()), signal.SIGTERM)
                asked = True
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Supervisor:
    """Runs stages of services until SIGTERM or SIGINT.

    Process ids are in `run_dir/NAME.pid`. Output goes to `log_dir/NAME.log`, without a `log_dir` to where ours goes.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Service]],
        *,
        run_dir: Path,
        log_dir: Path | None,
        folder: Path,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        stop_limit: float = STOP_LIMIT,
    ) -> None:
        self._stages = [[_Child(service) for service in stage] for stage in stages]
        self._run_dir, self._log_dir, self._folder = run_dir, log_dir, folder
        self._environment = dict(environment)
        self._say = say
        self._stop_limit = stop_limit
        self._stopping = False
        self._wake_up, self._woken = socket.socketpair()

    def run(self, announce: Callable[[], None]) -> None:
        """Start everything, announce it, and keep it alive until a signal; raises `StartFailed`."""
        with self._signals_caught():
            try:
                for stage in self._stages:
                    self._start_stage(stage)
                if not self._stopping:
                    announce()
                while not self._stopping:
                    self._look_after()
                    self._wait(self._seconds_to_next_start())
            finally:
                self._stop_everything()

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        """Let SIGTERM, SIGINT and the end of a child interrupt `_wait`; handlers only take notes."""
        self._woken.setblocking(False)
        self._wake_up.setblocking(False)
        signal.set_wakeup_fd(self._wake_up.fileno(), warn_on_full_buffer=False)
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGCHLD: lambda *_: None}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _wait(self, seconds: float) -> None:
        """Sleep until a signal or the end of the time."""
        if select.select([self._woken], [], [], max(0.0, seconds))[0]:
            self._woken.recv(4096)

    # --- starting

    def _start_stage(self, stage: Sequence[_Child]) -> None:
        for child in stage:
            if not self._stopping:
                self._start(child)
        deadline = time.monotonic() + START_LIMIT
        waiting = list(stage)
        while waiting and not self._stopping:
            self._look_after()
            waiting = [child for child in waiting if not self._answers(child)]
            for child in waiting:
                if time.monotonic() > deadline or (child.starts >= STARTS_TRIED and not child.is_alive):
                    raise StartFailed(f"{child.name} did not start{self._last_words(child)}")
            self._wait(0.1 if waiting else 0.0)

    def _answers(self, child: _Child) -> bool:
        return child.is_alive and child.service.answers()

    def _start(self, child: _Child) -> None:
        output = self._output(child.name)
        try:
            child.process = subprocess.Popen(
                child.service.argv,
                stdin=subprocess.PIPE if child.service.standard_input else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in the terminal is for us alone
                preexec_fn=ends_with_this_process(),
            )
        finally:
            if output is not None:
                output.close()
        child.started_at = time.monotonic()
        child.starts += 1
        self._write_pid(child.name, child.process.pid)
        if child.process.stdin is not None:
            with child.process.stdin as stream:
                stream.write(child.service.standard_input)

    def _output(self, name: str) -> IO[bytes] | None:
        return (self._log_dir / f"{name}.log").open("ab") if self._log_dir else None

    def _write_pid(self, name: str, pid: int) -> None:
        """Replace the file in one step: a reader never sees half a number."""
        fresh = self._run_dir / f"{name}.pid.new"
        fresh.write_text(f"{pid}\n")
        fresh.replace(self._run_dir / f"{name}.pid")

    # --- keeping alive

    def _look_after(self) -> None:
        now = time.monotonic()
        for child in self._children():
            if child.process is None:
                if child.starts and now >= child.start_again_at:
                    self._start(child)
            elif child.process.poll() is not None:
                self._note_end(child, child.process, now)
        self._shorten_logs()

    def _note_end(self, child: _Child, process: subprocess.Popen[bytes], now: float) -> None:
        if now - child.started_at >= STEADY_AFTER:
            child.delay = FIRST_DELAY
        _kill_group(process)
        self._say(f"{child.name} (process {process.pid}) {_how_it_ended(process)}; it is started again.")
        child.process = None
        child.start_again_at = now + child.delay
        child.delay = min(LONGEST_DELAY, child.delay * 2)

    def _seconds_to_next_start(self) -> float:
        due = [child.start_again_at for child in self._children() if child.process is None]
        return min(due) - time.monotonic() if due else 60.0

    def _children(self) -> Iterator[_Child]:
        for stage in self._stages:
            yield from stage

    def _shorten_logs(self) -> None:
        """Keep one older copy of a log that has grown; processes append, so they go on at the start of the file."""
        for path in self._log_dir.glob("*.log") if self._log_dir else ():
            if path.stat().st_size > LOG_LIMIT_OCTETS:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)

    def _last_words(self, child: _Child) -> str:
        if self._log_dir is None:
            return "."
        lines = (self._log_dir / f"{child.name}.log").read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else " and said nothing."

    # --- stopping

    def _stop_everything(self) -> None:
        """End the last stage first; each may use what the ones before it left of its share of the time."""
        began = time.monotonic()
        for index, stage in enumerate(reversed(self._stages), start=1):
            self._stop_stage(stage, deadline=began + self._stop_limit * index / len(self._stages))

    def _stop_stage(self, stage: Sequence[_Child], deadline: float) -> None:
        running = [child.process for child in stage if child.process is not None]
        for process in running:
            process.terminate()
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            self._wait(min(0.05, deadline - time.monotonic()))
        for process in running:
            _kill_group(process)
            process.wait()
        for child in stage:
            (self._run_dir / f"{child.name}.pid").unlink(missing_ok=True)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and its own children; it leads a group of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
