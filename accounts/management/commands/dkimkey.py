"""`manage.py dkimkey`: a domain's DKIM keys and the records to publish."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from accounts import dkim
from accounts.command import PlainCommand, example
from accounts.models import DkimKey, Domain
from accounts.names import InvalidName, parse_domain

ACTOR = "dkimkey"
EXAMPLES = """\
Examples:
  manage.py dkimkey create example.com      make its keys, where it has none
  manage.py dkimkey create --all            the same for every domain
  manage.py dkimkey record example.com      what to publish in DNS
  manage.py dkimkey rotate example.com --prepare
                                            make successors; publish their records, wait for DNS, then
  manage.py dkimkey rotate example.com      let them sign, and retire the old keys
  manage.py dkimkey retire example.com r20261101
                                            end a key's use at once, such as after a theft
  manage.py dkimkey list example.com"""


class Command(PlainCommand):
    help = "Make, list, rotate and retire the keys that sign a domain's mail (DKIM). Private keys are never shown."
    examples = EXAMPLES

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        form = example("manage.py dkimkey create example.com", "manage.py dkimkey create --all")
        create = actions.add_parser("create", help="make the keys that a domain lacks, RSA and Ed25519", **form)
        create.add_argument("domain", nargs="?", default="")
        create.add_argument("--all", action="store_true", help="for every domain that lacks one")
        form = example("manage.py dkimkey list", "manage.py dkimkey list example.com")
        show = actions.add_parser("list", help="list keys with their state", **form)
        show.add_argument("domain", nargs="?", default="", help="of this domain alone")
        form = example("manage.py dkimkey record example.com")
        record = actions.add_parser("record", help="print the TXT records to publish, as lines of a zone file", **form)
        record.add_argument("domain")
        form = example("manage.py dkimkey rotate example.com --prepare", "manage.py dkimkey rotate example.com")
        rotate = actions.add_parser("rotate", help="change to new keys and retire the old ones", **form)
        rotate.add_argument("domain")
        rotate.add_argument("--prepare", action="store_true", help="only make the new keys, to publish them first")
        form = example("manage.py dkimkey retire example.com r20261101")
        retire = actions.add_parser("retire", help="end a key's use for good and erase its private part", **form)
        retire.add_argument("domain")
        retire.add_argument("selector")

    def handle(self, *_args: object, **options: Any) -> None:
        try:
            getattr(self, f"_{options['action']}")(options)
        except dkim.CannotSign as error:
            raise CommandError(str(error)) from None

    def _create(self, options: dict[str, Any]) -> None:
        if options["all"] == bool(options["domain"]):
            raise CommandError("Name one domain, or give --all.")
        domains = Domain.objects.order_by("name") if options["all"] else [_domain(options["domain"])]
        for domain in domains:
            made = dkim.ensure_keys(domain, actor=ACTOR)
            if made:
                self.stdout.write(f"{domain.name}: made. Publish in DNS:")
                self._write_records(made)
            else:
                self.stdout.write(f"{domain.name}: has its keys.")

    def _list(self, options: dict[str, Any]) -> None:
        keys = DkimKey.objects.select_related("domain").order_by("domain__name", "-created_at", "-algorithm")
        if options["domain"]:
            keys = keys.filter(domain=_domain(options["domain"]))
        for key in keys:
            self.stdout.write(f"{key.domain.name}  {key.selector}  {key.algorithm}  {_state(key)}")
        if not keys:
            self.stdout.write("No keys.")

    def _record(self, options: dict[str, Any]) -> None:
        domain = _domain(options["domain"])
        keys = dkim.keys_to_publish(domain, timezone.now())
        if not keys:
            raise CommandError(f"{domain.name} has no keys yet: manage.py dkimkey create {domain.name}")
        self._write_records(keys)

    def _rotate(self, options: dict[str, Any]) -> None:
        domain = _domain(options["domain"])
        if options["prepare"]:
            prepared = dkim.prepare(domain, actor=ACTOR)
            self.stdout.write(
                f"Prepared. Publish in DNS, then: manage.py dkimkey rotate {domain.name}; until then the old keys sign."
            )
            self._write_records(prepared)
            return
        active = dkim.rotate(domain, actor=ACTOR)
        days = dkim.KEEP_PUBLISHED.days
        self.stdout.write(f"These sign now. The records of the old keys must stay published for {days} days.")
        self._write_records(active)

    def _retire(self, options: dict[str, Any]) -> None:
        domain = _domain(options["domain"])
        key = DkimKey.objects.select_related("domain").filter(domain=domain, selector=options["selector"]).first()
        if key is None:
            raise CommandError(f"{domain.name} has no key with the selector {options['selector']!r}.")
        if not dkim.retire(key, actor=ACTOR):
            raise CommandError(f"{key} is retired already.")
        self.stdout.write(f"{key} signs no more, and its private part is erased.")
        self._tell_if_unsigned(domain)

    def _tell_if_unsigned(self, domain: Domain) -> None:
        if not domain.dkim_keys.filter(state=DkimKey.State.ACTIVE).exists():
            self.stdout.write(f"No key signs for {domain.name} now: manage.py dkimkey create {domain.name}")

    def _write_records(self, keys: Iterable[DkimKey]) -> None:
        for key in keys:
            self.stdout.write(f"; {key.get_algorithm_display()}, {_state(key)}")
            self.stdout.write(dkim.record_of(key).zone_line)


def _domain(text: str) -> Domain:
    try:
        found = Domain.objects.filter(name=parse_domain(text)).first()
    except InvalidName as error:
        raise CommandError(f"{text!r} is no domain name: {error}.") from None
    if found is None:
        raise CommandError(f"There is no domain {text!r} here.")
    return found


def _state(key: DkimKey) -> str:
    until = dkim.published_until(key)
    if until is None:
        return key.get_state_display().lower()
    if not dkim.is_to_be_published(key, timezone.now()):
        return "retired, needs no record"
    return f"retired, keep its record until {until:%Y-%m-%d}"
