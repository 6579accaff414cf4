"""What honest clients wait for: round trips measured one by one, and how they stand to a goal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.smtp_client import SmtpClient, Unexpected

SENDER = "honest@source.example"
SMALL = b"From: honest@source.example\r\nSubject: small\r\n\r\n" + b"A short line of text.\r\n" * 40
COMMANDS_A_MESSAGE = 30  # a session that sends no mail at all would rightly be cut off
PAUSE_SECONDS = 0.002  # between two commands: a client that waits for each, not a flood


@dataclass(frozen=True, slots=True)
class Goal:
    """In seconds; a goal is met at its value."""

    median: float
    worst: float


@dataclass(slots=True)
class Trips:
    """Round trips of one kind, in seconds, in the order they ended."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds) if self.seconds else float("nan")

    @property
    def worst(self) -> float:
        return max(self.seconds, default=float("nan"))

    def percentile(self, share: float) -> float:
        """Return the value that `share` of the trips do not exceed: the nearest one measured."""
        ordered = sorted(self.seconds)
        return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else float("nan")

    def meets(self, goal: Goal) -> bool:
        return not self.failures and self.median <= goal.median and self.worst <= goal.worst

    def timed(self, trip: Callable[[], object]) -> None:
        """Measure one; a failure is kept in words and raised no further."""
        started = time.perf_counter()
        try:
            trip()
        except (OSError, Unexpected) as error:
            self.failures.append(str(error) or type(error).__name__)
        else:
            self.seconds.append(time.perf_counter() - started)


class Honest:
    """Two honest sessions in threads, from `with` to its end: one asks short commands, one delivers small messages."""

    def __init__(self, port: int, recipient: str) -> None:
        self.commands, self.messages = Trips(), Trips()
        self._port, self._recipient = port, recipient
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._ask, self._deliver)]

    def __enter__(self) -> Honest:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        self._talk(self._ask_once, self.commands)

    def _deliver(self) -> None:
        self._talk(self._deliver_once, self.messages)

    def _talk(self, once: Callable[[SmtpClient], None], trips: Trips) -> None:
        """Go on over one session; where it breaks that is a failure, and another is opened."""
        while not self._is_over.is_set():
            known = len(trips.failures)
            try:
                with SmtpClient(self._port) as client:
                    client.greet()
                    while not self._is_over.is_set() and len(trips.failures) == known:
                        once(client)
            except (OSError, Unexpected) as error:
                trips.failures.append(f"the session broke: {error}")
            if len(trips.failures) > known:
                self._is_over.wait(0.1)

    def _ask_once(self, client: SmtpClient) -> None:
        for number in range(COMMANDS_A_MESSAGE):
            command = "RSET" if number % 2 else "NOOP"
            self.commands.timed(lambda command=command: client.ask(command, "250"))  # type: ignore[misc]
            if self._is_over.wait(PAUSE_SECONDS):
                return
        self._message(client)

    def _deliver_once(self, client: SmtpClient) -> None:
        self.messages.timed(lambda: self._message(client))
        self._is_over.wait(PAUSE_SECONDS)

    def _message(self, client: SmtpClient) -> None:
        reply = client.deliver(SENDER, self._recipient, SMALL)
        if not reply.startswith("250"):
            raise Unexpected(f"end of data: {reply or 'the connection was closed'}")


HEAD = ("round trip", "meanwhile", "count", "median ms", "p99 ms", "worst ms", "goal median / worst", "")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}" if seconds < 0.1 else f"{seconds * 1000:.0f}"


def rows(name: str, idle: Trips, loaded: Trips, load: str, goal: Goal) -> list[tuple[str, ...]]:
    """Return two rows of a table: idle, and under a load that the goal is for."""
    wanted = f"{goal.median * 1000:.0f} / {goal.worst * 1000:.0f}"
    return [
        _row(name, "idle", idle, "", ""),
        _row(name, load, loaded, wanted, "met" if loaded.meets(goal) else "missed"),
    ]


def _row(name: str, load: str, trips: Trips, goal: str, verdict: str) -> tuple[str, ...]:
    figures = [milliseconds(value) for value in (trips.median, trips.percentile(0.99), trips.worst)]
    failed = f"; {len(trips.failures)} failed: {trips.failures[0]}" if trips.failures else ""
    return name, load, str(len(trips.seconds)), *figures, goal, verdict + failed


def all_in(several: Sequence[Trips]) -> Trips:
    """Return the trips of several measurements as one."""
    return Trips([one for each in several for one in each.seconds], [one for each in several for one in each.failures])
