"""Programs that pip does not bring: what stands in the way of using one, found by asking it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
NODE_PATH = "/usr/share/nodejs"  # Debian's modules; only Debian's own node looks there by itself


def find(name: str) -> str | None:
    """Return a program's path; Postfix's are in `sbin`, which a user's PATH may lack."""
    return shutil.which(name, path=_PATH)


def node_environment() -> dict[str, str]:
    """Return an environment in which any node finds Debian's modules."""
    known = os.environ.get("NODE_PATH")
    return {**os.environ, "NODE_PATH": f"{known}:{NODE_PATH}" if known else NODE_PATH}


@cache
def why_not(name: str) -> str:
    """Say why the program cannot be used, or nothing: it may be there without the library that gives it TLS."""
    argv, expected, reason = _PROBES.get(name, ([name], "", ""))
    if find(argv[0]) is None:
        return f"{argv[0]} is missing (make test-deps)"
    if not expected:
        return ""
    try:
        done = subprocess.run(
            argv,
            env=node_environment(),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{argv[0]} does not run: {error}"
    return "" if re.search(expected, done.stdout + done.stderr) else reason


_PROBES: dict[str, tuple[list[str], str, str]] = {
    "swaks with TLS": (
        ["swaks", "--support"],
        r"=== TLS supported",
        "swaks has no TLS here: it wants Perl's Net::SSLeay (make test-deps)",
    ),
    "msmtp with TLS": (["msmtp", "--version"], r"TLS/SSL library: (?!none)", "msmtp was built without TLS"),
    "curl with SMTP": (["curl", "--version"], r"\bsmtps\b", "curl was built without smtp:// and smtps://"),
    "nodemailer": (
        ["node", "-e", "console.log(typeof require('nodemailer').createTransport)"],
        r"function",
        "node finds no nodemailer (make test-deps)",
    ),
}
