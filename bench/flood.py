"""Slow and flooding peers on nearly every place of a listener: is each cut off, and what does an honest client see?"""

from __future__ import annotations

import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import attackers, latency, system
from bench.attackers import Cut
from bench.database import Database
from bench.latency import Goal, Trips
from bench.prepare import LOCAL_RECIPIENT
from bench.processes import Children
from bench.report import grid
from bench.smtp_client import SmtpClient, Unexpected

TITLE = "An honest client while slow peers and floods hold the listener"
GOAL = Goal(median=0.2, worst=1.0)
SLOW_PEERS = 90
FREE_PLACES = 10  # of the listener, besides: fewer than those who want one
TIMEOUT_SECONDS = (
    30  # the setting; its default of five minutes (RFC 5321 §4.5.3.2.7) is longer than a bench should take
)
PATIENCE_SECONDS, QUICK_PATIENCE_SECONDS = 120.0, 75.0
QUICK_ATTACK_SECONDS = 30.0  # for an attack that needs no time by itself
IDLE_SECONDS, QUICK_IDLE_SECONDS = 5.0, 1.0
RETRY_SECONDS = 0.05
LAST_TRY_SECONDS = 30.0  # for whoever found no place when the attacks ended; the attackers have left theirs by then

# What the last reply may begin with: "" is a connection that ends without a word.
EXPECTED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(attackers.SLOW, ("421 4.",)),
    "NOOP without end": ("421 4.",),
    "unknown commands": ("421 4.",),
    "an HTTP request": ("421 ", "5"),
    "a TLS hello in clear": ("421 ", "5"),
    attackers.NEVER_READING: ("",),
    attackers.BEYOND_CAP: (attackers.REFUSED_AT_CONNECT,),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    slow_peers: int
    idle: Trips
    loaded: Trips
    cuts: list[Cut]
    patience: float


def measure(
    keep: Database, folder: Path, *, slow_peers: int, patience: float, idle_seconds: float, say: Callable[[str], None]
) -> Outcome:
    """Measure a listener with `slow_peers` of its places held, each for `patience` seconds or until it is cut off."""
    settings = {
        "SMTP_TRUSTED_NETWORKS": "",
        "SMTP_MAX_CONNECTIONS": str(slow_peers + FREE_PLACES),
        "SMTP_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    }
    elsewhere = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with Children(folder) as children, elsewhere as pool:
        ours = system.start(children, folder, keep, name="flood", processes=("smtp",), settings=settings)
        pool.submit(time.time).result()  # its start is not part of what is measured
        with Deliveries(ours.port):
            time.sleep(1)
        with Deliveries(ours.port) as idle:
            time.sleep(idle_seconds)
        say("flood: idle measured")
        with Deliveries(ours.port) as loaded:
            cuts = pool.submit(attackers.attack, ours.port, slow_peers, patience).result()
        say("flood: all attacks ended")
    return Outcome(slow_peers, idle.trips, loaded.trips, cuts, patience)


class Deliveries:
    """An honest client in a thread: a connection for each small message, tried again where there was no place."""

    def __init__(self, port: int) -> None:
        self.trips = Trips()
        self._port = port
        self._is_over = threading.Event()
        self._gives_up_at = math.inf
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Deliveries:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._gives_up_at = time.monotonic() + LAST_TRY_SECONDS
        self._is_over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._is_over.wait(RETRY_SECONDS):
            self.trips.timed(self._deliver)

    def _deliver(self) -> None:
        """Deliver one message; being refused for want of a place only costs time, as long as a place comes."""
        while True:
            try:
                with SmtpClient(self._port) as client:
                    client.greet()
                    reply = client.deliver(latency.SENDER, LOCAL_RECIPIENT, latency.SMALL)
                    if not reply.startswith("250"):
                        raise Unexpected(f"end of data: {reply or 'the connection was closed'}")
                    client.ask("QUIT", "221")
                    return
            except Unexpected as refusal:
                if attackers.REFUSED_AT_CONNECT not in str(refusal) or time.monotonic() > self._gives_up_at:
                    raise
                time.sleep(RETRY_SECONDS)


# --- in words ---------------------------------------------------------------------------------------------------------


def report(outcome: Outcome) -> str:
    trips = latency.rows(
        "connect to QUIT", outcome.idle, outcome.loaded, f"{outcome.slow_peers} slow peers, floods", GOAL
    )
    rows = [_row(kind, [cut for cut in outcome.cuts if cut.kind == kind], outcome.patience) for kind in EXPECTED]
    head = ("attack", "times", "cut off after, s", "last reply", "")
    return f"{grid(latency.HEAD, trips)}\n\n{grid(head, rows)}"


def _row(kind: str, cuts: Sequence[Cut], patience: float) -> tuple[str, ...]:
    if not cuts:
        return kind, "0", "", "", "missed: it never got so far"
    seconds = sorted(cut.seconds for cut in cuts)
    shown = next((cut for cut in cuts if fault(cut, patience)), cuts[0])
    faults = sum(bool(fault(cut, patience)) for cut in cuts)
    words = f"missed: {faults} of {len(cuts)} {fault(shown, patience)}" if faults else "met"
    return kind, str(len(cuts)), f"{seconds[0]:.1f}–{seconds[-1]:.1f}", shown.reply[:60], words


def fault(cut: Cut, patience: float) -> str:
    """Say what is wrong with the end of one attack, or nothing."""
    if not cut.is_closed:
        return "were not cut off"
    if not any(cut.reply.startswith(words) for words in EXPECTED[cut.kind]):
        return "heard something else"
    limit = QUICK_ATTACK_SECONDS if cut.kind in attackers.QUICK else patience
    return "" if cut.seconds <= limit else "were let go on for too long"
