"""Ties a child process to its parent: when the parent dies, however it dies, the kernel ends the child.

`PR_SET_PDEATHSIG` (Linux, prctl(2)) belongs to the parent's *thread* that forked, so processes are started from the
main thread only. Elsewhere than on Linux this does nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Loaded here: between fork and exec a child must not load libraries.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies; end at once if that has happened already."""
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def ends_with_this_process() -> Callable[[], None]:
    """Return a `preexec_fn` for children of the calling process."""
    parent = os.getpid()
    return lambda: end_with(parent)
