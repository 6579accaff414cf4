"""What is done to the system while mail flows: processes killed with -9, the Redis emptied, once everything killed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from chaos.system import System

TREE = "everything at once"
_WEIGHTS = {"worker": 7, "smtp": 5, "writer": 4, "web": 5, "redis": 4, "beat": 2}  # of 27 kills
_FLUSH_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Kill:
    """`at` is a time of the wall clock, just before the signal."""

    target: str
    at: float


def plan(kills: int, random_source: random.Random) -> list[str]:
    """Return the targets in order: every process by its weight, and the whole tree once, in the middle."""
    deck = [name for name, weight in _WEIGHTS.items() for _ in range(weight)]
    targets: list[str] = []
    while len(targets) < kills - 1:
        random_source.shuffle(deck)
        targets += deck
    del targets[max(0, kills - 1) :]
    targets.insert(len(targets) // 2, TREE)
    return targets[:kills]


class Monkey(threading.Thread):
    """Works through its plan, then ends; `trouble` is what kept it from doing so."""

    def __init__(self, system: System, kills: int, seed: int, say: Callable[[str], None]) -> None:
        super().__init__(name="monkey", daemon=True)
        self.kills: list[Kill] = []
        self.flushes = 0
        self.trouble: Exception | None = None
        self._system, self._say = system, say
        self._random = random.Random(seed)
        self._plan = plan(kills, self._random)
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        try:
            for target in self._plan:
                if self._stopping.wait(self._random.uniform(2, 8)):
                    return
                if self._random.random() < _FLUSH_SHARE and self._system.flush_redis():
                    self.flushes += 1
                self._say(f"kill -9: {target}")
                self.kills.append(Kill(target, time.time()))
                self._strike(target)
        except Exception as error:  # noqa: BLE001  (handed to the main thread, which ends the run with it)
            self.trouble = error

    def _strike(self, target: str) -> None:
        if target == TREE:
            self._system.kill_all()
            self._system.start()
        else:
            self._system.kill(target)
