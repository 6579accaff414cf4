"""`manage.py queue`: look at the queue and act on it (named as the app; docs/adr/0001 says how that is no trap)."""

from __future__ import annotations

import argparse
import getpass
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone
from tqdm import tqdm

from accounts.command import PlainCommand, example
from mailflow.ids import MESSAGE_ID_PREFIX
from mailflow.models import Message
from queue import actions, console, control, overview, selection, shown, workers
from queue.control import Action, InvalidOrder, Order
from queue.control.orders import WORDS
from queue.models import Entry, QueueAction
from queue.moments import MOMENT_WORDS
from queue.selection import InvalidSelection, Selection
from queue.selection_fields import FIELDS
from queue.timeline import timeline
from queue.waiting import around

EXAMPLES = """Examples:
  manage.py queue list --domain example.net --older-than 2h
  manage.py queue show msg_019384…
  manage.py queue hold --sender news@example.com --reason "complaints"
  manage.py queue release --held --domain example.net
  manage.py queue retry --reply greylisted                  # now; --at 2h or --at 2026-11-27T10:00Z for later
  manage.py queue reroute --domain example.net --to relay.example.com:2525
  manage.py queue expire --older-than 1d --until 6h
  manage.py queue fail msg_019384… --reason "wrong list"    # --no-dsn: the sender is not told
  manage.py queue delete --all --dry-run
  manage.py queue stats
  manage.py queue workers

Conditions all hold together. An action tells the count and asks before it does anything; --yes is for scripts."""
SAMPLE = 5
DEFAULT_LIMIT = 50
WIDE = 200  # columns, where the output is no terminal
_EXAMPLE_OF = {
    Action.HOLD: 'manage.py queue hold --domain example.net --reason "their host is broken"',
    Action.RELEASE: "manage.py queue release --held --organization Shop",
    Action.RETRY: "manage.py queue retry --domain example.net --at 2h",
    Action.REROUTE: "manage.py queue reroute --domain example.net --to relay.example.com:2525",
    Action.EXPIRE: "manage.py queue expire --domain example.net --until 2d --attempts 20",
    Action.FAIL: 'manage.py queue fail --older-than 3d --reason "the host is gone"',
    Action.DELETE: "manage.py queue delete --sender spammer@example.com",
}


class Command(PlainCommand):
    help = "Look at the mail queue and act on it: list, show, hold, release, retry, reroute, expire, fail, delete."
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        listing = commands.add_parser(
            "list", help="entries that wait, the newest first", **example("manage.py queue list --held")
        )
        _add_filter(listing)
        listing.add_argument("--limit", type=int, default=DEFAULT_LIMIT, help=f"at most so many ({DEFAULT_LIMIT})")
        show = commands.add_parser("show", help="all about one message", **example("manage.py queue show msg_019384…"))
        show.add_argument("name", metavar="ID", help="a message id, or the id of one of its entries")
        for action in Action:
            help_text = WORDS[action].partition(": ")[2].rstrip(".")
            acting = commands.add_parser(
                action.value, help=help_text, **example(_EXAMPLE_OF[action], description=WORDS[action])
            )
            _add_filter(acting)
            _add_order(acting, action)
        stats = commands.add_parser("stats", help="the queue domain by domain", **example("manage.py queue stats"))
        seen = commands.add_parser(
            "workers", help="who delivers, what, and since when", **example("manage.py queue workers")
        )
        for one in (listing, show, stats, seen):
            one.add_argument("--json", action="store_true", dest="as_json", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        command = options["command"]
        doing: Callable[[dict[str, Any]], None] = {
            "list": self._list, "show": self._show, "stats": self._stats, "workers": self._workers,
        }.get(command, self._act)  # fmt: skip
        try:
            doing(options)
        except BrokenPipeError:
            sys.stderr.close()  # `| head` has enough

    # --- looking ------------------------------------------------------------------------------------------------------

    def _list(self, options: dict[str, Any]) -> None:
        if not 1 <= options["limit"] <= 100_000:
            raise CommandError(f"--limit must be from 1 to 100000, not {options['limit']}.")
        chosen, now = _selection(options), timezone.now()
        entries = chosen.listed_entries()
        found = list(entries.select_related("message").order_by("-message_id", "-id")[: options["limit"]])
        if options["as_json"]:
            about = around(found, now)
            self._print_json([shown.values(entry, now, about) for entry in found])
            return
        if found:
            self.stdout.write(console.entries(found, now, _width()))
        count = selection.count(entries)
        more = f", the newest {len(found)} are shown" if count.number > len(found) else ""
        self.stdout.write(f"{count} queue {_noun(count.number)}{more}.")

    def _show(self, options: dict[str, Any]) -> None:
        name, now = options["name"], timezone.now()
        if not name.startswith(MESSAGE_ID_PREFIX) and name.isascii() and name.isdigit() and len(name) < 20:
            name = Entry.objects.filter(pk=int(name)).values_list("message_id", flat=True).first() or name
        message = None if "\0" in name else Message.objects.filter(pk=name).first()
        if message is None:
            raise CommandError(f"There is no message {options['name'][:60]!r}.")
        entries = list(message.entries.select_related("message").order_by("pk"))
        steps = timeline(message.pk)
        if options["as_json"]:
            facts = {"id": message.pk, "status": message.status, "trace_id": message.trace_id}
            about = around(entries, now)
            recipients = [shown.values(entry, now, about) for entry in entries]
            self._print_json({**facts, "entries": recipients, "timeline": [asdict(step) for step in steps]})
            return
        self.stdout.write(console.message(message, entries, steps, now))

    def _stats(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        found = overview.read(now)
        if options["as_json"]:
            self._print_json(asdict(found))
        else:
            self.stdout.write(console.overview(found, now, _width()))

    def _workers(self, options: dict[str, Any]) -> None:
        now = timezone.now()
        found = workers.read(now)
        if options["as_json"]:
            self._print_json([asdict(seen) for seen in found])
        else:
            self.stdout.write(console.workers(found, now))

    def _print_json(self, values: object) -> None:
        self.stdout.write(json.dumps(values, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False))

    # --- acting -------------------------------------------------------------------------------------------------------

    def _act(self, options: dict[str, Any]) -> None:
        order, chosen = _order(options), _selection(options, needs_one=True)
        entries = chosen.open_entries()
        count = selection.count(entries)
        if not options["as_json"]:
            self._tell_what_is_meant(order, chosen, count)
        if options["dry_run"]:
            if options["as_json"]:
                self._print_json({"dry_run": True, "count": count.number, "is_count_exact": not count.is_more})
            return
        if not count.number:
            if options["as_json"]:
                self._print_json({"count": 0, "done": 0, "left": {}})
            return
        if not (options["yes"] or self._is_confirmed()):
            raise CommandError("Nothing was done.")
        action = _carry_out(order, chosen)
        if options["as_json"]:
            about = {"id": str(action.pk), "status": action.status, "total": action.total}
            self._print_json({**about, "done": action.done, "left": action.left})
        else:
            self.stdout.write(f"{actions.tally_of(action).words}.")
        if action.status != QueueAction.Status.DONE:
            raise CommandError(f"{action.get_status_display()} after {action.looked_at:,} of {action.total:,} entries.")

    def _tell_what_is_meant(self, order: Order, chosen: Selection, count: selection.Count) -> None:
        self.stdout.write(f"{order.words}: {count} queue {_noun(count.number)} ({console.plain(chosen.words)})")
        sample = list(chosen.open_entries().select_related("message").order_by("-message_id", "-id")[:SAMPLE])
        for entry in sample:
            subject = console.plain(entry.message.subject)[:60]
            self.stdout.write(f"  {entry.message_id}  {console.plain(entry.recipient)}  {subject}".rstrip())
        if count.number > len(sample):
            self.stdout.write("  …")

    def _is_confirmed(self) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("Nobody is here to ask: give --yes, or --dry-run.")
        try:
            return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            self.stdout.write("")
            return False


def _carry_out(order: Order, chosen: Selection) -> QueueAction:
    """Carry it out here, with a bar on long work; a worker goes on with what a killed command has begun."""
    action = actions.take(actions.runner_name(), actions.request(order, chosen, door=actions.COMMAND).pk)
    if action is None:
        raise CommandError("A worker has taken the action over; `queue stats` and the admin show what it does.")
    with tqdm(unit=" entries", disable=None, leave=False, delay=1) as bar:

        def progress(looked_at: int, total: int) -> None:
            bar.total = total
            bar.update(looked_at - bar.n)

        try:
            return actions.run(action, progress=progress)
        except KeyboardInterrupt:
            return actions.stop_here(action)
        except actions.TakenOver:
            raise CommandError("A worker went on with the action, since this command was silent for long.") from None


def _order(options: Mapping[str, Any]) -> Order:
    names = {"reason": "reason", "at": "at", "route": "to", "expires_at": "until", "max_attempts": "attempts"}
    given = {name: options[option] for name, option in names.items() if options.get(option) is not None}
    if options["command"] == Action.FAIL:
        given["dsn"] = not options["no_dsn"]
    try:
        return control.parse_order(options["command"], given, actor=_actor(), now=timezone.now())
    except InvalidOrder as error:
        raise CommandError(_as_options(error.errors, names)) from None


def _selection(options: Mapping[str, Any], *, needs_one: bool = False) -> Selection:
    given: dict[str, Any] = {}
    for name in FIELDS:
        if (value := options.get(f"filter_{name}")) is not None:
            given[name] = [part for text in value for part in text.split(",")] if FIELDS[name].is_many else value
    if options.get("filter_all"):
        given["all"] = True
    names: list[str] = options.get("names") or []
    messages = [name for name in names if name.startswith(MESSAGE_ID_PREFIX)]
    entries = [name for name in names if not name.startswith(MESSAGE_ID_PREFIX)]
    if messages:
        given["message"] = [*given.get("message", []), *messages]
    if entries:
        given["id"] = [*given.get("id", []), *entries]
    try:
        return selection.parse(given, timezone.now(), needs_one=needs_one)
    except InvalidSelection as error:
        if "filter" in error.errors:
            raise CommandError("Say which entries: give conditions or ids, or --all for every one.") from None
        raise CommandError(_as_options(error.errors, {})) from None


def _as_options(errors: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Tell errors by the options' names; a parameter that the words name is an option, too."""
    options = {name: f"--{names.get(name, name).replace('_', '-')}" for name in {*names, *errors}}
    told = " ".join(f"{options[name]}: {words}" for name, words in errors.items())
    for name in [name for name in options if "_" in name]:  # no word of a sentence
        told = told.replace(name, options[name])
    return told


def _actor() -> str:
    try:
        return f"{getpass.getuser()} (manage.py queue)"
    except (KeyError, OSError):  # a container's user without a name
        return "manage.py queue"


def _noun(count: int) -> str:
    return "entry" if count == 1 else "entries"


def _width() -> int:
    return shutil.get_terminal_size((WIDE, 0)).columns if sys.stdout.isatty() else WIDE


# --- arguments --------------------------------------------------------------------------------------------------------


def _add_filter(parser: argparse.ArgumentParser) -> None:
    """Give a command every condition that there is, as an option of the same name."""
    parser.add_argument("names", nargs="*", metavar="ID", help="message ids, or ids of entries")
    group = parser.add_argument_group("which entries")
    for field in FIELDS.values():
        option, dest = f"--{field.name.replace('_', '-')}", f"filter_{field.name}"
        if field.is_flag:
            group.add_argument(option, dest=dest, action=argparse.BooleanOptionalAction, help=field.help)
        elif field.is_many:
            text = f"{field.help}; may be given again"
            group.add_argument(option, dest=dest, action="append", metavar=field.name.upper(), help=text)
        else:
            group.add_argument(option, dest=dest, metavar=field.name.upper(), help=field.help)


def _add_order(parser: argparse.ArgumentParser, action: Action) -> None:
    parser.add_argument("--all", dest="filter_all", action="store_true", help="every entry of the queue")
    match action:
        case Action.RETRY:
            parser.add_argument("--at", metavar="TIME", help=f"{MOMENT_WORDS} (now)")
        case Action.REROUTE:
            parser.add_argument(
                "--to", metavar="HOST[:PORT]", required=True, help='the next hop; "": by the rules again'
            )
        case Action.EXPIRE:
            parser.add_argument("--until", metavar="TIME", help=f"give up then: {MOMENT_WORDS}")
            parser.add_argument("--attempts", metavar="NUMBER", help="give up after so many attempts")
        case Action.FAIL:
            parser.add_argument("--no-dsn", action="store_true", help="the sender gets no report")
        case _:
            pass
    told = "; the sender reads it, too" if action is Action.FAIL else ""
    parser.add_argument("--reason", help=f"why, for the events and the trail{told}")
    parser.add_argument("--dry-run", action="store_true", help="tell how many are meant, and do nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", dest="as_json", help="for programs")
