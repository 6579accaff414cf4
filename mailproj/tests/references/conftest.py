"""One system for all examples of all references: starting it takes longer than trying them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mailproj.tests.references.world import World, running


@pytest.fixture(scope="session")  # in random order a package is left and entered again many times
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("references")
    with running(folder) as found:
        yield found
    for log in (folder / "log").glob("*.log"):
        assert "Traceback" not in log.read_text(), f"{log} has a traceback, whatever was answered"
