"""`manage.py simulate`: let time pass in the sandbox, and show what its clock says."""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import sys
import time

from django.core.management.base import BaseCommand, CommandParser

from accounts.command import PlainCommand
from queue.models import Entry
from queue.simulation import advance, clock, spans
from queue.simulation.advance import Advance, Summary, Tally


def span(text: str) -> dt.timedelta:
    try:
        return spans.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Command(PlainCommand):
    help = (
        "Let time pass in the sandbox: what is due on the way is delivered, retried, bounced and reported as it would"
        " be in real time. Only sandbox mail moves."
    )
    examples = "Example:\n  manage.py simulate --advance 5d"

    def add_arguments(self, parser: CommandParser) -> None:
        chosen = parser.add_mutually_exclusive_group()
        chosen.add_argument("--advance", type=span, metavar="SPAN", help="let so much time pass: 90m, 12h, 5d, 1d12h")
        chosen.add_argument("--until-idle", action="store_true", help="let time pass until no sandbox mail waits")
        chosen.add_argument("--reset", action="store_true", help="go back to real time; what waits, waits as long")
        chosen.add_argument("--show", action="store_true", help="show the clock and what waits (the default)")

    def handle(
        self, *_args: object, until_idle: bool, reset: bool, advance: dt.timedelta | None, **_options: object
    ) -> None:
        if reset:
            self._reset()
        elif until_idle or advance is not None:
            self._advance(advance)
        else:
            self._show()

    def _show(self) -> None:
        ahead = clock.ahead()
        now = clock.now()
        waiting = advance.waiting(now + advance.FAR)
        first = advance.first_due(now)
        self.stdout.write(f"Sandbox clock   {now:%Y-%m-%d %H:%M:%S} UTC, {_ahead_words(ahead)}")
        self.stdout.write(f"Waiting         {waiting.count()} sandbox entries")
        if first is not None:
            due = f"in {spans.words(first - now)}" if first > now else "now"
            self.stdout.write(f"The next is due {first:%Y-%m-%d %H:%M:%S} UTC, {due}")
        held = Entry.objects.filter(is_sandbox=True, status__in=Entry.OPEN, next_attempt_at__isnull=True).count()
        if held:
            self.stdout.write(f"On hold         {held}, which no time moves")

    def _reset(self) -> None:
        ahead = clock.ahead()
        count = clock.reset(actor=_actor())
        if ahead:
            came = f"{count} waiting {_entries(count)} came along"
            self.stdout.write(f"The sandbox is back in real time, from {spans.words(ahead)} ahead; {came}.")
        else:
            self.stdout.write("The sandbox was in real time already.")

    def _advance(self, by: dt.timedelta | None) -> None:
        began = time.perf_counter()
        printer = _Printer(self, clock.now())
        until = None if by is None else printer.started_at + by
        run = Advance(until, actor=_actor(), tell=printer.tell, note=self.stdout.write)
        try:
            run.run()
        except KeyboardInterrupt:
            printer.flush()
            self._summarise(run.summary, began)
            self.stdout.write("Interrupted; what was not done waits, and the clock stands where it is.")
            sys.exit(130)
        printer.flush()
        self._summarise(run.summary, began)

    def _summarise(self, summary: Summary, began: float) -> None:
        tally = summary.tally
        rows = [
            ("time passed", spans.words(summary.ended_at - summary.started_at)),
            ("attempts", str(tally.attempts)),
            ("delivered", str(tally.delivered)),
            ("captured", str(tally.captured)),
            ("deferred", str(tally.deferred)),
            ("bounced", str(tally.bounced)),
            ("reports written", str(tally.reports)),
            ("still waiting", str(summary.waiting)),
        ]
        if summary.in_other_hands:
            rows.append(("with a worker", str(summary.in_other_hands)))
        self.stdout.write("")
        for name, value in rows:
            self.stdout.write(f"  {name:16} {value:>12}")
        self.stdout.write("")
        took = time.perf_counter() - began
        self.stdout.write(f"The sandbox's clock says {summary.ended_at:%Y-%m-%d %H:%M:%S} UTC. It took {took:.1f} s.")


class _Printer:
    """Prints a line for each hour of the sandbox in which something happened, counted from the start."""

    def __init__(self, command: BaseCommand, started_at: dt.datetime) -> None:
        self.started_at = started_at
        self._command = command
        self._hour = -1
        self._at = started_at
        self._tally = Tally()

    def tell(self, at: dt.datetime, tally: Tally) -> None:
        hour = int((at - self.started_at).total_seconds() // 3600)
        if hour > self._hour:
            self.flush()
            self._hour, self._at = hour, at
        self._tally.add(tally)

    def flush(self) -> None:
        if self._tally != Tally():
            passed = max(int((self._at - self.started_at).total_seconds()), 0)
            days, minutes = passed // 86400, passed // 60 % 1440
            words = f"day {days + 1} {minutes // 60:02}:{minutes % 60:02}: {self._tally.words()}"
            self._command.stdout.write(words)
            self._command.stdout.flush()
        self._tally = Tally()


def _actor() -> str:
    try:
        return f"simulate, by {getpass.getuser()}"
    except (KeyError, OSError):
        return "simulate"


def _ahead_words(ahead: dt.timedelta) -> str:
    return f"{spans.words(ahead)} ahead of real time" if ahead else "which is real time"


def _entries(count: int) -> str:
    return "entry" if count == 1 else "entries"
