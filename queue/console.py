"""The queue for a terminal: tables of entries and domains, as `manage.py queue` prints them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from mailflow.models import Message
from queue.models import Entry
from queue.moments import spoken_span
from queue.overview import Overview
from queue.states import state_of
from queue.timeline import TimelineItem
from queue.waiting import around, waiting_for
from queue.workers import Seen

BAR = 20  # characters of the longest bar
_FLEXIBLE = 16  # the least that a column is cut to


def plain(text: object) -> str:
    """Return one line without what a terminal would obey: strangers wrote most of it."""
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "?" for character in line)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], width: int, *, right: Sequence[int] = ()) -> str:
    """Lay out columns, cutting the longest ones until a line fits the width; columns of `right` are numbers."""
    cells = [list(head), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    while sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > _FLEXIBLE:
        widths[widths.index(max(widths))] -= 1
    return "\n".join(_line(row, widths, right) for row in cells)


def entries(found: Sequence[Entry], now: dt.datetime, width: int) -> str:
    about = around(found, now)
    rows = [
        (
            entry.message_id,
            entry.recipient,
            entry.message.reverse_path or "<>",
            state_of(entry).name,
            f"{entry.attempts}/{entry.max_attempts}",
            spoken_span(now - entry.created_at),
            _when(entry.next_attempt_at, now),
            entry.last_reply or waiting_for(entry, now, about),
        )
        for entry in found
    ]
    return table(("MESSAGE", "TO", "FROM", "STATUS", "TRIES", "AGE", "NEXT", "LAST REPLY, OR WAITS FOR"), rows, width)


def message(one: Message, found: Sequence[Entry], steps: Sequence[TimelineItem], now: dt.datetime) -> str:
    """Tell one message: its envelope, each recipient, and everything that happened."""
    about = around(found, now)
    lines = [
        f"{one.pk}  {one.status}",
        f"  from      {plain(one.reverse_path or '<>')}",
        f"  subject   {plain(one.subject or '(none)')}",
        f"  accepted  {one.created_at:%Y-%m-%d %H:%M:%S} UTC, {spoken_span(now - one.created_at)} ago, {one.source}",
        f"  size      {one.size_octets:,} octets, trace id {one.trace_id}",
        "",
    ]
    for entry in found:
        lines.append(
            f"  {plain(entry.recipient)}  {state_of(entry).name}, attempts {entry.attempts} of {entry.max_attempts}"
        )
        facts = [
            ("waits for", waiting_for(entry, now, about)),
            ("next", _when(entry.next_attempt_at, now) if entry.status in Entry.OPEN else ""),
            ("route", entry.route),
            ("expires", f"{entry.expires_at:%Y-%m-%d %H:%M} UTC" if entry.status in Entry.OPEN else ""),
            ("last reply", entry.last_reply),
        ]
        lines += [f"    {name:<11}{plain(value)}" for name, value in facts if value]
    lines.append("")
    for step in steps:
        lines.append(f"  {step.at:%Y-%m-%d %H:%M:%S}  {step.title}: {plain(step.words)}")
        if step.reply:
            lines.append(f"  {'':19}  {plain(step.reply)}")
        if step.forwarded_as not in step.words:
            lines.append(f"  {'':19}  carried on as message {step.forwarded_as}")
    return "\n".join(lines)


def overview(found: Overview, now: dt.datetime, width: int) -> str:
    """The domains with bars; `=` is held, `:` retried, `#` waits for its first attempt."""
    states = {"due": found.due, "to be retried": found.retrying, "on hold": found.held, "scheduled": found.scheduled}
    said = ", ".join(f"{count:,} {state}" for state, count in states.items())
    lines = [f"{found.waiting:,} queue entries: {said}."]
    if not found.domains:
        return lines[0]
    most = max(figures.waiting for figures in found.domains)
    rows = [
        (
            figures.domain,
            f"{figures.waiting:,}",
            f"{figures.held:,}",
            f"{figures.retrying:,}",
            f"{figures.due:,}",
            _bar((figures.fresh, "#"), (figures.retrying, ":"), (figures.held, "="), most=most),
            spoken_span(now - figures.oldest_at) if figures.oldest_at else "",
            "paused" if figures.paused_until else _when(figures.next_attempt_at, now),
            f"{figures.reply} ({figures.replied} of {figures.sampled})" if figures.reply else "",
        )
        for figures in found.domains
    ]
    head = (
        "DOMAIN",
        "ALL",
        "HELD",
        "RETRY",
        "DUE",
        "# first  : retry  = held",
        "OLDEST",
        "NEXT",
        "LAST REPLIES",
    )
    lines += ["", table(head, rows, width, right=(1, 2, 3, 4))]
    if found.hidden_domains:
        lines.append(f"… and {found.hidden_domains:,} more domains")
    return "\n".join(lines)


def workers(found: Sequence[Seen], now: dt.datetime) -> str:
    """Each worker on a line, and below it what it delivers, the longest first."""
    if not found:
        return "No worker runs: what is accepted waits until one does."
    lines = ["WORKER, AND WHAT IT DELIVERS"]
    for seen in found:
        life = f"alive since {spoken_span(now - seen.started_at)}"
        if seen.is_silent:
            life = f"silent for {spoken_span(now - seen.seen_at)}: its leases run out, and others take over"
        figures = {"running": seen.running, "waiting": seen.waiting, "under lease": seen.in_flight, "rung": seen.rung}
        counts = ", ".join(f"{count:,} {name}" for name, count in figures.items())
        lines.append(f"{plain(seen.name)}  {life}; {counts}")
        lines += [
            f"  {plain(one.destination)}  {one.message_id}  {one.recipients} recipients  {spoken_span(now - one.since)}"
            for one in seen.doing
        ]
        if seen.hidden:
            lines.append(f"  … and {seen.hidden:,} more that began later")
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    cells = [cell if len(cell) <= size else cell[: size - 1] + "…" for cell, size in zip(row, widths, strict=True)]
    padded = [
        cell.rjust(size) if column in right else cell.ljust(size)
        for column, (cell, size) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _bar(*parts: tuple[int, str], most: int) -> str:
    return "".join(sign * (-(-count * BAR // most) if count else 0) for count, sign in parts)


def _when(at: dt.datetime | None, now: dt.datetime) -> str:
    if at is None:
        return ""
    return "now" if at <= now else f"in {spoken_span(at - now)}"
