"""How the tests start the project's programs: in an environment of their own, without a developer's `.env`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION = {
    "MAIL_PROFILE": "production",
    "SECRET_KEY": "".join(f"{n:02x}" for n in range(40)),
    "ALLOWED_HOSTS": "mail.example.com",
}


def environment(data: Path, **settings: str) -> dict[str, str]:
    """Return the least environment that starts anything, with these settings on top."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "MAIL_DATA_DIR": str(data), "MAIL_ENV_FILE": os.devnull, **settings}


def run(arguments: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in the project's folder, to its end."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
