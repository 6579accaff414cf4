"""`manage.py createapikey`: make an API key and print it once."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from accounts import key_senders, keys, users
from accounts.command import PlainCommand
from accounts.models import ApiKey, Scope, User
from accounts.models.api_key import DEFAULT_SCOPES
from accounts.names import InvalidName, fold_address, parse_address, parse_domain

MAX_LIMIT = 2_147_483_647  # what the column holds
MAX_DAYS = 36_500
EXAMPLES = """Examples:
  manage.py createapikey --name production --limit 100 --user john
  manage.py createapikey --name shop --scope send --domain example.com --expires-in-days 90"""


class Command(PlainCommand):
    help = "Make an API key and print it; it is shown this once."
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True, help="what the key is for")
        parser.add_argument("--limit", type=int, default=15, help="messages a day, UTC (default: 15)")
        parser.add_argument(
            "--user", default="", help="username or address whose mail it is (default: the first superuser)"
        )
        parser.add_argument(
            "--test",
            action="store_true",
            help="a key that begins with sk_test_; its mail goes to the simulated internet alone",
        )

        parser.add_argument(
            "--scope",
            action="append",
            choices=Scope.values,
            help="what it may be used for; may be repeated (default: send and read); admin is all that its user may",
        )
        parser.add_argument("--domain", action="append", default=[], help="send from this domain only; may be repeated")
        parser.add_argument(
            "--address", action="append", default=[], help="send from this address only; may be repeated"
        )
        parser.add_argument("--expires-in-days", type=int, help=f"from 1 to {MAX_DAYS} (default: never)")

    def handle(self, *args: Any, **options: Any) -> None:
        name, limit = options["name"].strip(), options["limit"]
        longest = ApiKey._meta.get_field("name").max_length or 0
        if not 0 < len(name) <= longest:
            raise CommandError(f"--name must have 1 to {longest} characters.")
        if not 1 <= limit <= MAX_LIMIT:
            raise CommandError(f"--limit must be from 1 to {MAX_LIMIT}, not {limit}.")
        user = _user(options["user"])
        domains = [_domain(domain) for domain in options["domain"]]
        addresses = [_address(address) for address in options["address"]]
        _check_senders(user, domains, addresses)
        key, text = keys.create(
            name,
            user,
            daily_limit=limit,
            test=options["test"],
            scopes=[scope for scope in Scope.values if scope in (options["scope"] or DEFAULT_SCOPES)],
            allowed_domains=domains,
            allowed_addresses=addresses,
            expires_at=_expiry(options["expires_in_days"]),
            actor="createapikey",
        )
        self.stdout.write(f"API key {key.name} for {user.username}, {limit} messages a day. It is shown only now:")
        self.stdout.write(text)


def _domain(text: str) -> str:
    try:
        return parse_domain(text)
    except InvalidName as error:
        raise CommandError(f"--domain {text!r} is not a domain name: {error}.") from None


def _address(text: str) -> str:
    try:
        return fold_address(str(parse_address(text)))
    except InvalidName as error:
        raise CommandError(f"--address {text!r} is not an address: {error}.") from None


def _check_senders(user: User, domains: list[str], addresses: list[str]) -> None:
    try:
        key_senders.check(user, domains=domains, addresses=addresses)
    except key_senders.NotHeld as error:
        option = "--domain" if error.field == "allowed_domains" else "--address"
        raise CommandError(f"{option}: {error}") from None


def _expiry(days: int | None) -> dt.datetime | None:
    if days is None:
        return None
    if not 1 <= days <= MAX_DAYS:
        raise CommandError(f"--expires-in-days must be from 1 to {MAX_DAYS}, not {days}.")
    return timezone.now() + dt.timedelta(days=days)


def _user(name: str) -> User:
    found = users.find(name) if name else users.first_superuser()
    if found is None and name:
        raise CommandError(f"There is no user {name!r}.")
    if found is None:
        raise CommandError("There is no superuser yet: make one with `manage.py createsuperuser`, or give --user.")
    return found
