"""Acceptance, relay and filing, each beside Postfix doing the same: the cases, their arms, and one run of an arm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench import database, postfix, system
from bench.prepare import LOCAL_RECIPIENT
from bench.processes import BenchError, Child, Children, cpu_seconds, wait_until, wait_until_quiet
from bench.rounds import Goal, Line, Measured, rotated, summarize
from bench.traffic import Load, Sink, send
from mailproj.ports import free_port

FOREIGN_RECIPIENT = "u@relay.test"
END_SECONDS = 60.0  # for a run's messages to arrive where they go
SMALL, LARGE = 10 << 10, 100 << 10


class Server(Protocol):
    """A running mail server, ours or Postfix."""

    @property
    def name(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def children(self) -> Sequence[Child]: ...

    def roots(self) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Arm:
    """A server and, where the work does not end with the 250, what counts the messages that have arrived."""

    server: Server
    arrived: Callable[[], int] | None = None
    before: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        return self.server.name


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work. The first arm that `arms` makes is the peer."""

    name: str
    title: str
    recipient: str
    goals: Mapping[Load, Goal]
    arms: Callable[[Setup], list[Arm]]


@dataclass(frozen=True, slots=True)
class Setup:
    """What the arms of one case are made with."""

    folder: Path
    children: Children
    postgresql: database.PostgreSQL

    def systems(self, arms: Mapping[str, Mapping[str, str]], processes: tuple[str, ...]) -> list[system.System]:
        """Start one system an arm: `arms` are names that begin with the kind of database, and their settings."""
        return [
            system.start(
                self.children,
                folder := self.folder / name.replace(", ", "-"),
                self._database(name, folder),
                name=name,
                processes=processes,
                settings=settings,
            )
            for name, settings in arms.items()
        ]

    def _database(self, name: str, folder: Path) -> database.Database:
        if name.startswith("postgresql"):
            return self.postgresql.create(f"{self.folder.name}-{folder.name}")
        folder.mkdir(parents=True)
        return database.sqlite(folder)


def _accepting(setup: Setup) -> list[Arm]:
    hold = postfix.start(setup.children, setup.folder / "hold", name="Postfix HOLD", port=free_port())
    return [Arm(hold), *map(Arm, setup.systems({"sqlite": {}, "postgresql": {}}, ("smtp",)))]


def _relaying(setup: Setup) -> list[Arm]:
    sink = Sink(setup.children, free_port())
    folder = setup.folder / "tuned"
    tuned = postfix.start(setup.children, folder, name="Postfix tuned", port=free_port(), sink_port=sink.port)
    to_sink = {"RELAY_HOST": "127.0.0.1", "RELAY_PORT": str(sink.port), "RELAY_TLS": "never"}
    systems = setup.systems({"sqlite": to_sink, "postgresql": to_sink}, ("smtp", "worker"))
    return [Arm(tuned, sink.count), *(Arm(ours, sink.count) for ours in systems)]


def _filing(setup: Setup) -> list[Arm]:
    folder = setup.folder / "tuned"
    tuned = postfix.start(setup.children, folder, name="Postfix Maildir", port=free_port(), sink_port=free_port())
    maildir, rows = {"SMTP_STORAGE_TYPE": "maildir"}, {"SMTP_STORAGE_TYPE": "database"}
    arms = {"sqlite, maildir": maildir, "sqlite, database": rows, "postgresql, database": rows}
    systems = setup.systems(arms, ("smtp", "worker"))
    return [Arm(tuned, tuned.filed, tuned.empty_maildir), *(Arm(ours, ours.filed) for ours in systems)]


CASES = (
    Case(
        "accept",
        "Durable acceptance (no delivery)",
        LOCAL_RECIPIENT,
        {
            Load(10, SMALL, reuse=False): Goal(1.8, 2.5),
            Load(10, SMALL, reuse=True): Goal(2.5, 4),
            Load(50, SMALL, reuse=False): Goal(2.2, 2.4),
            Load(50, SMALL, reuse=True): Goal(3.3, 4.5),
            Load(10, LARGE, reuse=False): Goal(1.2, 1.7),
        },
        _accepting,
    ),
    Case(
        "relay",
        "Acceptance and relay to a sink, through Celery",
        FOREIGN_RECIPIENT,
        {Load(10, SMALL, reuse=False): Goal(3, 3.4), Load(10, SMALL, reuse=True): Goal(4, 4.8)},
        _relaying,
    ),
    Case(
        "filed",
        "Acceptance and filing in a local mailbox",
        LOCAL_RECIPIENT,
        {Load(10, SMALL, reuse=False): Goal(2, 3), Load(10, SMALL, reuse=True): Goal(2, 3)},
        _filing,
    ),
)


def compare(case: Case, folder: Path, *, rounds: int, messages: int, say: Callable[[str], None]) -> list[Line]:
    """Measure one case; `messages` is what one run sends of the small ones."""
    with _setup(folder) as setup:
        arms = case.arms(setup)
        for arm in arms:  # the first messages also show that everything behind the door runs
            _run(arm, next(iter(case.goals)), case.recipient, max(20, messages // 10))
        measured: dict[Load, list[dict[str, Measured]]] = {load: [] for load in case.goals}
        for number in range(rounds):
            for load in case.goals:
                count = max(20, messages * SMALL // max(SMALL, load.octets // 2))
                results = {arm.name: _run(arm, load, case.recipient, count) for arm in rotated(arms, number)}
                measured[load].append(results)
            say(f"{case.name}: round {number + 1} of {rounds}")
        peer = arms[0].name
        return [line for load, goal in case.goals.items() for line in summarize(str(load), measured[load], peer, goal)]


@contextmanager
def _setup(folder: Path) -> Iterator[Setup]:
    folder.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(database.postgresql(folder / "pgdata"))
        yield Setup(folder, stack.enter_context(Children(folder)), server)


def _run(arm: Arm, load: Load, recipient: str, messages: int) -> Measured:
    """Send to one arm and wait until all has arrived; then until it rests."""
    for child in arm.server.children:
        child.check()
    arm.before()
    arrived_before = arm.arrived() if arm.arrived else 0
    cpu_before = cpu_seconds(arm.server.roots())
    started = time.perf_counter()
    try:
        send(arm.server.port, load, recipient, messages)
        if arm.arrived is not None:
            _wait_for_arrival(arm.arrived, arrived_before + messages, arm.server.children)
    except BenchError as error:
        raise BenchError(f"{arm.name}, {load}: {error}") from None
    seconds = time.perf_counter() - started
    wait_until_quiet(arm.server.roots())
    return Measured(messages / seconds, (cpu_seconds(arm.server.roots()) - cpu_before) / messages)


def _wait_for_arrival(arrived: Callable[[], int], wanted: int, children: Sequence[Child]) -> None:
    wait_until(lambda: arrived() >= wanted, END_SECONDS, f"{wanted} messages to arrive", *children)


def chosen(names: Sequence[str]) -> list[Case]:
    return [case for case in CASES if not names or case.name in names]
