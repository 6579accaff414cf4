"""Ports for what a test starts on a port that it must name beforehand."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_NOT_EPHEMERAL = range(20_000, 32_000)
_CHANCE = random.SystemRandom()  # test processes that begin alike must not choose alike


def free_port() -> int:
    """Return a port of loopback that was free a moment ago, and that no outgoing connection is given meanwhile.

    As in `mailproj.ports`, which may not be imported here.
    """
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = _CHANCE.choice(_NOT_EPHEMERAL)
            probe.bind(("127.0.0.1", port))
            return port
