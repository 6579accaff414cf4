"""What is made of the rounds."""

from __future__ import annotations

import pytest

from bench.report import table
from bench.rounds import Goal, Measured, rotated, summarize

ROUNDS = [
    {"ours": Measured(200, 0.001), "peer": Measured(100, 0.002)},
    {"ours": Measured(30, 0.003), "peer": Measured(10, 0.002)},
    {"ours": Measured(400, 0.002), "peer": Measured(100, 0.002)},
]


def test_every_arm_runs_once_a_round_and_each_round_begins_with_another() -> None:
    orders = [list(rotated(["a", "b", "c"], number)) for number in range(4)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_the_ratio_is_the_median_of_the_ratios_and_not_the_ratio_of_the_medians() -> None:
    peer, ours = summarize("10 KiB", ROUNDS, "peer", Goal(2, 5))
    assert (peer.arm, peer.per_second, peer.ratio, peer.goal) == ("peer", 100, None, None)
    assert (ours.per_second, ours.slowest, ours.fastest) == (200, 30, 400)
    assert ours.ratio == 3
    assert ours.cpu_seconds == pytest.approx(0.002)


@pytest.mark.parametrize(("goal", "missed"), [(Goal(3, 4), False), (Goal(3.1, 4), True), (None, False)])
def test_a_goal_is_missed_below_its_ratio(goal: Goal | None, missed: bool) -> None:
    _, ours = summarize("10 KiB", ROUNDS, "peer", goal)
    assert ours.missed is missed


def test_the_table_is_markdown_with_the_goal_beside_the_ratio() -> None:
    head, rule, peer, ours = table(summarize("10 KiB", ROUNDS, "peer", Goal(3.5, 4))).splitlines()
    assert len({len(line) for line in (head, rule, peer, ours)}) == 1
    assert [cell.strip() for cell in ours.strip("|").split("|")] == [
        *("10 KiB", "ours", "200", "30–400", "2000", "3.00", "3.5 (4)", "missed"),
    ]
