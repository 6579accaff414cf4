"""Tells whether the process that left its mark in the database still runs, as far as that can be known from here.

A mark names the boot of the machine, the namespace of its process ids, the id, and when the process began (proc(5)): an
id that was given to another process since, or means one in another container, is not mistaken for it.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_STATE, _BEGAN = 0, 19  # fields 3 and 22 of `stat`, counted from behind the name
_DEAD = ("Z", "X")


def own() -> str:
    """Return this process's mark; empty where the system has none to give, as anywhere but on Linux."""
    try:
        began = _fields(os.getpid())[_BEGAN]
    except OSError:
        return ""
    return f"{_machine()}:{os.getpid()}:{began}"


def has_ended(mark: str) -> bool:
    """Whether that process is known to be over: it ran here, and does no more. False where that cannot be known."""
    machine, process, began = ["", "", *mark.rsplit(":", 2)][-3:]
    if not machine or machine != _machine() or not process.isdigit():
        return False
    try:
        fields = _fields(int(process))
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
    return fields[_BEGAN] != began or fields[_STATE] in _DEAD


def _machine() -> str:
    """Return what tells this boot and its process ids from any other; empty where that is not known."""
    try:
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}:{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _fields(process: int) -> list[str]:
    return (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
