"""The table of a chaos run, in Markdown: one row a figure, one column a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.load import Answer, Sent
from chaos.monkey import Kill
from chaos.sink import Sink
from chaos.verify import Findings


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run found out."""

    database: str
    seed: int
    seconds: float
    sent: Sequence[Sent]
    kills: Sequence[Kill]
    flushes: int
    sink: Sink
    findings: Findings
    stop_seconds: float


def table(runs: Sequence[Run]) -> str:
    columns = [_figures(run) for run in runs]
    lines = ["| | " + " | ".join(run.database for run in runs) + " |", "| --- |" + " ---: |" * len(runs)]
    for label in columns[0]:
        lines.append(f"| {label} | " + " | ".join(column[label] for column in columns) + " |")
    return "\n".join(lines)


def _figures(run: Run) -> dict[str, str]:
    answers = Counter((one.door, one.answer) for one in run.sent)
    accepted = [one for one in run.sent if one.answer is Answer.ACCEPTED]
    killed = Counter(kill.target for kill in run.kills)
    found = run.findings
    figures: dict[str, object] = {
        "seed": run.seed,
        "time under load and until the queue was empty": f"{run.seconds:.0f} s",
        "messages sent": len(run.sent),
        "accepted by SMTP (250 seen)": answers["smtp", Answer.ACCEPTED],
        "accepted by HTTP (202 seen)": answers["http", Answer.ACCEPTED],
        "**accepted messages**": f"**{len(accepted)}**",
        "refused, or the connection broke before the content": _sum(answers, Answer.REFUSED),
        "in doubt: the connection broke before the answer": _sum(answers, Answer.IN_DOUBT),
        "**processes killed with -9**": f"**{len(run.kills)}**",
        **{
            f"– {target}": killed[target]
            for target in ("worker", "smtp", "writer", "web", "redis", "beat", "everything at once")
        },
        "Redis emptied": run.flushes,
        "attempts at the next hop": run.sink.attempts,
        "errors it answered or connections it broke": sum(run.sink.errors.values()),
        "recipients' copies of accepted messages": sum(len(one.recipients) for one in accepted),
        "– delivered to the next hop": found.delivered,
        "– filed in a mailbox": found.filed,
        "– bounced, the report in the sender's mailbox": found.bounced,
        "– still in the queue": found.queued,
        "**– lost**": f"**{found.lost}**",
        "**corrupt copies** (next hop, mailboxes, spool)": f"**{found.corrupt}**",
        "bounced without cause": found.wrongly_bounced,
        "duplicates at the next hop, beside a kill of the worker": found.duplicates_beside_a_kill,
        "– first copy before that kill, at most": f"{found.longest_before_kill:.2f} s",
        "duplicates at the next hop otherwise": found.other_duplicates,
        "duplicates in mailboxes": found.filed_twice,
        "in doubt, and arrived": found.in_doubt_arrived,
        "longest time from 250 or 202 to delivery": f"{found.longest_delay:.1f} s",
        "clean end on SIGTERM": f"{run.stop_seconds:.1f} s",
    }
    return {label: str(value) for label, value in figures.items()}


def _sum(answers: Counter[tuple[str, Answer]], answer: Answer) -> int:
    return sum(count for (_, kind), count in answers.items() if kind is answer)
