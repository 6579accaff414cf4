"""How deliveries grow with the number of worker processes, on PostgreSQL, to destinations that take their time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import report, system
from bench.database import PostgreSQL
from bench.processes import Children, cpu_seconds, run, wait_until
from bench.slow_sink import DESTINATIONS
from mailproj.ports import free_port
from mailproj.processes import command

TITLE = f"Deliveries by 1, 2 and 4 workers to {DESTINATIONS} destinations that take 50 ms for each answer"
WORKERS = (1, 2, 4)
ANSWER_MILLISECONDS = 50
CONNECTIONS = 10  # of each worker, and the most to one destination
MESSAGES, QUICK_MESSAGES = 2000, 200
PATIENCE_SECONDS = 300.0
VISIBILITY_SECONDS = 5
RETRY_SECONDS = 8
DEFERRED = 20  # every so manieth message is deferred once
GOALS = {2: 1.8, 4: 3.2}  # near-linear


@dataclass(frozen=True, slots=True)
class Line:
    """One run. `most`: connections at once to one destination; `shares`: messages by each worker."""

    case: str
    workers: int
    messages: int
    seconds: float
    twice: int
    most: int
    shares: Sequence[int]
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds if self.seconds else 0.0


def measure(server: PostgreSQL, folder: Path, *, messages: int, say: Callable[[str], None]) -> list[Line]:
    lines = []
    for count in WORKERS:
        say(f"workers: {count}")
        lines.append(_run(server, folder / f"w{count}", "", count, messages, deferred=0))
    say(f"workers: retries after {RETRY_SECONDS} s, visibility timeout {VISIBILITY_SECONDS} s")
    lines.append(_run(server, folder / "retries", "with retries", WORKERS[-1], messages, deferred=DEFERRED))
    return lines


def _run(server: PostgreSQL, folder: Path, case: str, workers: int, messages: int, *, deferred: int) -> Line:
    folder.mkdir()
    port, dns_port = free_port(), free_port()
    settings = {
        "SMTP_OUT_PORT": str(port),
        "DNS_SERVERS": f"127.0.0.1:{dns_port}",
        "OUTBOUND_ALLOWED_NETWORKS": "127.0.0.0/8",
        "SMTP_MAX_WORKERS": str(CONNECTIONS),
        "SMTP_POOL_SIZE": str(CONNECTIONS),
        "REDIS_VISIBILITY_TIMEOUT": str(VISIBILITY_SECONDS),
        "RETRY_SCHEDULE": f"{RETRY_SECONDS}s",
        "SWEEP_INTERVAL_SECONDS": "2",
        "DATABASE_POOL_SIZE": "4",
    }
    with ExitStack() as stack:
        children = stack.enter_context(Children(folder))
        argv = [
            sys.executable,
            "-m",
            "bench.slow_sink",
            str(port),
            str(dns_port),
            str(ANSWER_MILLISECONDS),
            str(deferred),
        ]
        sink = children.start("sink", argv)
        database = server.create(folder.name)
        running = system.start(
            children, folder / "data", database, name="postgresql", processes=("worker",), settings=settings
        )
        for number in range(1, workers):
            child = children.start(
                f"worker-{number}", command("worker", sys.executable), environment=running.environment
            )
            running.children.append(child)
        alive = "SELECT count(*) FROM queue_worker"
        wait_until(lambda: database.number(alive) == workers, 60, f"{workers} workers to start", *running.children)
        cpu_before = cpu_seconds(running.roots())
        run([sys.executable, "-m", "bench.workers_fill", "0", str(messages)], running.environment)
        done = "SELECT count(*) FROM queue_entry WHERE status = 'delivered'"
        wait_until(
            lambda: database.number(done) >= messages, PATIENCE_SECONDS, f"{messages} messages", *running.children,
            interval=0.2,
        )  # fmt: skip
        cpu = cpu_seconds(running.roots()) - cpu_before
        wait_until(lambda: _figures(sink.log)["messages"] >= messages, 10, "the sink's figures", sink)
        figures = _figures(sink.log)
        question = (
            "SELECT count(*) FROM queue_attempt WHERE outcome = 'delivered' GROUP BY worker ORDER BY 1 LIMIT 1 OFFSET "
        )
        shares = [database.number(question + str(number)) for number in range(workers)]
    seconds = figures["seconds"]
    return Line(case, workers, messages, seconds, int(figures["twice"]), int(figures["most"]), shares, cpu / messages)


def _figures(log: Path) -> dict[str, float]:
    for line in reversed(log.read_text().splitlines()):
        if line.startswith("{") and line.endswith("}"):
            return json.loads(line)  # type: ignore[no-any-return]
    return {"messages": 0, "seconds": 0, "twice": 0, "most": 0}


def table(lines: Sequence[Line]) -> str:
    alone = lines[0].per_second
    rows = []
    for line in lines:
        ratio = line.per_second / alone
        goal = None if line.case else GOALS.get(line.workers)
        verdict = "" if goal is None else "met" if ratio >= goal else "missed"
        rows.append((
            f"{line.workers}{', ' + line.case if line.case else ''}",
            f"{line.per_second:.0f}" if not line.case else "–",
            f"{ratio:.2f}" if not line.case else "–",
            str(goal or ""),
            verdict,
            str(line.twice),
            str(line.most),
            ", ".join(map(str, line.shares)),
            f"{line.cpu_seconds * 1e6:.0f}",
        ))  # fmt: skip
    head = (
        "workers", "per second", "÷ one", "goal", "", "delivered twice", "most connections", "by each worker",
        "CPU µs each",
    )  # fmt: skip
    return report.grid(head, rows)
