"""`manage.py createapikey`: make an API key and print it once."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import keys, users
from accounts.models import ApiKey, User

MAX_LIMIT = 2_147_483_647  # what the column holds


class Command(BaseCommand):
    help = "Make an API key for POST /api/v1/send and print it; it is shown this once."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs.setdefault("epilog", "Example:\n  manage.py createapikey --name production --limit 100 --user john")
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True, help="what the key is for")
        parser.add_argument("--limit", type=int, default=15, help="messages a day, UTC (default: 15)")
        parser.add_argument(
            "--user", default="", help="username or address whose mail it is (default: the first superuser)"
        )
        parser.add_argument(
            "--test", action="store_true", help="a key that begins with sk_test_; its mail is delivered all the same"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        name, limit = options["name"].strip(), options["limit"]
        longest = ApiKey._meta.get_field("name").max_length or 0
        if not 0 < len(name) <= longest:
            raise CommandError(f"--name must have 1 to {longest} characters.")
        if not 1 <= limit <= MAX_LIMIT:
            raise CommandError(f"--limit must be from 1 to {MAX_LIMIT}, not {limit}.")
        user = _user(options["user"])
        key, text = keys.create(name, user, daily_limit=limit, test=options["test"], actor="createapikey")
        self.stdout.write(f"API key {key.name} for {user.username}, {limit} messages a day. It is shown only now:")
        self.stdout.write(text)


def _user(name: str) -> User:
    found = users.find(name) if name else users.first_superuser()
    if found is None and name:
        raise CommandError(f"There is no user {name!r}.")
    if found is None:
        raise CommandError("There is no superuser yet: make one with `manage.py createsuperuser`, or give --user.")
    return found
