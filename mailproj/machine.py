"""What the machine says of itself: memory of this process and of the system (or its container), room on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

MIB = 1024 * 1024
_CGROUP = Path("/sys/fs/cgroup")


def process_memory() -> tuple[float, float]:
    """Return this process's resident memory and the heap and stacks in it, in MiB; zeros where /proc is missing."""
    fields = _kibibytes(Path("/proc/self/status"))
    return round(fields.get("VmRSS", 0) / 1024, 1), round(fields.get("RssAnon", 0) / 1024, 1)


def memory_used_share() -> float:
    """Return how much of the machine's memory is in use, or of the container's where that is tighter."""
    return max(_container_share(), _machine_share(_kibibytes(Path("/proc/meminfo"))))


def disk_free_share(path: Path) -> float:
    usage = shutil.disk_usage(_existing(path))
    return usage.free / usage.total if usage.total else 0.0


def _machine_share(fields: dict[str, int]) -> float:
    total = fields.get("MemTotal", 0)
    return 1 - fields.get("MemAvailable", total) / total if total else 0.0


def _container_share() -> float:
    """cgroup v2; file cache that can be dropped at once counts as free."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0.0
    if not limit.isdigit() or not int(limit):
        return 0.0
    return max(0, used - int(stat.get("inactive_file", 0))) / int(limit)


def _kibibytes(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name: int(rest.split()[0]) for name, _, rest in pairs if rest.strip().endswith("kB")}


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
