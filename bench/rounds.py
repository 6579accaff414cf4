"""Interleaved rounds and their outcome: every arm once a round, ratios within a round, medians over rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one arm."""

    per_second: float
    cpu_seconds: float  # of one core, for each message


@dataclass(frozen=True, slots=True)
class Goal:
    """What the ratio to the peer should be, and what it might be."""

    ratio: float
    stretch: float

    def __str__(self) -> str:
        return f"{self.ratio:g} ({self.stretch:g})"


@dataclass(frozen=True, slots=True)
class Line:
    """The outcome for one arm under one load; `ratio` is None for the peer itself."""

    load: str
    arm: str
    per_second: float
    slowest: float
    fastest: float
    cpu_seconds: float
    ratio: float | None = None
    goal: Goal | None = None

    @property
    def missed(self) -> bool:
        return self.ratio is not None and self.goal is not None and self.ratio < self.goal.ratio


def rotated(arms: Sequence[T], round_number: int) -> Iterator[T]:
    """Yield all arms, beginning with another one in each round: what the first one leaves behind hits each in turn."""
    start = round_number % len(arms)
    yield from arms[start:]
    yield from arms[:start]


def summarize(load: str, rounds: Sequence[dict[str, Measured]], peer: str, goal: Goal | None) -> list[Line]:
    """Make one line an arm from the rounds of one load, the peer's first. Every round holds every arm."""
    lines = []
    for arm in sorted(rounds[0], key=lambda name: name != peer):
        rates = [measured[arm].per_second for measured in rounds]
        ratios = [measured[arm].per_second / measured[peer].per_second for measured in rounds]
        is_peer = arm == peer
        lines.append(
            Line(
                load=load,
                arm=arm,
                per_second=median(rates),
                slowest=min(rates),
                fastest=max(rates),
                cpu_seconds=median(measured[arm].cpu_seconds for measured in rounds),
                ratio=None if is_peer else median(ratios),
                goal=None if is_peer else goal,
            )
        )
    return lines
