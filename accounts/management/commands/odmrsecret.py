"""`manage.py odmrsecret`: give a dial-up domain a new secret and print it once, or take its secret away (RFC 2645)."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts import odmr
from accounts.command import PlainCommand
from accounts.models import Domain
from accounts.names import InvalidName, parse_domain

ACTOR = "odmrsecret"


class Command(PlainCommand):
    help = (
        "Make the secret that a domain's own host fetches its mail with (ATRN, such as by fetchmail), and print it; it "
        "is shown this once. The secret that the domain had before opens nothing from then on."
    )
    examples = "Example:\n  manage.py odmrsecret example.org"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("domain", help="a domain of ours, such as example.org; it is the login name too")
        parser.add_argument("--revoke", action="store_true", help="take the secret away instead")

    def handle(self, *args: Any, **options: Any) -> None:
        domain = _domain(options["domain"])
        if options["revoke"]:
            if not odmr.revoke(domain, actor=ACTOR):
                raise CommandError(f"{domain} has no ODMR secret.")
            self.stdout.write(f"The ODMR secret of {domain} is revoked.")
            return
        text = odmr.make(domain, actor=ACTOR)
        self.stdout.write(f"ODMR secret of {domain}; the login name is {domain.name}. It is shown only now:")
        self.stdout.write(text)
        if not domain.is_dial_up:
            self.stderr.write(
                f"Mail for {domain} goes into mailboxes here and does not wait for its host: set its delivery in the "
                "admin (Domains)."
            )


def _domain(text: str) -> Domain:
    try:
        name = parse_domain(text)
    except InvalidName as error:
        raise CommandError(f"{text!r} is no domain: {error}.") from None
    found = Domain.objects.filter(name=name).first()
    if found is None:
        raise CommandError(f"There is no domain {name}.")
    return found
