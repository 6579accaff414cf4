"""Which TCP ports can be had, and how addresses are written."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  (not bound here: where to reach it)
_NOT_EPHEMERAL = range(20_000, 32_000)  # Linux takes the ports of outgoing connections from 32768 on
_TRIES = 20
_CHANCE = random.SystemRandom()  # two processes that begin alike must not choose alike


def is_free(host: str, port: int) -> bool:
    """Whether a listener could bind the address now; a name that does not resolve is not free either."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError:
        return False
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago, and that no outgoing connection is given meanwhile, if there is one."""
    for port in _CHANCE.sample(_NOT_EPHEMERAL, _TRIES):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def written(host: str, port: int) -> str:
    """Write an address as `host:port`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """Return the address at which a listener bound to `host` answers on this machine."""
    return _ANY.get(host, host)


def web_addresses(host: str, main: int, extra: Iterable[int], warn: Callable[[str], None]) -> list[str]:
    """Return what the web server binds: the main port always, extra ports only while nobody else has them."""
    wanted = [written(host, main)]
    for port in extra:
        if port == main:
            continue
        if is_free(host, port):
            wanted.append(written(host, port))
        else:
            warn(f"HTTP_EXTRA_PORTS: {written(host, port)} is in use by another program and is left out.")
    return wanted
