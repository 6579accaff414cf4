"""Every command of ours: an example in its help, and one line with status 1 for what is wrong (contract §8)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.db import connection, transaction

from mailproj.tests.starting import environment, run

OUR_APPS = ("accounts", "mailflow", "queue", "mailproj")
OURS = {name: app for name, app in sorted(get_commands().items()) if app in OUR_APPS}


def command(name: str) -> BaseCommand:
    return load_command_class(OURS[name], name)


def paths() -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Yield all commands and their subcommands, each as it is written, with its parser."""
    for name in OURS:
        parser = command(name).create_parser("manage.py", name)
        yield [name], parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from (([name, word], below) for word, below in action.choices.items())


PATHS = list(paths())
_AS_WRITTEN = {"spoolwriter": "manage.py runsmtp", "usercli": "user-cli"}
IDS = [" ".join(words) for words, _ in PATHS]


def mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the line as `manage.py` does, and return the one line that it is refused with."""
    with pytest.raises(SystemExit) as ended:
        command(words[0]).run_from_argv(["manage.py", *words])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out, printed.err.count("\n")) == (1, "", 1)
    assert printed.err.startswith("CommandError: ") and "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(("words", "parser"), PATHS, ids=IDS)
def test_help_has_an_example(words: list[str], parser: argparse.ArgumentParser) -> None:
    examples = parser.format_help().partition("\nExample")[2]
    name, *below = words
    assert " ".join([_AS_WRITTEN.get(name, f"manage.py {name}"), *below]) in examples


@pytest.mark.parametrize("words", [words for words, _ in PATHS], ids=IDS)
def test_an_unknown_option_is_refused_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = mistake([*words, "--bogus"], capsys)
    assert "unrecognized arguments: --bogus" in line or "arguments are required" in line


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("createapikey --limit 5", "required: --name"),
        ("createapikey --name k --limit abc", "--limit: invalid int value: 'abc'"),
        ("createapikey --name k --scope bogus", "--scope: invalid choice: 'bogus'"),
        ("createapikey --name", "--name: expected one argument"),
        ("dkimkey", "required: ACTION"),
        ("dkimkey retire example.com", "required: selector"),
        ("odmrsecret", "required: domain"),
        ("probe nothing", "name: invalid choice: 'nothing'"),
        ("queue list --limit x", "--limit: invalid int value: 'x'"),
        ("runall --log-to nowhere", "--log-to: invalid choice: 'nowhere'"),
        ("simulate --advance x", "--advance: 'x' is no span"),
        ("simulate --reset --show", "--show: not allowed with argument --reset"),
        ("spoolwriter --fd x", "--fd: invalid int value: 'x'"),
        ("suppressions import", "required: file"),
        ("suppressions import list.csv --reason none", "--reason: invalid choice: 'none'"),
        ("usercli set-quota john much", "quota_mb: invalid int value: 'much'"),
        ("seed --verbosity 9", "--verbosity: invalid choice: 9"),
    ],
)
def test_a_wrong_argument_is_named(line: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in mistake(line.split(), capsys)


def test_what_was_typed_does_not_make_it_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: --a b;" in mistake(["reseal", "--a\nb"], capsys)


def test_a_traceback_may_be_asked_for() -> None:
    with pytest.raises(CommandError, match="unrecognized arguments: --bogus"):
        command("reseal").run_from_argv(["manage.py", "reseal", "--bogus", "--traceback"])


def test_the_program_ends_with_status_1(tmp_path: Path) -> None:
    ended = run(["manage.py", "createapikey", "--limit", "5"], environment(tmp_path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "CommandError: the following arguments are required: --name; --help tells more\n"


@pytest.mark.django_db
@pytest.mark.parametrize("line", ["queue list", "createapikey --name x", "suppressions export", "dkimkey list"])
def test_a_database_without_tables_is_told_in_one_line(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = line.split()[0]

    def handle(*_args: object, **_options: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM no_such_table")

    there = command(name)
    monkeypatch.setattr(there, "handle", handle)
    with transaction.atomic(), pytest.raises(SystemExit) as ended:
        there.run_from_argv(["manage.py", *line.split()])
    printed = capsys.readouterr()
    assert ended.value.code == 1 and printed.err.count("\n") == 1 and "migrate makes its tables" in printed.err
