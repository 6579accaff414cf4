"""`bin/user-cli`: R4's lists to the figure, passwords by other ways, mistakes in one line."""

from __future__ import annotations

import datetime as dt
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.db import connection

from accounts import credentials
from accounts.models import Domain, Organization, TrailEntry, User

pytestmark = pytest.mark.django_db

USER_CLI = Path(__file__).resolve().parents[2] / "bin" / "user-cli"
PASSWORD = "MyP@ssw0rd"


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    credentials.remembered.clear()


@pytest.fixture
def organization() -> Organization:
    organization = Organization.objects.create(name="Example")
    Domain.objects.create(name="example.com", organization=organization, is_trusted=True)
    return organization


@pytest.fixture
def john(organization: Organization) -> User:
    return User.objects.create_user("john", "john@example.com", PASSWORD, organization=organization)


def user_cli(line: str) -> str:
    out = StringIO()
    call_command("usercli", *line.split(), stdout=out)
    return out.getvalue()


@contextmanager
def stdin(text: str) -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        yield
    finally:
        sys.stdin = before


# --- what R4 prints, to the figure (as a program each command runs in mailproj/tests/references) ---


def test_list(john: User) -> None:
    User.objects.create_user("jane", "jane@example.com", organization=john.organization)
    User.objects.filter(username="john").update(date_joined=dt.datetime(2025, 10, 20, 10, 30, tzinfo=dt.UTC))
    User.objects.filter(username="jane").update(date_joined=dt.datetime(2025, 10, 21, tzinfo=dt.UTC))
    assert user_cli("list --limit 50") == (
        "Users:\n"
        "  1. john (john@example.com) - Created: 2025-10-20\n"
        "  2. jane (jane@example.com) - Created: 2025-10-21\n"
        "Total: 2\n"
    )
    assert user_cli("list --limit 1").splitlines()[1:] == [
        "  1. john (john@example.com) - Created: 2025-10-20",
        "Total: 2",
    ]


def test_info(john: User) -> None:
    User.objects.update(
        date_joined=dt.datetime(2025, 10, 20, 10, 30, tzinfo=dt.UTC),
        last_login=dt.datetime(2025, 10, 23, 8, 15, tzinfo=dt.UTC),
        used_octets=int(234.5 * 1024 * 1024),
    )
    assert user_cli("info john") == (
        "User Information:\n"
        "  Username: john\n"
        "  Email: john@example.com\n"
        f"  ID: {john.pk}\n"
        "  Created: 2025-10-20 10:30:00\n"
        "  Last Login: 2025-10-23 08:15:00\n"
        "  Quota: 1000 MB\n"
        "  Used: 234.5 MB (23.5%)\n"
        "  Status: Enabled\n"
    )


# --- the rest ---


@pytest.mark.parametrize(("variable", "name"), [("user-cli", "user-cli"), ("", "manage.py usercli")])
def test_its_help_calls_itself_as_it_was_called(monkeypatch: pytest.MonkeyPatch, variable: str, name: str) -> None:
    monkeypatch.setenv("USER_CLI_NAME", variable)
    parser = load_command_class("mailflow", "usercli").create_parser("manage.py", "usercli")
    assert parser.format_usage().startswith(f"usage: {name} [-h]")


def test_info_of_who_never_logged_in_and_has_no_quota(john: User) -> None:
    User.objects.update(quota_mb=0, is_active=False)
    printed = user_cli("info john@example.com")
    for line in ("Last Login: Never", "Quota: no limit", "Used: 0.0 MB\n", "Status: Disabled"):
        assert line in printed


@pytest.mark.parametrize("argument", ["", " -"])
def test_a_password_may_come_by_standard_input(organization: Organization, argument: str) -> None:
    with stdin(f"{PASSWORD}\nmore\n"):
        user_cli("create john john@example.com" + argument)
    assert User.objects.get().organization == organization
    with stdin(PASSWORD):
        assert "successful" in user_cli("verify john" + argument)
    with stdin("An0therP@ss\r\n"):
        user_cli("update-password john" + argument)
    assert User.objects.get().check_password("An0therP@ss")


def test_an_organization_and_a_quota_may_be_named(organization: Organization) -> None:
    Organization.objects.create(name="Other")
    user_cli("create jane jane@foreign.example MyP@ssw0rd --organization Other --quota 5")
    jane = User.objects.get()
    assert jane.organization is not None and (jane.organization.name, jane.quota_mb) == ("Other", 5)
    assert TrailEntry.objects.get(kind="user.created").actor == "user-cli"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("create john jane@example.com MyP@ssw0rd", "A user named john exists already."),
        ("create john john@example.com MyP@ssw0rd", "A user named john exists already."),
        ("create jane john@example.com MyP@ssw0rd", "john@example.com is another account's"),
        ("create jane jane@example.com short", "password: This password is too short"),
        ("create jane jane MyP@ssw0rd", "email: Not a valid address"),
        ("create ja/ne jane@example.com MyP@ssw0rd", "username: "),
        ("create 17 jane@example.com MyP@ssw0rd", "username: A name of digits"),
        ("create john@example.com jane@example.com MyP@ssw0rd", "username: A name with an @ in it"),
        ("create jane jane@example.com MyP@ssw0rd --quota -1", "--quota must be from 0"),
        ("create jane jane@example.com MyP@ssw0rd --organization None", "no organization 'None'"),
        ("create jane jane@example.com MyP@ssw0rd --organization Other", "not a domain of the account's organization"),
        ("update-password nobody MyP@ssw0rd", "no user 'nobody'"),
        ("set-quota john 99999999999", "quota_mb must be from 0"),
        ("set-quota john much", "invalid int value"),
        ("delete nobody", "no user 'nobody'"),
        ("verify john wrong", "Authentication failed for user: john"),
        ("verify nobody wrong", "Authentication failed for user: nobody"),
        ("info nobody", "no user 'nobody'"),
        ("list --limit 0", "--limit must be from 1"),
        ("rename john", "invalid choice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(john: User, line: str, words: str) -> None:
    Organization.objects.create(name="Other")
    out = StringIO()
    with pytest.raises(CommandError) as error:
        call_command("usercli", *line.split(), stdout=out)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not out.getvalue()
    assert User.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_program_runs_from_anywhere_and_ends_with_status_1_on_any_mistake(tmp_path: Path) -> None:
    url = f"sqlite:///{connection.settings_dict['NAME']}"
    if connection.vendor == "postgresql":
        url = os.environ["TEST_DATABASE_URL"].replace("/postgres?", f"/{connection.settings_dict['NAME']}?")

    def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [USER_CLI, *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "DATABASE_URL": url,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run("--help").stdout.startswith("usage: user-cli [-h]")
    assert run("create", "--help").stdout.startswith("usage: user-cli create [-h]")
    made = run("create", "john", "john@example.com", typed=f"{PASSWORD}\n")
    assert made.returncode == 0 and made.stdout.startswith("User created successfully:\n"), made.stderr
    for arguments in (("set-quota", "john", "much"), ("info", "nobody"), ("nothing",), ("verify", "john", "wrong")):
        failed = run(*arguments)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr.startswith("CommandError: ") and failed.stderr.count("\n") == 1
