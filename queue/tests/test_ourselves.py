from __future__ import annotations

import ipaddress
import socket

import pytest

from queue.ourselves import is_this_host

NAMED = (ipaddress.ip_network("192.0.2.1"), ipaddress.ip_network("2001:db8::/64"))


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [("192.0.2.1", True), ("::ffff:192.0.2.1", True), ("2001:db8::7", True), ("192.0.2.2", False), ("x", False)],
)
def test_an_address_that_the_operator_named_is_ours(address: str, is_ours: bool) -> None:
    assert is_this_host(address, NAMED, "") == is_ours


@pytest.mark.parametrize(
    ("listens_on", "address", "is_ours"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "192.0.2.1", False),
        ("0.0.0.0", "224.0.0.1", False),
        ("0.0.0.0", "255.255.255.255", False),
        ("0.0.0.0", "::1", False),  # a socket of one family takes none of the other
        ("::", "127.0.0.1", False),
        ("::", "2001:db8::1", False),
        ("", "127.0.0.1", False),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_what_our_listener_is_reached_at_is_ours(listens_on: str, address: str, is_ours: bool) -> None:
    assert is_this_host(address, (), listens_on) == is_ours


def test_so_is_each_address_of_the_machine_where_it_listens_on_all() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # no packet is sent
        except OSError:
            pytest.skip("this machine has no network but loopback")
        address = probe.getsockname()[0]
    assert is_this_host(address, (), "0.0.0.0")
