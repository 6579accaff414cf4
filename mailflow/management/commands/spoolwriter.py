"""`manage.py spoolwriter`: the process that commits what a listener accepts; a listener starts it by itself."""

from __future__ import annotations

import signal
import socket
from typing import Any

from django.core.management.base import CommandError, CommandParser

from accounts.command import PlainCommand
from mailflow.spool import writer


class Command(PlainCommand):
    requires_system_checks = ()  # its listener starts it, again and again if it must
    help = "Commit what a listener accepts. `runsmtp` starts it; it is of no use by itself, and ends with its listener."
    examples = "Example:\n  manage.py runsmtp          # starts it, with the socket"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--fd", type=int, required=True, help="the inherited socket that leads to the listener")

    def handle(self, *_args: object, **options: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends after its listener, whatever a terminal sends to both
        try:
            listener = socket.socket(fileno=options["fd"])
        except OSError as error:
            raise CommandError(f"--fd {options['fd']} is no socket: {error.strerror}.") from None
        with listener:
            writer.serve(listener)
