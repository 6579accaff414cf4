"""`manage.py usercli` and `bin/user-cli`: accounts from the command line, printed as R4's user-cli does (contract §8).

A password may be left out: it is then asked for at a terminal, and read from standard input elsewhere, since arguments
show in the list of processes.
"""

from __future__ import annotations

import datetime as dt
import getpass
import os
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import credentials, membership, users
from accounts.billing.plans import PlanLimitReached
from accounts.command import PlainCommand, example
from accounts.membership import AccountTaken, InvalidAccount
from accounts.models import Organization, User
from mailflow import erasure, user_figures
from mailflow.errors import Unavailable

ACTOR = "user-cli"
DEFAULT_LIMIT = 100
MAX_NUMBER = 2_147_483_647
EXAMPLES = """Examples:
  user-cli create john john@example.com            asks for the password
  user-cli list --limit 50
  user-cli set-quota john 2000
  printf '%s' "$PASSWORD" | user-cli verify john"""
PASSWORD_HELP = "left out or -: asked for, or read from standard input"  # noqa: S105  (about one, none itself)


class Command(PlainCommand):
    help = "Manage accounts: create, list, update-password, set-quota, delete, verify, info."
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        # bin/user-cli sets it. Subcommands take the name over when they are made.
        parser.prog = os.environ.get("USER_CLI_NAME") or parser.prog
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        create = commands.add_parser(
            "create",
            help="make an account with a mailbox",
            **example(
                "user-cli create john john@example.com            asks for the password",
                "printf '%s' \"$PASSWORD\" | user-cli create john john@example.com --quota 2000",
            ),
        )
        create.add_argument("username")
        create.add_argument("email")
        create.add_argument("password", nargs="?", default="-", help=PASSWORD_HELP)
        create.add_argument("--organization", default="", help="its name (default: whose domain the address is in)")
        create.add_argument("--quota", type=int, default=1000, metavar="MB", help="room for mail (default: 1000)")
        listing = commands.add_parser("list", help="list accounts", **example("user-cli list --limit 50"))
        listing.add_argument("--limit", type=int, default=DEFAULT_LIMIT, help=f"default: {DEFAULT_LIMIT}")
        for name, words in (("update-password", "give an account a new password"), ("verify", "check a password")):
            command = commands.add_parser(name, help=words, **example(f"user-cli {name} john"))
            command.add_argument("username")
            command.add_argument("password", nargs="?", default="-", help=PASSWORD_HELP)
        words = "set the room for mail, in MB; 0 is no limit"
        quota = commands.add_parser("set-quota", help=words, **example("user-cli set-quota john 2000"))
        quota.add_argument("username")
        quota.add_argument("quota_mb", type=int)
        for name, words in (("delete", "delete an account with all its data"), ("info", "show an account")):
            commands.add_parser(name, help=words, **example(f"user-cli {name} john")).add_argument("username")

    def handle(self, *args: Any, **options: Any) -> None:
        act = getattr(self, "_" + options["command"].replace("-", "_"))
        try:
            act(options)
        except (InvalidAccount, AccountTaken, PlanLimitReached) as error:
            raise CommandError(str(error)) from None

    def _create(self, options: dict[str, Any]) -> None:
        address = options["email"]
        organization = _organization(options["organization"]) or membership.organization_of_address(address)
        quota_mb = _number("--quota", options["quota"], 0)
        password = _password(options["password"], "Password", twice=True)
        made = membership.create(
            options["username"], address, password, organization, by_staff=True, actor=ACTOR, quota_mb=quota_mb
        )
        self.stdout.write("User created successfully:")
        self.stdout.write(f"  Username: {made.username}\n  Email: {made.email}\n  ID: {made.pk}")

    def _list(self, options: dict[str, Any]) -> None:
        limit = _number("--limit", options["limit"], 1)
        alive = User.objects.filter(deleted_at__isnull=True)
        self.stdout.write("Users:")
        for number, user in enumerate(alive.order_by("pk")[:limit], 1):
            self.stdout.write(f"  {number}. {user.username} ({user.email}) - Created: {user.date_joined:%Y-%m-%d}")
        self.stdout.write(f"Total: {alive.count()}")

    def _update_password(self, options: dict[str, Any]) -> None:
        user = _user(options["username"])
        password = _password(options["password"], "New password", twice=True)
        membership.change(user, {"password": password}, by_staff=True, actor=ACTOR)
        self.stdout.write(f"Password updated successfully for user: {user.username}")

    def _set_quota(self, options: dict[str, Any]) -> None:
        user, quota_mb = _user(options["username"]), _number("quota_mb", options["quota_mb"], 0)
        membership.change(user, {"quota_mb": quota_mb}, by_staff=True, actor=ACTOR)
        self.stdout.write(f"Quota set to {quota_mb} MB for user: {user.username}")

    def _delete(self, options: dict[str, Any]) -> None:
        user = _user(options["username"])
        if not erasure.begin(user, actor=ACTOR):
            raise CommandError(f"There is no user {options['username']!r}.")
        try:
            erasure.erase(user.pk)
        except Unavailable as trouble:
            self.stderr.write(f"The account is gone; its mail is removed as soon as the store allows: {trouble.cause}")
        self.stdout.write(f"User deleted successfully: {user.username}")

    def _verify(self, options: dict[str, Any]) -> None:
        name = options["username"]
        if credentials.verify(name, _password(options["password"], "Password")) is None:
            raise CommandError(f"Authentication failed for user: {name}")
        self.stdout.write(f"Authentication successful for user: {name}")

    def _info(self, options: dict[str, Any]) -> None:
        user = _user(options["username"])
        percent = user_figures.used_percent(user)
        self.stdout.write("User Information:")
        self.stdout.write(f"  Username: {user.username}\n  Email: {user.email}\n  ID: {user.pk}")
        self.stdout.write(f"  Created: {_moment(user.date_joined)}")
        self.stdout.write(f"  Last Login: {_moment(user.last_login)}")
        self.stdout.write(f"  Quota: {user.quota_mb} MB" if user.quota_mb else "  Quota: no limit")
        self.stdout.write(f"  Used: {user_figures.used_mb(user)} MB" + (f" ({percent}%)" if percent else ""))
        self.stdout.write(f"  Status: {'Enabled' if user.is_active else 'Disabled'}")


def _user(name: str) -> User:
    found = users.find(name)
    if found is None:
        raise CommandError(f"There is no user {name!r}.")
    return found


def _organization(name: str) -> Organization | None:
    if not name:
        return None
    found = Organization.objects.filter(name=name).first()
    if found is None:
        raise CommandError(f"There is no organization {name!r}.")
    return found


def _number(name: str, number: int, low: int) -> int:
    if not low <= number <= MAX_NUMBER:
        raise CommandError(f"{name} must be from {low} to {MAX_NUMBER}, not {number}.")
    return number


def _password(given: str, prompt: str, *, twice: bool = False) -> str:
    """Return the argument, or what is typed at a terminal, or the first line of standard input."""
    if given != "-":
        return given
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    try:
        password = getpass.getpass(f"{prompt}: ")
        again = getpass.getpass(f"{prompt} again: ") if twice else password
    except (EOFError, KeyboardInterrupt):
        raise CommandError("No password was given.") from None
    if password != again:
        raise CommandError("The two passwords are not the same.")
    return password


def _moment(at: dt.datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "Never"
