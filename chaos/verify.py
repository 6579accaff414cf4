"""Holds what the clients were promised against what the sink took and what the system has written down. Pure.

The unit is a recipient's copy: (number, recipient). Each one of an accepted message must have arrived intact, or have
been bounced with a report in the sender's mailbox, or still be in the queue; everything else is a loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.load import Answer, Sent
from chaos.monkey import TREE, Kill
from chaos.sink import HARD, Arrival

# A duplicate is explained by a kill of the worker so soon after its first copy was taken: before that was written down.
# What the worker had sent when it died may be taken a moment later still.
BEFORE_KILL_SECONDS, AFTER_KILL_SECONDS = 2.0, 1.0
_GOOD_FOR_DUPLICATES = ("worker", TREE)
_OPEN = ("pending", "retry")

Key = tuple[int, str]


@dataclass(slots=True)
class Findings:
    """Counts of copies, and in `faults` one line for each thing that must not be."""

    delivered: int = 0
    filed: int = 0
    bounced: int = 0
    queued: int = 0
    lost: int = 0
    corrupt: int = 0
    wrongly_bounced: int = 0
    duplicates_beside_a_kill: int = 0
    other_duplicates: int = 0
    filed_twice: int = 0
    longest_before_kill: float = 0.0
    in_doubt_arrived: int = 0
    longest_delay: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Truth:
    """Where every copy is, by (number, recipient)."""

    arrived: dict[Key, list[float]] = field(default_factory=dict)
    filed: dict[Key, list[float]] = field(default_factory=dict)
    reported: Counter[Key] = field(default_factory=Counter)
    corrupt: list[str] = field(default_factory=list)


def judge(
    sent: Sequence[Sent], arrivals: Iterable[Arrival], books: dict[str, Any], kills: Collection[Kill]
) -> Findings:
    truth = _gather(arrivals, books["filed"], {one.number: one.digest for one in sent})
    truth.corrupt += [
        f"{message_id}: changed in the spool" for message_id, good in books["messages"].items() if not good
    ]
    status = {(message_id, recipient): state for message_id, recipient, state in books["entries"]}
    findings = Findings(corrupt=len(truth.corrupt), faults=[f"corrupt: {words}" for words in truth.corrupt])
    for one in sent:
        for recipient in one.recipients:
            if one.answer is Answer.ACCEPTED:
                _follow(findings, one, recipient, truth, status.get((one.message_id, recipient), "without an entry"))
            elif (one.number, recipient) in truth.arrived or (one.number, recipient) in truth.filed:
                findings.in_doubt_arrived += 1
    _count_duplicates(findings, truth, kills)
    return findings


def _gather(arrivals: Iterable[Arrival], filed: Iterable[dict[str, Any]], digests: dict[int, str]) -> _Truth:
    truth = _Truth()
    for arrival in arrivals:
        copy = arrival.copy
        if copy is None or not copy.is_intact or digests.get(copy.number) != copy.digest:
            truth.corrupt.append(f"the sink's copy for {arrival.recipient}")
        if copy is not None:
            truth.arrived.setdefault((copy.number, arrival.recipient), []).append(arrival.at)
    for row in filed:
        if (row["copy"] is None and row["report"] is None) or not row["is_verified"]:
            truth.corrupt.append(f"a copy in the mailbox of {row['recipient']}")
        if row["report"] is not None:
            number, failed = row["report"]
            truth.reported.update((number, recipient) for recipient in failed)
        if row["copy"] is not None:
            number, digest, is_intact = row["copy"]
            if not is_intact or digests.get(number) != digest:
                truth.corrupt.append(f"message {number} in the mailbox of {row['recipient']}")
            truth.filed.setdefault((number, row["recipient"]), []).append(row["at"])
    return truth


def _follow(findings: Findings, one: Sent, recipient: str, truth: _Truth, status: str) -> None:
    """Count where an accepted copy ended."""
    key = one.number, recipient
    if key in truth.arrived or key in truth.filed:
        times = truth.arrived.get(key) or truth.filed[key]
        findings.longest_delay = max(findings.longest_delay, times[0] - one.at)
        findings.delivered += key in truth.arrived
        findings.filed += key in truth.filed
    elif truth.reported[key]:
        findings.bounced += 1
        if not recipient.startswith(HARD):
            findings.wrongly_bounced += 1
            findings.faults.append(f"bounced, though the next hop would have taken it: {_named(one, recipient)}")
    elif status in _OPEN:
        findings.queued += 1
    else:
        findings.lost += 1
        findings.faults.append(f"lost: {_named(one, recipient)} ({status})")


def _named(one: Sent, recipient: str) -> str:
    return f"message {one.number}, {one.message_id}, by {one.door} for {recipient}"


def _count_duplicates(findings: Findings, truth: _Truth, kills: Collection[Kill]) -> None:
    moments = [kill.at for kill in kills if kill.target in _GOOD_FOR_DUPLICATES]
    for (number, recipient), times in truth.arrived.items():
        for at in times[:-1]:
            gap = min((kill - at for kill in moments), key=abs, default=float("inf"))
            if -AFTER_KILL_SECONDS <= gap <= BEFORE_KILL_SECONDS:
                findings.duplicates_beside_a_kill += 1
                findings.longest_before_kill = max(findings.longest_before_kill, gap)
            else:
                findings.other_duplicates += 1
                findings.faults.append(f"delivered twice without a kill: message {number} to {recipient}")
    twice = [key for key, times in truth.filed.items() if len(times) > 1]
    twice += [key for key, count in truth.reported.items() if count > 1]
    findings.filed_twice = len(twice)
    findings.faults += [f"filed twice: message {number}, about {recipient}" for number, recipient in twice]
