"""`manage.py suppressions`: the suppression list from the command line, for operators."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from accounts.command import PlainCommand, example
from accounts.models import Organization
from accounts.names import InvalidName, fold_address, parse_address, parse_domain
from queue import suppression_files, suppression_list
from queue.models import Suppression
from queue.suppression_files import Plan, Scope, Unreadable
from queue.suppression_list import Actor

ACTOR = Actor("manage.py suppressions")
EXAMPLES = """Examples:
  manage.py suppressions add bob@dest.example --organization Example --words "asked by phone"
  manage.py suppressions remove bob@dest.example --organization Example
  manage.py suppressions import list.csv --organization Example --dry-run
  manage.py suppressions export --organization Example > list.csv"""
_SHOWN_PROBLEMS = 20
_REASONS = [reason.value for reason in Suppression.Reason]


class Command(PlainCommand):
    help = "Enter, remove, import and export addresses that get no mail."
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True, metavar="add|remove|import|export")
        form = example('manage.py suppressions add bob@dest.example --organization Example --words "asked by phone"')
        add = acts.add_parser("add", help="enter one address, or change its row", **form)
        add.add_argument("address")
        add.add_argument("--reason", choices=_REASONS, default=Suppression.Reason.MANUAL.value)
        add.add_argument("--words", default="", help="why, for whoever reads it later")
        add.add_argument("--days", type=int, default=0, help="how long it holds (default: until it is removed)")
        form = example("manage.py suppressions remove bob@dest.example --organization Example")
        remove = acts.add_parser("remove", help="remove one address", **form)
        remove.add_argument("address")
        form = example("manage.py suppressions import list.csv --organization Example --dry-run")
        load = acts.add_parser("import", help="enter the addresses of a CSV file, or of standard input (-)", **form)
        load.add_argument("file", help="the file; - for standard input")
        load.add_argument("--reason", choices=_REASONS, default=Suppression.Reason.MANUAL.value)
        load.add_argument("--dry-run", action="store_true", help="only say what would happen")
        load.add_argument("--skip-invalid", action="store_true", help="enter the good lines of a file with errors")
        form = example("manage.py suppressions export --organization Example > list.csv")
        export = acts.add_parser("export", help="write the list as CSV to standard output", **form)
        for act in (add, remove, load, export):
            act.add_argument("--organization", default="", help="whose list, by name (default: the whole system's)")
            act.add_argument("--domain", default="", help="only mail from this sending domain of the organization")
        export.add_argument("--all", action="store_true", help="every organization's rows and the whole system's")

    def handle(self, *args: Any, **options: Any) -> None:
        {"add": self._add, "remove": self._remove, "import": self._import, "export": self._export}[options["act"]](
            options
        )

    def _add(self, options: dict[str, Any]) -> None:
        organization, domain, address = _organization(options), _domain(options), _address(options)
        days = options["days"]
        if not 0 <= days <= 36500:
            raise CommandError(f"--days must be from 0 to 36500, not {days}.")
        now = timezone.now()
        row = Suppression(address=address, organization=organization, sending_domain=domain, created_at=now)
        row = suppression_list.find_same(row) or row
        is_new = row._state.adding
        row.reason, row.words = options["reason"], options["words"]
        row.expires_at = now + dt.timedelta(days=days) if days else None
        row.created_by = row.created_by or ACTOR.name
        row.save()
        suppression_list.saved([row], ACTOR, "added" if is_new else "changed")
        until = f" until {row.expires_at:%Y-%m-%d}" if row.expires_at else ""
        self.stdout.write(f"{address} gets no more mail of {_whose(organization, domain)}{until} (row {row.pk}).")

    def _remove(self, options: dict[str, Any]) -> None:
        organization, domain, address = _organization(options), _domain(options), _address(options)
        rows = Suppression.objects.filter(address=address, organization=organization, sending_domain=domain)
        if not suppression_list.remove(rows, ACTOR):
            raise CommandError(f"{address} is not on the list of {_whose(organization, domain)}.")
        self.stdout.write(f"{address} gets mail of {_whose(organization, domain)} again.")

    def _import(self, options: dict[str, Any]) -> None:
        organization, domain = _organization(options), _domain(options)
        scope = Scope(organization.pk if organization else None, bool(organization), domain, options["reason"])
        try:
            plan = suppression_files.read(_octets(options["file"]), scope, now=timezone.now())
        except Unreadable as error:
            raise CommandError(str(error)) from None
        self._tell_problems(plan)
        if plan.problem_count and not options["skip_invalid"] and not options["dry_run"]:
            raise CommandError(
                f"Nothing was entered: {plan.problem_count} lines cannot be used. --skip-invalid enters the others."
            )
        counts = suppression_files.apply(plan, ACTOR, dry_run=options["dry_run"])
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(
            f"{counts.added} {would}added, {counts.updated} {would}changed, {counts.unchanged} as they are, "
            f"{plan.repeated} repeated in the file, {plan.problem_count} lines that cannot be used."
        )

    def _tell_problems(self, plan: Plan) -> None:
        for problem in plan.problems[:_SHOWN_PROBLEMS]:
            self.stderr.write(f"Line {problem.line}: {problem.message}")
        if plan.problem_count > _SHOWN_PROBLEMS:
            self.stderr.write(f"… and {plan.problem_count - _SHOWN_PROBLEMS} more")

    def _export(self, options: dict[str, Any]) -> None:
        organization, domain = _organization(options), _domain(options)
        rows = Suppression.objects.all()
        if not options["all"]:
            rows = rows.filter(organization=organization)
            rows = rows.filter(sending_domain=domain) if domain else rows
        for piece in suppression_files.write(rows):
            self.stdout.write(piece, ending="")


def _organization(options: dict[str, Any]) -> Organization | None:
    name = options["organization"]
    found = Organization.objects.filter(name=name).first() if name else None
    if name and found is None:
        raise CommandError(f"There is no organization {name!r}.")
    return found


def _domain(options: dict[str, Any]) -> str:
    text = options["domain"]
    if text and not options["organization"]:
        raise CommandError("--domain needs --organization.")
    try:
        return parse_domain(text) if text else ""
    except InvalidName as error:
        raise CommandError(f"--domain {text!r} is no domain: {error}.") from None


def _address(options: dict[str, Any]) -> str:
    try:
        return fold_address(str(parse_address(options["address"])))
    except InvalidName as error:
        raise CommandError(f"{options['address']!r} is no address: {error}.") from None


def _octets(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.") from None


def _whose(organization: Organization | None, domain: str) -> str:
    whose = organization.name if organization is not None else "the whole system"
    return f"{domain} ({whose})" if domain else whose
