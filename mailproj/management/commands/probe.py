"""`manage.py probe NAME`: whether one process of the system answers; the containers' health check."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from accounts.command import PlainCommand
from mailproj import probes

PROBES: dict[str, Callable[[], bool]] = {
    "web": probes.web_is_healthy,
    "smtp": probes.smtp_greets,
    "worker": lambda: probes.worker_answers(settings.REDIS_URL),
    "redis": lambda: probes.redis_answers(settings.REDIS_URL),
}


class Command(PlainCommand):
    help = "Ask one process whether it works; exit status 1 if not."
    examples = "Example:\n  manage.py probe smtp"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", choices=sorted(PROBES))

    def handle(self, *_args: object, name: str, **_options: object) -> None:
        if not PROBES[name]():
            raise CommandError(f"{name} does not answer as it should.")
        self.stdout.write(f"{name} answers.")
