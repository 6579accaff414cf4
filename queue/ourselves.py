"""Whether an address in DNS is this host's own, under whatever name it stands there (RFC 5321 §5.1)."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from accounts.networks import IPNetwork, is_in

_DISCARD = 9  # any port would do


def is_this_host(address: str, named: Iterable[IPNetwork], listens_on: str) -> bool:
    """Say whether mail sent to this literal address comes back to our own listener.

    `named`: where others reach it, by the operator's word. `listens_on`: the address that it listens on, if that is on
    the port which mail is sent to; empty where it is not, for whoever answers there then is somebody else.
    """
    if is_in(address, named):
        return True
    try:
        here, there = ipaddress.ip_address(listens_on), ipaddress.ip_address(address)
    except ValueError:
        return False
    if not here.is_unspecified:
        return here == there
    return here.version == there.version and _is_of_this_machine(address)


def _is_of_this_machine(address: str) -> bool:
    """Ask the kernel for the way there, which sends nothing: that to an address of its own begins where it ends.

    Asked anew each time, for addresses come and go. To bind to the address would not do: where
    `net.ipv4.ip_nonlocal_bind` is set, that works with any.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _DISCARD))
            own: str = probe.getsockname()[0]
    except OSError:
        return False
    return ipaddress.ip_address(own) == ipaddress.ip_address(address)
