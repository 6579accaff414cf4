"""What our commands have in common: examples below the help; any mistake in one line, with status 1 (contract §8)."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.db import DatabaseError, InterfaceError


class PlainCommand(BaseCommand):
    """A command of ours; `examples` stands below its help, line by line as it is written."""

    examples = ""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # If it were set, argparse would print the usage and end with status 2; so the parser raises what is wrong, and
        # those of subcommands do as it does.
        self._called_from_command_line = False
        return super().create_parser(prog_name, subcommand, **{**_below_help(self.examples), **kwargs})

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command; a database that is away, or was not migrated, is no bug to show a traceback of."""
        try:
            return super().execute(*args, **options)
        except (DatabaseError, InterfaceError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            words = f"The database does not answer as it should: {first_line} (manage.py migrate makes its tables)"
            raise CommandError(words) from error

    def run_from_argv(self, argv: list[str]) -> None:
        """Run from a command line. What `handle` refuses Django tells in one line; a wrong argument is told here."""
        try:
            super().run_from_argv(argv)
        except CommandError as error:
            if "--traceback" in argv:
                raise
            line = " ".join(str(error).removeprefix("Error: ").splitlines())
            self.stderr.write(f"CommandError: {line}; --help tells more")
            sys.exit(error.returncode)


def example(*lines: str, description: str = "") -> dict[str, Any]:
    """Return what gives the parser of a subcommand these lines as its examples."""
    text = "\n".join([f"Example{'s' if lines[1:] else ''}:", *(f"  {line}" for line in lines)])
    return {"description": description or None, **_below_help(text)}


def _below_help(text: str) -> dict[str, Any]:
    return {"epilog": text or None, "formatter_class": _HelpFormatter}


class _HelpFormatter(DjangoHelpFormatter):
    """Wraps sentences, and leaves what has lines of its own as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)
