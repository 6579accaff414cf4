"""`python -m bench.profiled FILE [-m MODULE | SCRIPT] ARGUMENTS…`: run a Python program with every thread profiled.

cProfile with the thread's own processor time as its clock: waiting costs nothing, only work shows. The profiles are
pickled into FILE when the program ends.
"""

from __future__ import annotations

import cProfile
import pickle
import runpy
import sys
import threading
import time
from pathlib import Path
from typing import Any

_profiles: list[tuple[str, cProfile.Profile]] = []


def _begin(*_event: object) -> None:
    """Replace the profile function that `threading` gave this thread by a profile of its own."""
    profile = cProfile.Profile(time.thread_time)
    _profiles.append((threading.current_thread().name, profile))
    profile.enable()


def _write(path: Path) -> None:
    """Add to what a child that was forked has written: a server's workers end before it."""
    threading.setprofile(None)
    threads: list[tuple[str, dict[Any, Any]]] = pickle.loads(path.read_bytes()) if path.exists() else []  # noqa: S301
    for name, profile in _profiles:
        profile.snapshot_stats()  # create_stats would end the profile of this thread instead
        threads.append((name, profile.stats))
    path.write_bytes(pickle.dumps(threads))


def main() -> None:
    path, first, *rest = sys.argv[1:]
    threading.setprofile(_begin)
    _begin()
    try:
        if first == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [first, *rest]
            runpy.run_path(first, run_name="__main__")
    finally:
        sys.setprofile(None)
        _write(Path(path))


if __name__ == "__main__":
    main()
