"""What the listener holds in memory while many sessions are in the middle of a large message, all at once."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import system
from bench.database import Database
from bench.prepare import LOCAL_RECIPIENT
from bench.processes import BenchError, Children
from bench.report import grid
from bench.resident import Watch, folder_octets
from bench.smtp_client import HOST, message_id
from bench.web_client import Web

SESSIONS, MEGABYTES = 100, 50
QUICK_SESSIONS, QUICK_MEGABYTES = 20, 5
GOAL_OCTETS = 1 << 30
STALL_SECONDS = 15.0  # nobody gets an octet off for so long: those who wait for the others are let go
REPLY_SECONDS = 600.0
COMPARED = 5  # messages read back whole
MIB = 1 << 20
_LINE = b"Lines of a large message, of a length that is usual for them, without dots..\r\n"
_BLOCK = _LINE * (65536 // len(_LINE))
_DISK_FACTOR = 3  # on disk while it comes in, in the database, and in the database's log


@dataclass(slots=True)
class Sent:
    """One session's message: its reply, and the digest of its octets."""

    reply: str = ""
    octets: int = 0
    was_in_the_middle: bool = False
    digest: str = ""


@dataclass(slots=True)
class Crowd:
    """What the sessions know of each other: nobody sends the rest before all are in the middle, or have ended."""

    sessions: int
    octets: int  # of each message
    waiting: int = 0
    ended: int = 0
    moved: int = 0  # octets that left, of all
    most_at_once: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self) -> None:
        self.most_at_once = max(self.most_at_once, self.waiting)
        if self.waiting + self.ended >= self.sessions:
            self.release.set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `memory` has the peak of each group of processes, in octets."""

    sent: list[Sent]
    most_at_once: int
    seconds: float
    memory: dict[str, int]
    disk_peak: int
    disk_after: int
    lost: int
    altered: int

    @property
    def is_whole(self) -> bool:
        return not self.lost and not self.altered and all(_is_an_answer(one.reply) for one in self.sent)


def measure(keep: Database, folder: Path, *, sessions: int, megabytes: int, say: Callable[[str], None]) -> Outcome:
    octets = megabytes * 1_000_000
    _check_disk(folder, _DISK_FACTOR * sessions * octets)
    with Children(folder) as children:
        ours = system.start(
            children,
            folder,
            keep,
            name="memory",
            processes=("smtp", "web"),
            settings={"SMTP_TRUSTED_NETWORKS": "", "SMTP_MAX_CONNECTIONS": str(sessions + 10)},
        )
        listener = next(child.pid for child in ours.children if child.name.endswith(" smtp"))
        groups: dict[str, Sequence[int]] = {"listener": [listener]}
        if keep.roots:
            groups["PostgreSQL"] = list(keep.roots)
        started = time.perf_counter()
        with Watch(groups, folder) as watch, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            crowd, sent = runner.run(_all(ours.port, sessions, octets, say))
        seconds = time.perf_counter() - started
        stored = {one for each in sent if (one := message_id(each.reply))}
        return Outcome(
            sent=sent,
            most_at_once=crowd.most_at_once,
            seconds=seconds,
            memory=watch.memory,
            disk_peak=watch.disk,
            disk_after=folder_octets(folder),
            lost=len(stored) - _found(ours, stored, octets),
            altered=_altered(sent, Web(ours.environment)),
        )


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BenchError(
            f"{needed >> 30} GiB are needed in {folder}, {free >> 30} GiB are free: try --quick, or --folder elsewhere."
        )


# --- the sessions -----------------------------------------------------------------------------------------------------


async def _all(port: int, sessions: int, octets: int, say: Callable[[str], None]) -> tuple[Crowd, list[Sent]]:
    crowd = Crowd(sessions, octets)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_session(port, number, crowd)) for number in range(sessions)]
        group.create_task(_let_go_of_the_stalled(crowd, say))
    return crowd, [task.result() for task in tasks]


async def _let_go_of_the_stalled(crowd: Crowd, say: Callable[[str], None]) -> None:
    """A listener may make some wait until others are done: then not all can be in the middle at once."""
    known, since = -1, time.monotonic()
    while not crowd.release.is_set():
        await asyncio.sleep(0.2)
        if crowd.moved != known:
            known, since = crowd.moved, time.monotonic()
        elif time.monotonic() - since > STALL_SECONDS:
            crowd.release.set()
    say(f"memory: {crowd.most_at_once} of {crowd.sessions} in the middle at once, {crowd.ended} ended")


async def _session(port: int, number: int, crowd: Crowd) -> Sent:
    sent = Sent()
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
        sent.reply = await _talk(reader, writer, sent, number, crowd)
    except (OSError, TimeoutError) as error:
        sent.reply = f"no reply: {error!r}"
    finally:
        crowd.ended += 1
        crowd.look()
        if writer is not None:
            writer.close()
    return sent


async def _talk(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: Sent, number: int, crowd: Crowd
) -> str:
    """Send one message with a pause before its last fiftieth; return the last reply, also where it came early."""
    reply = await _reply(reader)
    commands = ("EHLO client.example", "MAIL FROM:<large@source.example>", f"RCPT TO:<{LOCAL_RECIPIENT}>", "DATA")
    for command, expected in zip(commands, ("250", "250", "250", "354"), strict=True):
        if not reply.startswith("2"):
            return reply
        writer.write(command.encode() + b"\r\n")
        reply = await _reply(reader)
        if not reply.startswith(expected):
            return reply
    answer = asyncio.ensure_future(_reply(reader))
    body = asyncio.ensure_future(_send_message(writer, sent, number, crowd))
    try:
        await asyncio.wait((answer, body), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            await body  # raises where the connection broke
        async with asyncio.timeout(REPLY_SECONDS):
            return await answer
    finally:
        body.cancel()
        answer.cancel()


async def _send_message(writer: asyncio.StreamWriter, sent: Sent, number: int, crowd: Crowd) -> None:
    digest = hashlib.sha256()
    head = f"From: large@source.example\r\nSubject: large {number}\r\n\r\n".encode()
    middle = crowd.octets - crowd.octets // 50

    async def send(octets: bytes) -> None:
        digest.update(octets)
        writer.write(octets)
        await writer.drain()
        sent.octets += len(octets)
        crowd.moved += len(octets)

    await send(head)
    while sent.octets < middle:
        await send(_BLOCK)
    sent.was_in_the_middle = True
    crowd.waiting += 1
    crowd.look()
    await crowd.release.wait()
    while sent.octets < crowd.octets - len(_BLOCK):
        await send(_BLOCK)
    sent.digest = digest.hexdigest()
    writer.write(b".\r\n")
    await writer.drain()


async def _reply(reader: asyncio.StreamReader) -> str:
    """Return the last line of the next reply, "" where the connection is closed."""
    while True:
        line = (await reader.readline()).decode("ascii", "replace").rstrip()
        if line[3:4] != "-":
            return line


# --- what became of them ----------------------------------------------------------------------------------------------


def _is_an_answer(reply: str) -> bool:
    return reply.startswith(("250", "4"))


def _found(ours: system.System, identifiers: set[str], octets: int) -> int:
    """Count the promised messages that are in the database at their full size."""
    if not identifiers:
        return 0
    listed = ", ".join(f"'{one}'" for one in sorted(identifiers))  # as the pattern of ids lets them be
    least = octets - 2 * len(_BLOCK)
    return ours.database.number(
        f"SELECT count(*) FROM mailflow_message WHERE size_octets > {least} AND id IN ({listed})"  # noqa: S608
    )


def _altered(sent: Sequence[Sent], web: Web) -> int:
    """Read some back whole; count those that are not what was sent."""
    count = 0
    for one in [each for each in sent if message_id(each.reply)][:COMPARED]:
        page = web.get(f"/api/v1/messages/{message_id(one.reply)}/raw")
        count += page.status != 200 or hashlib.sha256(page.octets[-one.octets :]).hexdigest() != one.digest
    return count


# --- in words ---------------------------------------------------------------------------------------------------------


def report(outcome: Outcome) -> str:
    total = sum(outcome.memory.values())
    rows = [(name, f"{octets / MIB:.0f}", "", "") for name, octets in outcome.memory.items()]
    if len(rows) > 1:
        rows.append(("together", f"{total / MIB:.0f}", "", ""))
    rows[-1] = (*rows[-1][:2], f"under {GOAL_OCTETS // MIB}", "met" if total < GOAL_OCTETS else "missed")
    codes = Counter(one.reply[:3] if one.reply[:3].isdigit() else one.reply or "closed" for one in outcome.sent)
    answers = ", ".join(f"{count} × {code}" for code, count in codes.most_common())
    megabytes = sum(one.octets for one in outcome.sent) / 1e6
    are_answers = all(_is_an_answer(one.reply) for one in outcome.sent)
    return f"""{grid(("processes", "most memory, MiB", "goal", ""), rows)}

{outcome.most_at_once} of {len(outcome.sent)} sessions were in the middle at once; {megabytes:.0f} MB were sent in \
{outcome.seconds:.0f} s.
Answers: {answers}: {"met" if are_answers else "missed"}.
Promised and lost: {outcome.lost}; of {COMPARED} read back, altered: {outcome.altered}.
Disk: {outcome.disk_peak / MIB:.0f} MiB more at most, {outcome.disk_after / MIB:.0f} MiB in the folder at the end."""
