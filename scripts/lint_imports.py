"""Run import-linter with our `queue/` folder shown to it as the package `queue` (docs/adr/0001).

import-linter finds packages by `importlib.util.find_spec`, and `queue` has no `__init__.py`: without this it would look
at the standard library's module of that name.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

from importlinter.cli import lint_imports_command

import queue

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    spec = ModuleSpec("queue", loader=None, is_package=True)
    spec.submodule_search_locations = [str(ROOT / "queue")]
    queue.__spec__ = spec
    sys.path.insert(0, str(ROOT))
    lint_imports_command()


if __name__ == "__main__":
    main()
