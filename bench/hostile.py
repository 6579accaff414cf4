"""What hostile messages cost everybody else: honest sessions beside 20 of them; are those stored whole, and shown?"""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import latency, system
from bench.database import Database
from bench.latency import Goal, Honest, Trips, milliseconds
from bench.prepare import LOCAL_RECIPIENT
from bench.processes import Children, wait_until, wait_until_quiet
from bench.report import grid
from bench.smtp_client import SmtpClient, dotted, message_id
from bench.web_client import Page, Web
from mailflow.tests import hostile_mail

TITLE = "Honest sessions while 20 hostile messages are taken in"
GOAL = Goal(median=0.2, worst=1.0)
SHOWN_SECONDS = 5.0  # for a page that shows one of them
WAVES, QUICK_WAVES = 5, 1  # of all messages in a round, back to back: a single one is over too soon to measure beside
IDLE_SECONDS, QUICK_IDLE_SECONDS = 5.0, 1.0
DELIVERED_SECONDS = 300.0
_TRACE_FIELDS = re.compile(
    rb"(?:(?:Received|Return-Path|Authentication-Results|Received-SPF):[^\n]*\n(?:[ \t][^\n]*\n)*)+"
)
_PAGES = (
    "/api/v1/messages/{}",
    "/api/v1/messages/{}/timeline",
    "/api/v1/messages/{}/raw",
    "/api/v1/emails/{}",
    "/admin/mailflow/message/{}/change/",
    "/admin/mailflow/message/{}/raw/",
)


@dataclass(frozen=True, slots=True)
class Taken:
    """How one hostile message fared at the door."""

    name: str
    octets: int
    digest: str
    seconds: float
    reply: str
    may_be_refused: bool

    @property
    def message_id(self) -> str:
        return message_id(self.reply)

    @property
    def is_refused(self) -> bool:
        return self.may_be_refused and self.reply.startswith("5")


@dataclass(frozen=True, slots=True)
class Outcome:
    """All rounds together; `pages` are those of the last wave's messages, by message id."""

    idle: tuple[Trips, Trips]
    loaded: tuple[Trips, Trips]
    waves: list[list[Taken]]
    altered: list[str]
    pages: dict[str, list[Page]]

    @property
    def is_whole(self) -> bool:
        """Whether every message was stored bit for bit, or refused where that is as good."""
        return not self.altered


def measure(
    keep: Database, folder: Path, *, rounds: int, waves: int, idle_seconds: float, say: Callable[[str], None]
) -> Outcome:
    """Measure a system with its worker and web process on this database."""
    settings = {"SMTP_TRUSTED_NETWORKS": ""}
    with Children(folder) as children, _elsewhere() as attackers:
        ours = system.start(
            children, folder, keep, name="hostile", processes=("smtp", "worker", "web"), settings=settings
        )
        web = Web(ours.environment)
        attackers.submit(_prepared).result()
        with Honest(ours.port, LOCAL_RECIPIENT):  # what the first messages of a process cost is not measured
            time.sleep(1)
        with Honest(ours.port, LOCAL_RECIPIENT) as idle:
            time.sleep(idle_seconds)
        say("hostile: idle measured")
        loaded: list[Honest] = []
        taken: list[list[Taken]] = []
        for number in range(rounds):
            wait_until_quiet(ours.roots())
            with Honest(ours.port, LOCAL_RECIPIENT) as honest:
                taken += attackers.submit(attack, ours.port, waves).result()
            loaded.append(honest)
            say(f"hostile: round {number + 1} of {rounds}")
        _wait_until_delivered(ours)
        altered = [f"{one.name}: {words}" for each in taken for one in each if (words := _altered(one, web))]
        pages = {one.message_id: _shown(one, web) for one in taken[-1] if one.message_id}
    return Outcome(
        idle=(idle.commands, idle.messages),
        loaded=(latency.all_in([one.commands for one in loaded]), latency.all_in([one.messages for one in loaded])),
        waves=taken,
        altered=altered,
        pages=pages,
    )


# --- the attack, in a process of its own: it shares no interpreter with the honest clients ----------------------------


def _elsewhere() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


_READY: list[tuple[hostile_mail.HostileMail, bytes, bytes]] = []


def _prepared() -> int:
    """Write all messages ahead, so that what is timed later is sending alone."""
    for mail in hostile_mail.EVERY:
        content = mail.make()
        _READY.append((mail, content, dotted(content)))
    return len(_READY)


def attack(port: int, waves: int) -> list[list[Taken]]:
    """Send all of them at once, again and again; call `_prepared` before."""
    return [_wave(port) for _ in range(waves)]


def _wave(port: int) -> list[Taken]:
    """Send every hostile message, each over a connection of its own; return when all are answered."""
    found: list[Taken] = []
    start = threading.Barrier(len(_READY))

    def send(mail: hostile_mail.HostileMail, content: bytes, octets: bytes) -> None:
        seconds = 0.0
        try:
            with SmtpClient(port, seconds=120) as client:
                client.greet()
                client.begin(hostile_mail.SENDER, LOCAL_RECIPIENT)
                start.wait(60)
                started = time.perf_counter()
                client.send(octets)
                reply = client.reply()
                seconds = time.perf_counter() - started
        except Exception as error:  # noqa: BLE001  (whatever it was, it is this message's outcome)
            start.abort()
            reply = f"no reply: {error!r}"
        digest = hashlib.sha256(content).hexdigest()
        found.append(Taken(mail.name, len(content), digest, seconds, reply, mail.may_be_refused))

    threads = [threading.Thread(target=send, args=each) for each in _READY]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = [mail.name for mail, _, _ in _READY]
    return sorted(found, key=lambda one: order.index(one.name))


# --- what became of them ----------------------------------------------------------------------------------------------


def _wait_until_delivered(ours: system.System) -> None:
    open_ones = "SELECT count(*) FROM mailflow_message WHERE status = 'processing'"
    wait_until(
        lambda: ours.database.number(open_ones) == 0, DELIVERED_SECONDS, "all to be filed", *ours.children, interval=0.2
    )


def _altered(taken: Taken, web: Web) -> str:
    """Say what is wrong with the stored message, or nothing: below our trace fields it is what was sent."""
    if taken.is_refused:
        return ""
    if not taken.message_id:
        return f"not taken in: {taken.reply}"
    page = web.get(f"/api/v1/messages/{taken.message_id}/raw")
    if page.status != 200:
        return f"its source answers {page.status}"
    sent, above = page.octets[-taken.octets :], page.octets[: -taken.octets]
    if hashlib.sha256(sent).hexdigest() != taken.digest:
        return "what is stored is not what was sent"
    return "" if _TRACE_FIELDS.fullmatch(above) else f"above it stands {above[:100]!r}"


def _shown(taken: Taken, web: Web) -> list[Page]:
    return [web.get(path.format(taken.message_id)) for path in _PAGES]


# --- in words ---------------------------------------------------------------------------------------------------------


def report(outcome: Outcome) -> str:
    """Return the tables and what they come to."""
    load = f"{len(outcome.waves[0])} hostile messages"
    trips = [
        row
        for name, idle, loaded in zip(("NOOP, RSET", "a small message"), outcome.idle, outcome.loaded, strict=True)
        for row in latency.rows(name, idle, loaded, load, GOAL)
    ]
    cells = [_cells([each[at] for each in outcome.waves], outcome) for at in range(len(outcome.waves[0]))]
    head = ("hostile message", "octets", "taken in, s", "answer", "slowest page, ms", "")
    return f"{grid(latency.HEAD, trips)}\n\n{grid(head, cells)}\n\n{_verdict(outcome)}"


def _cells(waves: Sequence[Taken], outcome: Outcome) -> tuple[str, ...]:
    last = waves[-1]
    pages = outcome.pages.get(last.message_id, [])
    slowest = max(pages, key=lambda page: page.seconds, default=None)
    shown = "" if slowest is None else f"{milliseconds(slowest.seconds)} ({_short(slowest.path, last.message_id)})"
    wrong = [f"{_short(page.path, last.message_id)} {page.status}" for page in pages if page.status != 200]
    answer = last.reply.partition(" queued")[0]
    return (
        last.name,
        str(last.octets),
        f"{median(one.seconds for one in waves):.2f}",
        answer if last.message_id or len(answer) < 60 else answer[:57] + "…",
        shown,
        ", ".join(wrong),
    )


def _short(path: str, identifier: str) -> str:
    return path.replace(identifier, "{id}").removeprefix("/api/v1/").removeprefix("/admin/mailflow/")


def _verdict(outcome: Outcome) -> str:
    count = sum(map(len, outcome.waves))
    refused = sum(one.is_refused for each in outcome.waves for one in each)
    stored = count - refused - len(outcome.altered)
    lines = [f"Stored whole: {stored} of {count}" + (f", {refused} refused as they may be." if refused else ".")]
    lines += [f"- {words}" for words in outcome.altered]
    pages = [page for each in outcome.pages.values() for page in each]
    good = [page for page in pages if page.status == 200 and page.seconds <= SHOWN_SECONDS]
    verdict = "met" if len(good) == len(pages) else "missed"
    lines.append(f"Shown: {len(good)} of {len(pages)} pages answer 200 within {SHOWN_SECONDS:.0f} s: {verdict}.")
    return "\n".join(lines)
