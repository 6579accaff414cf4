"""How much memory and disk processes hold, watched while they work (proc(5))."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from bench.processes import family

INTERVAL_SECONDS = 0.2
_KIB = 1024


class Watch:
    """A context in which the peaks are watched: `memory` of each group of processes, `disk` of the file system.

    Memory is the sum of what each process of the group holds alone and its share of what several hold (Pss): shared
    buffers of a database are not counted once for each of its processes.
    """

    def __init__(self, groups: dict[str, Sequence[int]], folder: Path) -> None:
        self.memory = dict.fromkeys(groups, 0)
        self.disk = 0
        self._groups, self._folder = groups, folder
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._used_before = shutil.disk_usage(self._folder).used
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._is_over.set()
        self._thread.join()
        for name, roots in self._groups.items():  # the kernel's own peak misses nothing between two looks
            self.memory[name] = max(self.memory[name], *(peak_octets(pid) for pid in roots))

    def _look(self) -> None:
        while not self._is_over.wait(INTERVAL_SECONDS):
            for name, roots in self._groups.items():
                self.memory[name] = max(self.memory[name], sum(map(resident_octets, family(roots))))
            self.disk = max(self.disk, shutil.disk_usage(self._folder).used - self._used_before)


def resident_octets(pid: int) -> int:
    """Return what a process holds now, its share of shared pages; 0 where it has ended."""
    return _field(pid, "smaps_rollup", "Pss:") or _field(pid, "status", "VmRSS:")


def peak_octets(pid: int) -> int:
    """Return the most that a process itself has held since its start; 0 where it has ended."""
    return _field(pid, "status", "VmHWM:")


def _field(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # ended, or another user's
        return 0
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith(name)), 0)


def folder_octets(folder: Path) -> int:
    """Return what the files of a folder take on disk."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118  (many files)
            except FileNotFoundError:  # it was temporary
                continue
    return total
