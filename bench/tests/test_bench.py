"""The whole benchmark, as small as it gets."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from bench import postfix
from bench.processes import run


@pytest.mark.load
@pytest.mark.skipif(bool(postfix.unavailable()), reason=postfix.unavailable())
def test_acceptance_is_measured_beside_postfix() -> None:
    argv = [sys.executable, "-m", "bench", "--only", "accept", "--rounds", "1", "--messages", "20"]
    # Not pytest's own folder, which is its user's alone: Postfix and PostgreSQL have users of their own.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        printed = run([*argv, "--folder", folder])
        assert list(Path(folder).iterdir()) == []
    for arm in ("Postfix HOLD", "sqlite", "postgresql"):
        assert f"| {arm} " in printed
