"""Starts processes in order, starts them again when they die, ends them in order: the engine of `manage.py runall`.

Services come in stages. A stage is started when the one before it answers and is ended before it, so that the doors
(web, SMTP) open last and close first. It must be run from the main thread (`mailproj.lifeline`).

Once everything has started only a signal ends it: what the operating system refuses (a full disk, no more processes) is
said once and tried again.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from mailproj.lifeline import ends_with_this_process

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0  # seconds before a dead process is started again, doubled each time
LONGEST_WAIT = 60.0  # between two looks at the logs
STEADY_AFTER = 30.0  # a process that lived this long starts again at the first delay
CLEAN_AFTER = 1.0  # one that ended with status 0 after this long was asked to end: it starts again without a delay
START_LIMIT = 60.0  # for one stage to answer
STARTS_TRIED = 3  # of a process that ends by itself while the system starts
STOP_LIMIT = 9.0  # for all stages together, whatever their shares; what is left then is killed
LOG_LIMIT_OCTETS = 10 * 1024 * 1024


class StartFailed(Exception):
    """The system could not be started; the text is the line that the operator reads."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process to keep alive. `answers` is asked until it says yes, at the start only.

    `stop_seconds` is what it needs to end by itself, `alone_seconds` how much of that the next stage waits for (None:
    for all of it); a stage has the most that one of its services needs.
    """

    name: str
    argv: Sequence[str]
    answers: Callable[[], bool] = lambda: True
    standard_input: bytes = b""
    stop_seconds: float = 1.0
    alone_seconds: float | None = None


class _Child:
    """A service and the process that runs it just now, if any."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: subprocess.Popen[bytes] | None = None
        self.is_noted = False  # its process id is in the file
        self.started_at = 0.0
        self.delay = FIRST_DELAY
        self.next_try_at = 0.0
        self.starts = 0

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_lacking(self) -> bool:
        """Whether it has been started, and something of it is to be done again: the process, or the note of its id."""
        return self.starts > 0 and (self.process is None or not self.is_noted)

    def ended(self, status: int, now: float) -> None:
        """Decide when the process that has just ended is started again."""
        lived = now - self.started_at
        if lived >= STEADY_AFTER:
            self.delay = FIRST_DELAY
        self.process, self.is_noted = None, False
        if status == 0 and lived >= CLEAN_AFTER:
            self.next_try_at = now
        else:
            self.put_off(now)

    def put_off(self, now: float) -> None:
        self.next_try_at = now + self.delay
        self.delay = min(LONGEST_DELAY, self.delay * 2)


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
        self._speak = say
        self._stop_limit = stop_limit
        self._troubles: dict[str, str] = {}  # what cannot be done just now, and the line that was said about it
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
                self._start_first(child)
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

    def _start_first(self, child: _Child) -> None:
        try:
            self._start(child)
            self._note_process(child)
        except OSError as error:
            raise StartFailed(f"{child.name} cannot be started: {error}.") from None

    def _start(self, child: _Child) -> None:
        child.starts += 1
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
        if child.process.stdin is not None:
            with suppress(BrokenPipeError), child.process.stdin as stream:  # it has ended, which is noticed soon
                stream.write(child.service.standard_input)

    def _output(self, name: str) -> IO[bytes] | None:
        return (self._log_dir / f"{name}.log").open("ab") if self._log_dir else None

    def _note_process(self, child: _Child) -> None:
        """Replace the file in one step: a reader never sees half a number."""
        assert child.process is not None
        fresh = self._run_dir / f"{child.name}.pid.new"
        fresh.write_text(f"{child.process.pid}\n")
        fresh.replace(self._run_dir / f"{child.name}.pid")
        child.is_noted = True

    # --- keeping alive

    def _look_after(self) -> None:
        now = time.monotonic()
        for child in self._children():
            if child.process is not None and child.process.poll() is not None:
                self._note_end(child, child.process, now)
            if child.is_lacking and now >= child.next_try_at:
                self._start_again(child)
        self._shorten_logs()

    def _note_end(self, child: _Child, process: subprocess.Popen[bytes], now: float) -> None:
        _kill_group(process)
        self._say(f"{child.name} (process {process.pid}) {_how_it_ended(process)}; it is started again.")
        child.ended(process.returncode, now)

    def _start_again(self, child: _Child) -> None:
        """Do what is lacking; a process that runs is left running where only its id cannot be noted."""
        if child.process is None:
            with self._trouble_said(f"{child.name} cannot be started"):
                self._start(child)
        if child.process is not None:
            with self._trouble_said(f"The process id of {child.name} cannot be noted"):
                self._note_process(child)
        if child.is_lacking:
            child.put_off(time.monotonic())

    @contextmanager
    def _trouble_said(self, what: str) -> Iterator[None]:
        """Outlive what the operating system refuses; it is said once, until it has gone well or fails otherwise."""
        try:
            yield
        except OSError as error:
            line = f"{what}: {error}; it is tried again."
            if self._troubles.get(what) != line:
                self._troubles[what] = line
                self._say(line)
        else:
            self._troubles.pop(what, None)

    def _say(self, line: str) -> None:
        with suppress(OSError):  # nobody reads it, or the disk that it goes to is full
            self._speak(line)

    def _seconds_to_next_start(self) -> float:
        due = [child.next_try_at for child in self._children() if child.is_lacking]
        return min(due) - time.monotonic() if due else LONGEST_WAIT

    def _children(self) -> Iterator[_Child]:
        for stage in self._stages:
            yield from stage

    def _shorten_logs(self) -> None:
        """Keep one older copy of a log that has grown; processes append, so they go on at the start of the file."""
        with self._trouble_said("The logs cannot be looked at"):
            for path in self._log_dir.glob("*.log") if self._log_dir else ():
                with self._trouble_said(f"{path.name} cannot be shortened"):
                    _shorten(path)

    def _last_words(self, child: _Child) -> str:
        if self._log_dir is None:
            return "."
        lines = (self._log_dir / f"{child.name}.log").read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else " and said nothing."

    # --- stopping

    def _stop_everything(self) -> None:
        """End the last stage first, and the next when it has ended or has had its time alone.

        Each may use what the ones before it left of their time.
        """
        began = time.monotonic()
        limit, alone_until = began + self._stop_limit, began
        ending: list[_Ending] = []
        for stage in reversed(self._stages):
            ending.append(_Ending(stage, min(alone_until + max(_needed(child) for child in stage), limit)))
            alone_until += max(_needed_alone(child) for child in stage)
            self._let_end(ending, min(alone_until, limit))
        self._let_end(ending, limit)

    def _let_end(self, ending: list[_Ending], until: float) -> None:
        """Wait for stages to end, and kill what has not by its deadline."""
        while True:
            now = time.monotonic()
            for stage in [stage for stage in ending if stage.has_ended or stage.deadline <= now]:
                ending.remove(stage)
                self._clear_up(stage)
            if not ending or now >= until:
                return
            self._wait(min(0.05, until - now))

    def _clear_up(self, stage: _Ending) -> None:
        for process in stage.processes:
            _kill_group(process)
            process.wait()
        for name in stage.names:
            with suppress(OSError):
                (self._run_dir / f"{name}.pid").unlink()


class _Ending:
    """A stage that was asked to end."""

    def __init__(self, stage: Sequence[_Child], deadline: float) -> None:
        self.names = [child.name for child in stage]
        self.processes = [child.process for child in stage if child.process is not None]
        self.deadline = deadline
        for process in self.processes:
            process.terminate()

    @property
    def has_ended(self) -> bool:
        return all(process.poll() is not None for process in self.processes)


def _needed(child: _Child) -> float:
    return child.service.stop_seconds


def _needed_alone(child: _Child) -> float:
    service = child.service
    return service.stop_seconds if service.alone_seconds is None else service.alone_seconds


def _shorten(path: Path) -> None:
    if path.stat().st_size <= LOG_LIMIT_OCTETS:
        return
    older = path.with_suffix(".log.1")
    try:
        shutil.copyfile(path, older)
    except OSError:
        with suppress(OSError):
            older.unlink()  # part of a copy would only take what room a full disk has left
        raise
    os.truncate(path, 0)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and its own children; it leads a group of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code == 0:
        return "has ended as it was asked to"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
