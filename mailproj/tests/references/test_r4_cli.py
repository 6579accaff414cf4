"""R4's user-cli: each command as it is printed, as a program beside the running system, with its printed output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mailproj.tests.references.world import MEMBER_PASSWORD, World
from mailproj.tests.starting import ROOT

pytestmark = pytest.mark.slow


def user_cli(world: World, command: str) -> str:
    """Run the line, and return what it printed with ids, days and times as R4 prints them."""
    program, *arguments = command.split()
    path = os.pathsep.join([str(Path(sys.executable).parent), world.system.variables["PATH"]])
    done = subprocess.run(
        [ROOT / "bin" / program, *arguments],
        env={**world.system.variables, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.sub(r"\bID: \d+", "ID: 1", done.stdout)
    printed = re.sub(r"Created: \d{4}-\d\d-\d\d\b", "Created: 2025-10-20", printed)
    printed = re.sub(r"2025-10-20 \d\d:\d\d:\d\d", "2025-10-20 10:30:00", printed)
    return re.sub(r"Last Login: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "Last Login: 2025-10-23 08:15:00", printed)


def logs_in(world: World, password: str) -> bool:
    return world.system.request("GET", "/api/users/john", auth=("john", password)).status == 200


def test_r4_cli_create(world: World) -> None:
    world.without_user("john")
    assert user_cli(world, "user-cli create john john@example.com MyP@ssw0rd") == (
        "User created successfully:\n"
        "  Username: john\n"
        "  Email: john@example.com\n"
        "  ID: 1\n"
    )  # fmt: skip
    assert logs_in(world, "MyP@ssw0rd")


def test_r4_cli_list(world: World) -> None:
    world.with_user("john")
    first, *users, last = user_cli(world, "user-cli list --limit 50").splitlines()
    assert first == "Users:" and last == f"Total: {len(users)}"
    assert "john (john@example.com) - Created: 2025-10-20" in [user.partition(". ")[2] for user in users]
    assert [user.partition(". ")[0] for user in users] == [f"  {number}" for number in range(1, len(users) + 1)]


def test_r4_cli_update_password(world: World) -> None:
    world.with_user("john")
    printed = user_cli(world, "user-cli update-password john NewP@ssw0rd123")
    assert printed == "Password updated successfully for user: john\n"
    assert logs_in(world, "NewP@ssw0rd123") and not logs_in(world, MEMBER_PASSWORD)


def test_r4_cli_set_quota(world: World) -> None:
    world.with_user("john")
    assert user_cli(world, "user-cli set-quota john 2000") == "Quota set to 2000 MB for user: john\n"
    assert world.ask("GET", "/api/users/john")["quota_mb"] == 2000


def test_r4_cli_delete(world: World) -> None:
    world.with_user("john")
    assert user_cli(world, "user-cli delete john") == "User deleted successfully: john\n"
    assert world.system.request("GET", "/api/users/john", auth=("admin", "password")).status == 404


def test_r4_cli_verify(world: World) -> None:
    world.with_user("john", "MyP@ssw0rd")
    assert user_cli(world, "user-cli verify john MyP@ssw0rd") == "Authentication successful for user: john\n"


def test_r4_cli_info(world: World) -> None:
    world.with_user("john", quota_mb=1000)
    assert logs_in(world, MEMBER_PASSWORD)
    assert user_cli(world, "user-cli info john") == (
        "User Information:\n"
        "  Username: john\n"
        "  Email: john@example.com\n"
        "  ID: 1\n"
        "  Created: 2025-10-20 10:30:00\n"
        "  Last Login: 2025-10-23 08:15:00\n"
        "  Quota: 1000 MB\n"
        "  Used: 0.0 MB (0.0%)\n"
        "  Status: Enabled\n"
    )
